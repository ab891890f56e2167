"""One trace a model's way to Ready: begun when it is not there yet, ended when it is or nobody wants it.

A way that takes longer than an hour is ended and goes on in the next trace, which is linked to it: nothing
that fails for ever keeps a trace open for ever.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from agent.core import uri
from agent.core.model import ModelName, ModelSpec
from agent.core.status import ModelStatus, Phase
from agent.telemetry.traces import Span, Tracer, Value, told, within

LONGEST_SECONDS = 3600.0
SWEEP_SECONDS = 60.0
NAME = "model to Ready"


@dataclass(slots=True)
class _Way:
    """A model that is on its way: for which spec, since when, and how it stood when last heard of."""

    span: Span
    spec: ModelSpec
    began: float
    status: ModelStatus | None = None


class Journeys:
    """Follows the models by what the board says of each. *now* is monotonic seconds; one thread."""

    def __init__(self, tracer: Tracer, now: Callable[[], float]) -> None:
        self._tracer, self._now = tracer, now
        self._ways: dict[ModelName, _Way] = {}

    def follow(self, name: ModelName, status: ModelStatus | None) -> str | None:
        """Take the newest word on a model (None: it is gone); return the trace that this belongs to."""
        way = self._ways.get(name)
        if status is None or status.spec is None:
            return None if way is None else self._end(name, way, "dropped")
        linked: Span | None = None
        if way is not None and way.spec != status.spec:
            self._end(name, way, "superseded")
            linked, way = way.span, None
        if way is None:
            if status.reason is None:
                return None
            way = self._begin(name, status.spec, linked)
        before, way.status = way.status, status
        if status.reason is None:
            return self._end(name, way, "ready")
        if status.phase is Phase.FAILED and (before is None or before.attempts != status.attempts):
            way.span.note("failed", {"failure": told(status.reason, status.message)})
        return way.span.trace_id

    def under_way(self, name: ModelName) -> bool:
        """Say whether a model is on its way."""
        return name in self._ways

    async def keep_short(self) -> None:
        """Go on with a linked trace where one has taken an hour; for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for name, way in [*self._ways.items()]:
                if self._now() - way.began >= LONGEST_SECONDS:
                    self._end(name, way, "unfinished")
                    self._begin(name, way.spec, way.span).status = way.status

    def look_again(self, name: ModelName, spec: ModelSpec) -> Span:
        """Begin the way that a model has to go if its storage turns out to hold new bytes."""
        return self._begin(name, spec, None).span

    def nothing_new(self, name: ModelName, way_of: Span) -> None:
        """End the way of a model whose storage held what it serves, if nothing else was heard of it."""
        way = self._ways.get(name)
        if way is not None and way.span is way_of and way.status is None:
            self._end(name, way, "unchanged")

    def within(self, name: ModelName) -> AbstractContextManager[None]:
        """Make the way of a model what is current; nothing where it is on none."""
        way = self._ways.get(name)
        return nullcontext() if way is None else within(way.span)

    def close(self) -> None:
        """End all that are on their way: the agent stops."""
        for name, way in [*self._ways.items()]:
            self._end(name, way, "agent stopped")

    def _begin(self, name: ModelName, spec: ModelSpec, linked: Span | None) -> _Way:
        attributes: dict[str, Value] = {
            "model": name,
            "uri": uri.redacted(spec.storage_uri),
            "framework": spec.framework,
        }
        span = self._tracer.begin(NAME, attributes, linked)
        way = self._ways[name] = _Way(span, spec, self._now())
        return way

    def _end(self, name: ModelName, way: _Way, outcome: str) -> str:
        del self._ways[name]
        failure, status = None, way.status
        way.span.set("outcome", outcome)
        if status is not None:
            way.span.set("failed_attempts", status.attempts)
            if outcome == "ready" and status.served_revision is not None:
                way.span.set("revision", status.served_revision)
            if outcome == "unfinished" and status.reason is not None:
                failure = told(status.reason, status.message)
        way.span.end(failure)
        return way.span.trace_id
