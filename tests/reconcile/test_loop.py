"""The loop over a world in memory, on a simulated clock: an hour costs a tenth of a second."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from agent.aio.wakeup import Wakeup
from agent.core.errors import RetryableError, TerminalError
from agent.core.model import DesiredState, ModelName, ModelSpec, Revision
from agent.core.plan import Rules
from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.reconcile.loop import Clock, Limits, Outlook, Reconciler
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from tests.fakes.memory_world import MemoryWorld

A, B = ModelName("a"), ModelName("b")
ONE, TWO = "s3://b/one", "s3://b/two"
OLD, NEW = Revision("0001"), Revision("0002")

pytestmark = pytest.mark.looptime(start=1000.0)


def wanted(**models: str) -> DesiredState:
    return DesiredState({ModelName(name): ModelSpec(uri, "sklearn", 1) for name, uri in models.items()})


@asynccontextmanager
async def reconciling(world: MemoryWorld, limits: Limits | None = None, rules: Rules | None = None, now=None):
    loop = asyncio.get_running_loop()
    now = now or loop.time
    board = Board(ConfigWord("/mnt/configs/models.json"), ServerWord("http://server"), MemoryWord())
    clock = Clock(now=now, wall=loop.time, draw=lambda: 0.5)
    reconciler = Reconciler(world, board, rules or Rules(), limits or Limits(), clock, Wakeup())
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler, board
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_model_goes_from_the_document_to_ready():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(2.1)
    assert (board.models[A].phase, board.models[A].ready) == (Phase.READY, True)
    assert (board.models[A].served_revision, board.models[A].reason) == (OLD, None)


async def test_a_download_that_fails_is_tried_again_and_again_until_it_succeeds():
    world = MemoryWorld({ONE: OLD}, {ONE: RetryableError(Reason.STORAGE_UNAVAILABLE, "503")})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(1.1)
        failed = board.models[A]
        assert (failed.phase, failed.reason, failed.attempts) == (Phase.FAILED, Reason.STORAGE_UNAVAILABLE, 1)
        assert failed.next_retry == pytest.approx(1001.5)
        await asyncio.sleep(600)
        assert 15 < world.calls["Fetch", A] < 40
        del world.fetch_faults[ONE]
        await asyncio.sleep(65)
    assert board.models[A].ready


async def test_one_failing_model_delays_no_other():
    world = MemoryWorld({TWO: OLD}, {ONE: RetryableError(Reason.STORAGE_UNAVAILABLE, "503")})
    async with reconciling(world, Limits(downloads=2)) as (reconciler, board):
        reconciler.want(wanted(a=ONE, b=TWO))
        await asyncio.sleep(2.1)
        assert board.models[B].ready


async def test_a_refused_update_leaves_the_old_revision_serving_and_says_so():
    world = MemoryWorld({ONE: OLD, TWO: NEW}, bad_revisions={NEW})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
        reconciler.want(wanted(a=TWO))
        await asyncio.sleep(3)
        status = board.models[A]
        assert (status.ready, status.served_revision, status.revision) == (True, OLD, NEW)
        assert (status.phase, status.reason) == (Phase.FAILED, Reason.LOAD_REJECTED)
        assert "keeps serving" in status.message
        assert world.calls["Unload", A] == 0


async def test_going_back_to_the_first_uri_downloads_nothing():
    world = MemoryWorld({ONE: OLD, TWO: NEW})
    async with reconciling(world) as (reconciler, board):
        for uri in (ONE, TWO, ONE):
            reconciler.want(wanted(a=uri))
            await asyncio.sleep(3)
    assert world.calls["Fetch", A] == 2
    assert board.models[A].served_revision == OLD


async def test_fifty_edits_in_a_second_end_in_the_last():
    world = MemoryWorld({f"s3://b/{i}": Revision(f"r{i}") for i in range(50)})
    async with reconciling(world) as (reconciler, board):
        for i in range(50):
            reconciler.want(wanted(a=f"s3://b/{i}"))
            await asyncio.sleep(0.02)
        await asyncio.sleep(3)
    assert board.models[A].served_revision == "r49"
    assert len(world.stored) == 1


async def test_a_server_that_lost_its_models_gets_them_again_with_no_download():
    world = MemoryWorld({ONE: OLD, TWO: NEW})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE, b=TWO))
        await asyncio.sleep(5)
        fetched = world.calls["Fetch", A], world.calls["Fetch", B]
        world.restart_server()
        reconciler.wakeup.ring()
        await asyncio.sleep(2.5)
        assert board.models[A].ready
        assert board.models[B].ready
        assert (world.calls["Fetch", A], world.calls["Fetch", B]) == fetched


async def test_an_agent_that_finds_everything_in_order_does_nothing():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world) as (reconciler, _):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
    world.calls.clear()
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3600)
        assert board.models[A].ready
    assert not world.calls


async def test_a_model_nobody_wants_any_more_is_unloaded_and_leaves_the_board():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
        reconciler.want(wanted())
        await asyncio.sleep(0.5)
        assert board.models[A].phase is Phase.UNLOADING
        await asyncio.sleep(1)
        assert not board.models
    assert not world.loaded


async def test_a_download_nobody_wants_any_more_is_stopped_at_once():
    world = MemoryWorld({ONE: OLD}, fetch_seconds=3600.0)
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(1)
        reconciler.want(wanted())
        await asyncio.sleep(0.1)
        assert not world.running
        assert not board.models


async def test_many_models_keep_within_slots_and_budget():
    world = MemoryWorld(
        {f"s3://b/{i}": Revision(f"r{i}") for i in range(30)}, budget_bytes=20, server_slots=3
    )
    async with reconciling(world, Limits(downloads=4), Rules(20)) as (reconciler, board):
        reconciler.want(wanted(**{f"m{i:02}": f"s3://b/{i}" for i in range(30)}))
        await asyncio.sleep(60)
        assert sum(status.ready for status in board.models.values()) == 20
        short = [status for status in board.models.values() if status.reason is Reason.MEMORY_BUDGET_EXCEEDED]
        assert len(short) == 10
        assert all("20 B" in status.message for status in short)
    assert (world.peak["Fetch"], world.peak["Load"]) == (4, 3)


async def test_no_model_is_called_up_to_date_with_a_document_that_is_over():
    world = MemoryWorld({ONE: OLD, TWO: NEW})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE, b=ONE))
        await asyncio.sleep(5)
        reconciler.want(wanted(a=TWO))
        assert (board.models[A].reason, board.models[A].ready) == (Reason.QUEUED, True)
        assert board.models[B].reason is Reason.UNLOADING
        await asyncio.sleep(5)
        reconciler.want(wanted(a=ONE))
        assert board.models[A].spec.storage_uri == ONE
        assert board.models[A].served_revision == NEW


async def test_a_fault_of_the_agent_itself_stays_with_its_model(caplog):
    world = MemoryWorld({TWO: OLD}, {ONE: ZeroDivisionError("a bug")})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE, b=TWO))
        await asyncio.sleep(5)
        assert board.models[A].reason is Reason.INTERNAL_ERROR
        assert board.models[B].ready
    assert "ZeroDivisionError" in caplog.text


async def test_a_resync_lists_the_storage_again_and_takes_new_bytes_under_the_same_uri():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
        world.content[ONE] = NEW
        await asyncio.sleep(3600)
        assert board.models[A].served_revision == OLD
        reconciler.resync()
        await asyncio.sleep(3)
        assert board.models[A].served_revision == NEW


async def test_with_a_refresh_interval_new_bytes_are_found_by_themselves():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world, Limits(refresh_seconds=60)) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
        world.content[ONE] = NEW
        await asyncio.sleep(100)
        assert board.models[A].served_revision == NEW


async def test_thousands_of_models_become_ready():
    world = MemoryWorld({f"s3://b/{i}": Revision(f"r{i}") for i in range(2000)}, server_slots=8)
    world.fetch_seconds = world.load_seconds = 0.01
    async with reconciling(world, Limits(downloads=16)) as (reconciler, board):
        reconciler.want(wanted(**{f"m{i:05}": f"s3://b/{i}" for i in range(2000)}))
        await asyncio.sleep(60)
        assert sum(status.ready for status in board.models.values()) == 2000
    assert world.glances >= 2 * 2 * 2000
    assert world.observations < 2000, "all of them are read for a plan, not for each action"


class SlowClock:
    """A clock on which every look costs a millisecond, so that a plan has a duration; counts the looks."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return asyncio.get_running_loop().time() + self.looks / 1000


