"""What is kept of a model's rendering is kept only while it is true."""

import json
from dataclasses import replace

import pytest

from agent.aio.unixtime import UnixTime
from agent.core.model import Integrity
from agent.web.render import Renderer
from tests.web.boards import board_with, failed


def test_a_next_try_is_told_by_the_clock_as_it_is_set_now():
    wall = [1_000.0]
    board = board_with(failed("m"))
    renderer = Renderer(board, UnixTime(lambda: 0.0, lambda: wall[0]))
    first, again = (renderer.document(["m"]) for _ in range(2))
    wall[0] += 3600
    stepped = renderer.document(["m"])
    assert first == again
    times = [json.loads(raw)["models"][0]["nextRetryTime"] for raw in (first, stepped)]
    assert times == ["2001-09-09T02:03:20.000Z", "2001-09-09T03:03:20.000Z"]


@pytest.mark.parametrize(
    ("integrity", "told"),
    [
        (None, None),
        (Integrity("seen-first", ("md5",)), {"proof": "seen-first", "verified": False, "checksums": ["md5"]}),
        (Integrity("provider", ("md5",)), {"proof": "provider", "verified": True, "checksums": ["md5"]}),
    ],
)
def test_a_model_says_what_speaks_for_its_bytes(integrity, told):
    board = board_with(replace(failed("m"), integrity=integrity))
    renderer = Renderer(board, UnixTime(lambda: 0.0, lambda: 1_000.0))
    assert json.loads(renderer.document(["m"]))["models"][0]["integrity"] == told
