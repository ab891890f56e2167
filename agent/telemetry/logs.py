"""Logs on stderr: one event a line, JSON where a machine reads, coloured text where a person does.

No value reaches the stream with a secret in it or with a character that could forge a line (law 10, X8).
An event that repeats is said once a minute, with how often. No log call raises into whoever made it.
"""

import collections
import datetime as dt
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from agent.core.redact import HIDDEN, harmless, is_secret_name, redact
from agent.telemetry.traces import trace_id

STABLE = ("ts", "level", "logger", "msg")
"""The fields of every line, in this order; those of `extra` follow. `message_` is shown as `message`."""

REPEAT_SECONDS = 60.0
_MAX_KEYS = 2000
_MAX_TEXT = 8 * 1024
_MAX_TRACEBACK = 32 * 1024
_MAX_ITEMS = 100
_MAX_DEPTH = 4
_FREE_WORDS = frozenset({"message_", "error", "advice", "stderr", "trace_id"})
_OURS = "agent"
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str, form: str, stream: TextIO, *, color: bool = True) -> None:
    """Log to *stream* from now on, in place of what was configured before.

    `level` is the least level of our own loggers; libraries are heard from warning on, since what they
    say at debug holds headers and signed URLs. `form`: json, text, or auto, which is text on a terminal.
    Colours only on a terminal, and not where *color* is false (NO_COLOR).
    """
    terminal = stream.isatty()
    as_text = form == "text" or (form == "auto" and terminal)
    handler = LineHandler(stream)
    handler.setFormatter(TextFormatter(color=color and terminal) if as_text else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, _number(level)))
    logging.getLogger(_OURS).setLevel(_number(level))
    logging.captureWarnings(capture=True)


Later = Callable[[float, Callable[[], None]], Callable[[], None]]
"""Calls something after so many seconds, on any thread; returns how to stop that."""