async def test_a_ring_while_planning_is_not_due_is_planned_as_soon_as_it_is():
    world = MemoryWorld({ONE: OLD, TWO: NEW}, fetch_seconds=0.003, load_seconds=0.003)
    async with reconciling(world, now=SlowClock()) as (reconciler, board):
        for round_ in range(40):
            reconciler.want(wanted(a=(ONE, TWO)[round_ % 2]))
            await asyncio.sleep(0.1 + round_ / 997)
            assert board.models[A].served_revision == (OLD, NEW)[round_ % 2]


async def test_nothing_to_do_costs_no_planning():
    world, clock = MemoryWorld({ONE: OLD}), SlowClock()
    async with reconciling(world, now=clock) as (reconciler, _):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(5)
        before = clock.looks
        await asyncio.sleep(300)
        assert clock.looks - before < 200


async def test_nothing_is_settled_while_a_removal_waits_for_a_server_that_is_down_or_refused_it():
    world = MemoryWorld({ONE: OLD})
    async with reconciling(world) as (reconciler, _):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(3)
        world.server_up = False
        reconciler.want(wanted())
        await asyncio.sleep(3)
        assert reconciler.outlook() is Outlook.WORKING
        world.server_up, world.unload_faults[A] = True, RetryableError(Reason.UNLOAD_FAILED, "in use")
        reconciler.wakeup.ring()
        await asyncio.sleep(5)
        assert world.calls["Unload", A] > 1
        assert reconciler.outlook() is Outlook.WORKING
        world.unload_faults[A] = TerminalError(Reason.LOAD_NOT_SUPPORTED, "no such route")
        await asyncio.sleep(70)
        assert reconciler.outlook() is Outlook.STUCK
        world.unload_faults.clear()
        await asyncio.sleep(301)
        assert reconciler.outlook() is Outlook.SETTLED


async def test_what_failed_when_nobody_wanted_it_any_more_is_tried_at_once_when_it_is_wanted_again():
    world = MemoryWorld({ONE: OLD}, bad_revisions={OLD})
    async with reconciling(world) as (reconciler, board):
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(1.5)
        assert world.running
        reconciler.want(wanted())
        await asyncio.sleep(5)
        world.bad_revisions.clear()
        reconciler.want(wanted(a=ONE))
        await asyncio.sleep(1.1)
        assert board.models[A].ready


async def test_no_restart_of_the_agent_gives_a_model_in_quarantine_another_chance_at_once():
    world = MemoryWorld({ONE: OLD}, poison={OLD})
    for crashes in (3, 3, 4):
        async with reconciling(world) as (reconciler, board):
            reconciler.want(wanted(a=ONE))
            await asyncio.sleep(60 if crashes == 3 else 310)
            assert world.calls["Load", A] == crashes
            assert (board.models[A].reason, board.models[A].ready) == (Reason.SERVER_CRASHED, False)
