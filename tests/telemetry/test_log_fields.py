"""The fields of the lines on models: few, stable, and all of them in the README."""

import io
import json
import logging
import re
from dataclasses import replace

from agent.core.model import ModelName
from agent.core.status import Phase
from agent.telemetry.journeys import Journeys
from agent.telemetry.logs import STABLE, JsonFormatter, LineHandler
from tests.fakes.spans import FakeTracer
from tests.readme_tables import README
from tests.web.boards import board_with, failed, moving, ready


def lines_of(*words) -> list[dict]:
    stream = io.StringIO()
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter())
    board, log = board_with(), logging.getLogger("agent.models")
    board.trace = Journeys(FakeTracer(), lambda: 0.0).follow
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        for word in words:
            board.drop(word) if isinstance(word, str) else board.post(word)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        handler.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_readme_names_every_field_of_a_line_on_a_model():
    lines = lines_of(
        moving("m", Phase.DOWNLOADING),
        failed("m"),
        ready("m"),
        replace(ready("m"), spec=None),
        ModelName("m"),
    )
    section = re.search(r"### Logs\n(.*?)\n### ", README.read_text(), re.DOTALL)[1]
    named = set(re.findall(r"`(\w+)`", section))
    assert {field for line in lines for field in line} <= named
    assert set(STABLE) <= named


def test_the_lines_of_one_way_to_ready_have_the_same_trace():
    spec = ready("m").spec
    lines = lines_of(
        replace(moving("m", Phase.DOWNLOADING), spec=spec), replace(failed("m"), spec=spec), ready("m")
    )
    assert [line["msg"] for line in lines] == [
        "model is being downloaded",
        "model failed",
        "model is ready again",
    ]
    assert len({line["trace_id"] for line in lines}) == 1


def test_a_trace_is_no_news_of_its_own_so_that_repeats_stay_repeats():
    handler = LineHandler(stream := io.StringIO())
    handler.setFormatter(JsonFormatter())
    for number in range(5):
        record = logging.getLogger("agent.t").makeRecord(
            "agent.t",
            logging.WARNING,
            "f",
            1,
            "model failed",
            (),
            None,
            extra={"model": "m", "trace_id": f"{number:032x}"},
        )
        handler.emit(record)
    assert len(stream.getvalue().splitlines()) == 1
    handler.close()
