"""Spans that only remember."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.telemetry.traces import Span, Value


@dataclass
class FakeSpan:
    name: str
    attributes: dict[str, Value]
    trace_id: str
    parent: "FakeSpan | None" = None
    linked: Span | None = None
    children: list["FakeSpan"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ended: int = 0
    failure: str | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.name}"}

    def child(self, name: str, attributes: Mapping[str, Value]) -> "FakeSpan":
        self.children.append(FakeSpan(name, dict(attributes), self.trace_id, self))
        return self.children[-1]

    def set(self, name: str, value: Value) -> None:
        self.attributes[name] = value

    def note(self, name: str, attributes: Mapping[str, Value]) -> None:
        self.notes.append(name)

    def end(self, failure: str | None = None) -> None:
        self.ended += 1
        self.failure = failure


class FakeTracer:
    """Keeps what it began."""

    def __init__(self) -> None:
        self.begun: list[FakeSpan] = []

    def begin(self, name: str, attributes: Mapping[str, Value], linked: Span | None = None) -> FakeSpan:
        self.begun.append(FakeSpan(name, dict(attributes), f"{len(self.begun):032x}", linked=linked))
        return self.begun[-1]