def in_a_thread(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """Do *call* after *seconds*, where there may be no event loop; holds up no exit."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer.cancel


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream, those that repeat once a minute; what was counted also if all is quiet."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, later: Later = in_a_thread
    ) -> None:
        super().__init__(stream)
        self._clock, self._later = clock, later
        self._repeats = Repeats()
        self._stop_timer: Callable[[], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it; write what was counted a minute ago."""
        if (trace := trace_id()) is not None and not hasattr(record, "trace_id"):
            record.trace_id = trace
        now = self._clock()
        for each in self._repeats.pass_on(record, now):
            super().emit(each)
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self._stop_timer is None and (due := self._repeats.next_due()) is not None:
            self._stop_timer = self._later(max(due - now, 0.0), self._rung)

    def _rung(self) -> None:
        self.acquire()
        try:
            if self._stop_timer is None:  # closed meanwhile
                return
            self._stop_timer = None
            now = self._clock()
            for each in self._repeats.due(now):
                super().emit(each)
            self._arm(now)
        finally:
            self.release()

    def flush(self) -> None:
        """Flush the stream; one that is closed or broken is nobody's concern any more."""
        try:
            super().flush()
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """Write what was counted and not said."""
        self.acquire()
        try:
            if self._stop_timer is not None:
                self._stop_timer()
                self._stop_timer = None
            for each in self._repeats.drain():
                super().emit(each)
        finally:
            self.release()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        """Lose a line rather than write a traceback to a stream that just failed."""


@dataclass(slots=True)
class _Said:
    """When a key was first said in its minute, how often since, and the last record of them."""

    since: float
    said: int
    unsaid: int
    record: logging.LogRecord


class Repeats:
    """Counts records of equal key within a minute, in bounded memory.

    The key: logger, level, text and the identifying fields (model, reason, …), not free words or numbers.
    A warning is said once a minute, anything less at most `QUIET_BURST` times.
    """

    QUIET_BURST = 20

    def __init__(self) -> None:
        self._keys: collections.OrderedDict[object, _Said] = collections.OrderedDict()
        self._counted: dict[object, float] = {}  # since when, of those that have a sum

    def pass_on(self, record: logging.LogRecord, now: float) -> list[logging.LogRecord]:
        """Return what to write now: sums that are due, and *record* unless it only counts."""
        due = self.due(now)
        key = _key(record)
        known = self._keys.get(key)
        if known is None:
            self._keys[key] = _Said(now, 1, 0, record)
            return [*due, record]
        if record.levelno < logging.WARNING and known.said < self.QUIET_BURST:
            known.said += 1
            return [*due, record]
        known.unsaid += 1
        known.record = record
        self._counted[key] = known.since
        return due

    def drain(self) -> list[logging.LogRecord]:
        """Return the sums of everything that was counted."""
        return self.due(math.inf)

    def next_due(self) -> float | None:
        """Return when the first sum is due, None where nothing was counted."""
        return min(self._counted.values()) + REPEAT_SECONDS if self._counted else None

    def due(self, now: float) -> list[logging.LogRecord]:
        """Forget what is a minute old, or too much to remember; return the records that stand for it."""
        due = []
        while self._keys:
            first = next(iter(self._keys.values()))
            if now - first.since < REPEAT_SECONDS and len(self._keys) < _MAX_KEYS:
                break
            key, old = self._keys.popitem(last=False)
            self._counted.pop(key, None)
            if old.unsaid:
                old.record.repeated = old.unsaid
                due.append(old.record)
        return due


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        return json.dumps(self.fields(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the stable fields, then those of `extra`, then a traceback if there is one."""
        fields: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": clean(_words(record)),
        }
        for name, value in vars(record).items():
            if name not in _ORDINARY:
                shown = clean(name.removesuffix("_"))
                fields[f"{shown}_" if shown in STABLE else shown] = _value(value, name)
        if record.exc_info:
            fields["exception"] = clean(self.formatException(record.exc_info), _MAX_TRACEBACK)
        if record.stack_info:
            fields["stack"] = clean(record.stack_info, _MAX_TRACEBACK)
        return fields


class TextFormatter(JsonFormatter):
    """The same for people: time, level, text, then the fields; a traceback on lines of its own."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields = self.fields(record)
        traceback = fields.pop("exception", "") or fields.pop("stack", "")
        moment, level, logger, text = (fields.pop(name) for name in STABLE)
        rest = "".join(f"  {self._painted('2', name + '=')}{_shown(value)}" for name, value in fields.items())
        start = f"{self._painted('2', moment[11:23])} {self._painted(_COLOURS.get(level, '0'), f'{level:7}')}"
        line = f"{start} {text}{rest}  {self._painted('2', logger)}"
        return "\n    ".join([line, *traceback.split("\\n")]) if traceback else line

    def _painted(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._color else text


def clean(text: str, limit: int = _MAX_TEXT) -> str:
    """Return *text* without secrets, on one line, at most *limit* characters of it and a mark."""
    shown = harmless(redact(text[: 8 * limit]))
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def _value(value: object, name: str, depth: int = 0) -> Any:
    if is_secret_name(name) and value is not None:
        return HIDDEN
    match value:
        case None | bool():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case Mapping() if depth < _MAX_DEPTH:
            pairs = list(value.items())[:_MAX_ITEMS]
            return {clean(str(key)): _value(each, str(key), depth + 1) for key, each in pairs}
        case Sequence() | set() | frozenset() if not isinstance(value, str | bytes) and depth < _MAX_DEPTH:
            return [_value(each, "", depth + 1) for each in list(value)[:_MAX_ITEMS]]
        case _:
            return clean(str(value))


def _shown(value: object) -> str:
    if isinstance(value, str) and value and not set(value) & set(" \"'="):
        return value
    return json.dumps(value, ensure_ascii=False)


def _key(record: logging.LogRecord) -> object:
    identity = tuple(
        (name, value)
        for name, value in sorted(vars(record).items())
        if name not in _ORDINARY and name not in _FREE_WORDS and isinstance(value, str)
    )
    return (record.name, record.levelno, _words(record), identity)


def _words(record: logging.LogRecord) -> str:
    """Return what the record says; text and arguments side by side where they do not fit each other."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a third party's slip, or its __str__: anything may come of it
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        return f"{text} (a log call with {len(record.args or ())} arguments that do not fit it)"


def _timestamp(created: float) -> str:
    moment = dt.datetime.fromtimestamp(created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
