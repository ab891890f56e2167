"""What is told by events of the pod: what changed, once, within bounds, and holding up nothing."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import RetryableError, TerminalError
from agent.core.model import ModelName, Rejection
from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.kube.events import Involved
from agent.reconcile.events import BURST, KEPT, SECONDS_EACH, PodEvents
from agent.reconcile.loop import Clock
from tests.web.boards import board_with, failed, moving, ready

POD = Involved("v1", "Pod", "prod", "pod-7", "uid-7")

pytestmark = pytest.mark.looptime(start=1000.0)


class Told:
    """Takes events; `raises` is raised instead."""

    def __init__(self) -> None:
        self.events, self.raises, self.held = [], None, None

    async def __call__(self, event) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.raises is not None:
            raise self.raises
        self.events.append(event)

    def reasons(self) -> list[str]:
        return [each["reason"] for each in self.events]


@asynccontextmanager
async def telling(board):
    loop, told = asyncio.get_running_loop(), Told()
    events = PodEvents(board, {}, Clock(loop.time, lambda: 1.7e9, lambda: 0.5))
    task = asyncio.create_task(events.tell(POD, told))
    try:
        yield told, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def post(board, *statuses) -> None:
    for status in statuses:
        board.post(status)
        await asyncio.sleep(0.01)


async def test_a_failure_another_reason_and_the_recovery_are_told_and_what_stays_is_not():
    board = board_with()
    async with telling(board) as (told, _):
        again = replace(failed("m"), attempts=9, message="still nothing")
        denied = replace(
            failed("m"), reason=Reason.ACCESS_DENIED, message="no at https://u:c4n4ry@h/x?sig=c4n4ry"
        )
        await post(board, moving("m", Phase.DOWNLOADING), failed("m"), again, moving("m", Phase.DOWNLOADING))
        await post(board, failed("m"), denied, ready("m"), moving("m", Phase.UPDATING), ready("m"))
    assert told.reasons() == ["NotFound", "AccessDenied", "ModelRecovered"]
    first = told.events[0]
    assert first["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "prod",
        "name": "pod-7",
        "uid": "uid-7",
    }
    assert (first["type"], first["message"]) == ("Warning", "m: nothing is there")
    assert told.events[2]["type"] == "Normal"
    assert "c4n4ry" not in str(told.events)


async def test_the_first_ready_is_told_but_not_of_what_serves_since_before_this_start():
    board = board_with()
    async with telling(board) as (told, _):
        await post(board, ready("old"), moving("new", Phase.LOADING), ready("new"))
        await post(board, moving("old", Phase.UPDATING), ready("old"))
    assert [(each["reason"], each["message"]) for each in told.events] == [
        ("ModelReady", "new: the server serves revision abababababab")
    ]


async def test_the_document_is_told_when_it_is_refused_in_force_or_in_force_in_part():
    board = board_with()
    async with telling(board) as (told, _):
        for word in (
            {"applied_digest": "d1" * 32, "accepted": 2},
            {"error": (Reason.CONFIG_REJECTED, "line 1")},
            {"error": (Reason.CONFIG_REJECTED, "line 9")},
            {"applied_digest": "d2" * 32, "error": None,
             "rejected": tuple(Rejection(f"x{n}", Reason.INVALID_MEMORY, "no") for n in range(7))},
            {"digest": "of no concern"},
        ):  # fmt: skip
            board.say(config=replace(board.config, **word))
            await asyncio.sleep(0.01)
    assert told.reasons() == ["ConfigAccepted", "ConfigRejected", "ConfigRejected", "EntriesRejected"]
    assert told.events[3]["message"].endswith("x4 (InvalidMemory) and 2 more")
    assert told.events[1]["metadata"]["name"] == told.events[2]["metadata"]["name"], "one event, counted"


async def test_a_storm_is_told_as_far_as_tokens_go_and_then_by_its_newest_word():
    board, names = board_with(), [f"m{number:04}" for number in range(100)]
    async with telling(board) as (told, _):
        for reason in (Reason.NOT_FOUND, Reason.ACCESS_DENIED):
            await post(board, *[replace(failed(name), reason=reason) for name in names])
        for name in names[50:]:
            board.drop(ModelName(name))
        assert 0 <= len(told.events) - BURST <= 1
        before = len(told.events)
        await asyncio.sleep(10 * SECONDS_EACH)
        assert len(told.events) == before + 10
        assert set(told.reasons()[before + 1 :]) == {"AccessDenied"}, "only the newest word"
        await asyncio.sleep(1000 * SECONDS_EACH)
        assert len({each["message"].partition(":")[0] for each in told.events[before + 1 :]}) <= 50


async def test_many_that_start_well_leave_tokens_for_what_goes_wrong():
    board, names = board_with(), [f"m{number:04}" for number in range(100)]
    async with telling(board) as (told, _):
        await post(board, *[moving(name, Phase.LOADING) for name in names])
        for name in names:
            board.post(ready(name))
        await asyncio.sleep(0.01)
        assert told.reasons() == ["ModelReady"] * (BURST - KEPT)
        await post(board, failed("bad"))
        assert told.reasons()[-1] == "NotFound", "at once"


async def test_what_the_api_server_does_not_take_is_lost_and_nothing_is_tried_again():
    board = board_with()
    async with telling(board) as (told, task):
        told.raises = RetryableError(Reason.API_UNAVAILABLE, "503")
        await post(board, failed("a"))
        told.raises = None
        await asyncio.sleep(3600)
        assert told.events == []
        await post(board, failed("b"))
        assert told.reasons() == ["NotFound"]
        told.raises = TerminalError(Reason.API_REJECTED, "403")
        await post(board, failed("c"))
        assert isinstance(task.exception(), TerminalError)
        await post(board, *[failed(f"m{n}") for n in range(50)])


async def test_an_api_server_that_hangs_holds_up_nothing_and_what_goes_meanwhile_is_forgotten():
    board = board_with()
    async with telling(board) as (told, _):
        told.held = asyncio.Event()
        await post(board, failed("first"))
        for number in range(1000):
            board.post(failed(f"m{number}"))
            board.drop(ModelName(f"m{number}"))
        board.post(failed("stays"))
        told.held.set()
        await asyncio.sleep(0.01)
        assert [each["message"].partition(":")[0] for each in told.events] == ["first", "stays"]


@given(st.lists(st.sampled_from(["failed", "other", "ready", "moving", "gone"]), max_size=20))
def test_no_event_follows_one_that_says_the_same(changes):
    words = {
        "failed": failed("m"),
        "other": replace(failed("m"), reason=Reason.ACCESS_DENIED),
        "ready": ready("m"),
        "moving": moving("m", Phase.UPDATING),
    }

    async def run() -> list[str]:
        board = board_with()
        async with telling(board) as (told, _):
            for change in changes:
                board.drop(ModelName("m")) if change == "gone" else board.post(words[change])
                for _ in range(3):
                    await asyncio.sleep(0)
            return told.reasons()

    reasons = asyncio.run(run())
    if "gone" not in changes:  # what comes back under a name is another model
        assert all(one != two for one, two in itertools.pairwise(reasons))
    assert reasons.count("ModelRecovered") <= changes.count("failed") + changes.count("other")
