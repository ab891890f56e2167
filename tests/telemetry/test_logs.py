"""Lines as people and machines read them: whole, stable, harmless, and not the same one again and again."""

import io
import json
import logging
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.reasons import Reason
from agent.telemetry.logs import JsonFormatter, LineHandler, Repeats, TextFormatter, configure, in_a_thread
from agent.web.render import instant


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before():
    root, ours = logging.getLogger(), logging.getLogger("agent")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before
    logging.captureWarnings(capture=False)
    root.setLevel(before[1])  # clears the cache of levels


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def record(text: str = "model failed", level: int = logging.WARNING, **extra) -> logging.LogRecord:
    return logging.getLogger("agent.t").makeRecord("agent.t", level, "f", 1, text, (), None, extra=extra)


def test_json_lines_have_the_stable_fields_first_and_then_the_extra_ones():
    stream = io.StringIO()
    configure("info", "auto", stream)
    fields = {"model": "m", "reason": Reason.NOT_FOUND, "bytes": 3, "message_": "no such key"}
    logging.getLogger("agent.models").warning("model %s", "failed", extra=fields)
    (line,) = lines(stream)
    assert list(line) == ["ts", "level", "logger", "msg", "model", "reason", "bytes", "message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "warning",
        "logger": "agent.models",
        "msg": "model failed",
        "model": "m",
        "reason": "NotFound",
        "bytes": 3,
        "message": "no such key",
    }


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Australia/Lord_Howe"])
def test_times_are_utc_in_any_zone_and_through_its_summer_time(zone, monkeypatch):
    entry = record()
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for entry.created, said in (
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1793509200.25, "2026-11-01T05:00:00.250Z"),
            (1793512800.25, "2026-11-01T06:00:00.250Z"),  # the hour that New York has twice
        ):
            assert json.loads(JsonFormatter().format(entry))["ts"] == said
            assert instant(entry.created) == said
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_terminal_gets_colours_unless_they_are_not_wanted():
    for color, escapes in ((True, True), (False, False)):
        stream = Terminal()
        configure("info", "auto", stream, color=color)
        logging.getLogger("agent").info("hello", extra={"model": "m"})
        assert ("\x1b[" in stream.getvalue()) is escapes
        assert "hello" in stream.getvalue()


@pytest.mark.parametrize(("form", "stream"), [("json", Terminal()), ("text", io.StringIO())])
def test_a_form_that_is_asked_for_is_used_everywhere_but_colours_need_a_terminal(form, stream):
    configure("info", form, stream)
    logging.getLogger("agent").info("hello", extra={"model": "m"})
    assert stream.getvalue().startswith("{") is (form == "json")
    assert "\x1b[" not in stream.getvalue()


def test_a_line_for_people_reads_in_one_go():
    line = TextFormatter(color=False).format(record(model="m", message_="two words", count=2))
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} warning model failed  model=m  message="two words"  count=2  agent\.t', line
    )


def test_libraries_are_heard_from_warning_on_even_at_debug():
    stream = io.StringIO()
    configure("debug", "json", stream)
    logging.getLogger("botocore.endpoint").debug("Sending http request with headers")
    logging.getLogger("botocore").info("Found credentials")
    logging.getLogger("botocore").warning("slow")
    logging.getLogger("agent.x").debug("ours")
    assert [line["msg"] for line in lines(stream)] == ["slow", "ours"]


def test_configuring_again_replaces_and_does_not_double():
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", first)
    configure("error", "json", second)
    logging.getLogger("agent").warning("a")
    logging.getLogger("agent").error("b")
    assert (first.getvalue(), len(lines(second))) == ("", 1)


TEXT = st.text(st.characters(), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3) | st.sets(st.integers())
    ),
    max_leaves=8,
)
EXTRAS = st.dictionaries(
    st.text("abcdefgh_", min_size=3, max_size=8).filter(lambda name: not name.startswith("_")),
    VALUES,
    max_size=4,
)


