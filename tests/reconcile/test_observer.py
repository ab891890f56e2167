"""Who counts is told of each outcome once, with how long it took, and of each plan."""

import asyncio

import pytest

from agent.aio.wakeup import Wakeup
from agent.core.actions import Failed, Succeeded
from agent.core.errors import RetryableError
from agent.core.model import DesiredState, ModelName, ModelSpec, Revision
from agent.core.plan import Rules
from agent.core.reasons import Reason
from agent.reconcile.loop import Clock, Limits, Reconciler
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from tests.fakes.memory_world import MemoryWorld

pytestmark = pytest.mark.looptime(start=1000.0)


class Counting:
    def __init__(self):
        self.outcomes, self.plans = [], 0

    def acted(self, outcome, seconds):
        self.outcomes.append((type(outcome), type(outcome.action).__name__, round(seconds, 3)))

    def planned(self, seconds):
        self.plans += 1


async def test_each_outcome_is_told_once_with_its_time():
    world = MemoryWorld({"s3://b/a": Revision("1")}, {"s3://b/a": RetryableError(Reason.STORAGE_ERROR, "no")})
    loop = asyncio.get_running_loop()
    board = Board(ConfigWord("/models.json"), ServerWord("http://server"), MemoryWord())
    counting = Counting()
    clock = Clock(now=loop.time, wall=loop.time, draw=lambda: 0.5)
    reconciler = Reconciler(world, board, Rules(), Limits(), clock, Wakeup(), counting)
    task = asyncio.create_task(reconciler.run())
    reconciler.want(DesiredState({ModelName("a"): ModelSpec("s3://b/a", "sklearn", 1)}, digest="d"))
    await asyncio.sleep(1.2)
    world.fetch_faults.clear()
    await asyncio.sleep(10)
    task.cancel()
    await asyncio.wait([task])
    assert counting.outcomes == [(Failed, "Fetch", 1.0), (Succeeded, "Fetch", 1.0), (Succeeded, "Load", 1.0)]
    assert counting.plans >= 3
    assert board.config.planned_digest == "d"
