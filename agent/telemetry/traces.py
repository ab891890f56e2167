"""Traces, as the agent's own code sees them: the span that is open here, and what to send on with a request.

No tracing library is imported. Where no journey was begun nothing is current, and each call here is one look
at a variable: that is all that tracing costs while it is off.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from agent.core.errors import AgentError
from agent.core.redact import redact

Value = str | int | float | bool
_LONGEST = 1024


class Span(Protocol):
    """A stretch of work that is being timed. Quick; raises nothing; on any thread."""

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells another program that its work is a part of this (W3C trace context)."""
        ...

    def child(self, name: str, attributes: Mapping[str, Value]) -> "Span":
        """Begin a part of this."""
        ...

    def set(self, name: str, value: Value) -> None:
        """Note what is known of it; names are the provider's to make unique."""
        ...

    def note(self, name: str, attributes: Mapping[str, Value]) -> None:
        """Note that something happened now."""
        ...

    def end(self, failure: str | None = None) -> None:
        """End it; with *failure* as failed, in these words."""
        ...


class Tracer(Protocol):
    """Begins traces; made by a provider that the wiring chooses."""

    def begin(self, name: str, attributes: Mapping[str, Value], linked: Span | None) -> Span:
        """Begin a trace; *linked* is what it goes on from."""
        ...


class _Nothing:
    """The span that is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def set(self, name: str, value: Value) -> None:
        """Note nothing."""


NOTHING = _Nothing()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)


class _Open:
    """A span for the time of a `with`; an error that leaves it is told by its reason, with no traceback."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = _CURRENT.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._token)
        if error is None:
            self._span.end()
        elif isinstance(error, Exception):
            self._span.end(failure_words(error))
        else:  # nobody wants it any more
            self._span.set("cancelled", True)  # noqa: FBT003 - a value
            self._span.end()


def span(name: str, **attributes: Value) -> _Open | _Nothing:
    """Time a `with` as a part of what is current; what is done in it is a part of it in turn."""
    current = _CURRENT.get()
    return NOTHING if current is None else _Open(current.child(name, attributes))


def outgoing() -> Mapping[str, str]:
    """Return the headers to send with a request that belongs to what is current; none where nothing is."""
    current = _CURRENT.get()
    return _NO_HEADERS if current is None else current.headers


def trace_id() -> str | None:
    """Return the trace that is current."""
    current = _CURRENT.get()
    return None if current is None else current.trace_id


@contextmanager
def within(current: Span) -> Iterator[None]:
    """Make *current* what is current; it goes on afterwards."""
    token = _CURRENT.set(current)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def failure_words(error: Exception) -> str:
    """Return why something failed: reason and message without secrets; of a bug no more than its kind."""
    if isinstance(error, AgentError):
        return told(error.reason, error.message)
    return f"InternalError: {type(error).__name__}"


def told(reason: str, message: str | None) -> str:
    """Return reason and message as a trace may hold them."""
    return redact(f"{reason}: {message}" if message else reason)[:_LONGEST]