@given(TEXT, EXTRAS)
def test_any_record_is_one_line_of_json_with_its_stable_fields(text, extra):
    entry = record("%s", **extra)
    entry.args = (text,)
    line = JsonFormatter().format(entry)
    assert len(line.splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
    fields = json.loads(line)
    assert [fields["level"], fields["logger"]] == ["warning", "agent.t"]
    line.encode()


@given(TEXT, EXTRAS)
def test_any_record_is_one_line_for_people(text, extra):
    entry = record("%s", **extra)
    entry.args = (text,)
    line = TextFormatter(color=False).format(entry)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_forged_lines_and_escapes_stay_inside_their_value():
    """X8: a model server's message with a newline, an ANSI sequence and a bidirectional mark."""
    hostile = 'x\n{"level":"info"}\x1b[2J\u202e\r'
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("agent").warning("rejected", extra={"message_": hostile, "model": "a\nb"})
    (line,) = lines(stream)
    assert line["message"] == 'x\\n{"level":"info"}\\x1b[2J\\u202e\\r'
    assert line["model"] == "a\\nb"


def test_secrets_are_hidden_in_text_fields_nested_values_and_tracebacks():
    stream = io.StringIO()
    configure("info", "json", stream)
    url = "https://user:canary@host/p?X-Amz-Signature=canary"
    try:
        int(f"GET {url} with {{'Authorization': 'Bearer canary'}}")
    except ValueError:
        logging.getLogger("agent").exception(
            "failed for %s",
            url,
            extra={"uri": url, "headers": {"Authorization": "canary", "a": [url]}, "token": "canary"},
        )
    assert "canary" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["uri"] == "https://host/p"
    assert "ValueError" in line["exception"]


def test_fields_that_would_hide_a_stable_one_are_renamed():
    entry = record()
    entry.level = "forged"
    assert json.loads(JsonFormatter().format(entry))["level"] == "warning"
    assert json.loads(JsonFormatter().format(entry))["level_"] == "forged"


def test_endless_values_are_cut():
    line = JsonFormatter().format(record(message_="x" * 10_000_000, many=list(range(10_000))))
    assert len(line) < 20_000


def test_a_traceback_for_people_stands_on_its_own_lines():
    try:
        int("two\nlines")
    except ValueError as error:
        entry = record()
        entry.exc_info = (type(error), error, error.__traceback__)
    shown = TextFormatter(color=False).format(entry).splitlines()
    assert shown[1] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in shown[1:])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


class Timers:
    """Calls that are to be made later: made when the test says so."""

    def __init__(self) -> None:
        self.armed: list[tuple[float, object]] = []

    def __call__(self, seconds, call):
        entry = (seconds, call)
        self.armed.append(entry)
        return lambda: entry in self.armed and self.armed.remove(entry)

    def fire(self) -> None:
        self.armed.pop(0)[1]()


@pytest.fixture
def timers():
    return Timers()


@pytest.fixture
def handler(stream, clock, timers):
    handler = LineHandler(stream, clock, timers)
    handler.setFormatter(JsonFormatter())
    return handler


def test_a_warning_that_repeats_is_said_once_a_minute_with_its_count(handler, stream, clock):
    for clock.now in range(90):
        handler.emit(record(model="m", reason="NotFound", message_=f"try {clock.now}"))
    handler.close()
    said = [(line["message"], line.get("repeated")) for line in lines(stream)]
    assert said == [("try 0", None), ("try 59", 59), ("try 60", None), ("try 89", 29)]


def test_another_model_another_reason_or_another_text_is_another_event(handler, stream):
    for fields in (
        {"model": "a"},
        {"model": "b"},
        {"model": "a", "reason": "X"},
        {"flag": "--a"},
        {"flag": "--b"},
    ):
        handler.emit(record(**fields))
    handler.emit(record("other"))
    assert len(lines(stream)) == 6


def test_numbers_and_free_words_make_no_other_event(handler, stream):
    for number in range(5):
        handler.emit(record(model="m", attempt=number, message_=str(number), error=str(number)))
    assert len(lines(stream)) == 1


def test_what_is_counted_is_told_when_something_else_is_said_a_minute_later(handler, stream, clock):
    handler.emit(record(model="m"))
    handler.emit(record(model="m"))
    clock.now = 61.0
    handler.emit(record("other"))
    assert [(line["msg"], line.get("repeated")) for line in lines(stream)] == [
        ("model failed", None),
        ("model failed", 1),
        ("other", None),
    ]


def test_what_is_counted_is_told_a_minute_later_though_nothing_else_is_said(handler, stream, clock, timers):
    for clock.now in (0.0, 5.0, 10.0):
        handler.emit(record(model="m"))
    ((seconds, _),) = timers.armed
    clock.now = 5.0 + seconds
    timers.fire()
    assert [line.get("repeated") for line in lines(stream)] == [None, 2]
    assert timers.armed == [], "nothing is counted, so nothing is waited for"


def test_each_sum_is_told_in_its_own_time_and_none_after_the_end(handler, stream, clock, timers):
    for clock.now, model in ((0.0, "a"), (1.0, "a"), (20.0, "b"), (21.0, "b")):
        handler.emit(record(model=model))
    clock.now = 60.0
    timers.fire()
    assert [(line["model"], line.get("repeated")) for line in lines(stream)][2:] == [("a", 1)]
    ((seconds, late),) = timers.armed
    assert seconds == 20.0
    handler.close()
    assert timers.armed == []
    late()
    assert [(line["model"], line.get("repeated")) for line in lines(stream)][3:] == [("b", 1)]


def test_the_timer_of_a_real_handler_needs_no_event_loop():
    rung = threading.Event()
    in_a_thread(0.01, rung.set)
    assert rung.wait(10)
    in_a_thread(3600.0, rung.set)()


class Unspeakable:
    def __str__(self) -> str:
        raise OSError("gone")


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("%d", ("a",)), ("%s %s", (1,)), ("no place", (1,)), ("%(x)s", ({"y": 1},)), ("%", (1,)),
        ("%s", (Unspeakable(),)), (Unspeakable(), ()),
    ],
)  # fmt: skip
def test_a_bad_log_call_of_a_library_raises_nothing_and_is_still_a_line(text, args, handler, stream):
    handler.handle(logging.getLogger("library").makeRecord("library", 30, "f", 1, text, args, None))
    (line,) = lines(stream)
    assert "do not fit" in line["msg"]
    assert (str(text) if isinstance(text, str) else "Unspeakable") in line["msg"]


def test_transitions_may_repeat_but_not_without_end(handler, stream):
    for _ in range(1000):
        handler.emit(record("model is ready", logging.INFO, model="m"))
    assert len(lines(stream)) == Repeats.QUIET_BURST


def test_the_memory_of_repeats_is_bounded(clock):
    repeats = Repeats()
    for number in range(10_000):
        assert len(repeats.pass_on(record(model=str(number)), 0.0)) == 1
    assert len(repeats._keys) <= 2000


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(min_value=0, max_value=40)), max_size=60))
def test_no_event_is_lost_each_is_said_or_counted(events):
    repeats, now, passed = Repeats(), 0.0, []
    for model, pause in events:
        now += pause
        passed += repeats.pass_on(record(model=model), now)
    passed += repeats.drain()
    for model in "abc":
        own = [each for each in passed if each.model == model]
        # a record that stands for others is counted by them, not as one itself
        assert sum(getattr(each, "repeated", 1) for each in own) == sum(event[0] == model for event in events)


def test_a_stream_that_broke_raises_nothing(clock):
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    handler = LineHandler(Broken(), clock)
    handler.emit(record())
    handler.flush()
