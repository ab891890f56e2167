"""Fault B8, law 9: what the agent holds does not grow with time. Slopes over an hour of simulated churn, and
over a real agent's life: ten seconds in make test, five minutes in make soak.
"""

import asyncio
import itertools
import os
import random
import time

import psutil
import pytest

from agent.core.errors import RetryableError, TerminalError
from agent.core.model import DesiredState, ModelName, ModelSpec, Revision
from agent.core.reasons import Reason
from tests.e2e.rig import started
from tests.fakes.memory_world import MemoryWorld
from tests.faults.slopes import growth, slope
from tests.reconcile.test_loop import reconciling

MIB = 1 << 20


def test_a_slope_is_told_from_noise():
    noise = random.Random(1)  # noqa: S311 - a test's dice
    assert slope([(x, 3 * x + noise.random()) for x in range(100)]) == pytest.approx(3, abs=0.1)
    assert abs(growth([(x, 50 + noise.random()) for x in range(100)])) < 1


@pytest.mark.looptime(start=1000.0)
async def test_an_hour_of_churn_leaves_no_more_tasks_and_holds_than_its_beginning():
    """Every minute ten models that never were, some of them nowhere, refused or throttled."""
    world, draw, loop = MemoryWorld(), random.Random(3), asyncio.get_running_loop()  # noqa: S311
    tasks, holds, shown = [], [], []
    async with reconciling(world) as (reconciler, board):
        for turn in range(60):
            models = {}
            for number in range(10):
                name, uri = ModelName(f"m{turn}-{number}"), f"s3://b/{turn}/{number}"
                models[name] = ModelSpec(uri, "sklearn", 1)
                world.content[uri] = Revision(f"r{turn}-{number}")
                match draw.randrange(4):
                    case 0:
                        world.fetch_faults[uri] = RetryableError(Reason.STORAGE_UNAVAILABLE, "503")
                    case 1:
                        world.fetch_faults[uri] = TerminalError(Reason.NOT_FOUND, "404")
                    case 2:
                        world.bad_revisions.add(world.content[uri])
            reconciler.want(DesiredState(models))
            await asyncio.sleep(60)
            now = loop.time()
            tasks.append((now, len(asyncio.all_tasks())))
            holds.append((now, len(reconciler._holds)))
            shown.append((now, len(board.models)))
    for samples in (tasks, holds, shown):
        assert abs(growth(samples)) < 1.5, samples[-5:]
    assert max(count for _, count in holds) <= 20


@pytest.mark.parametrize(
    "seconds", [10, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(420)])]
)
async def test_a_real_agent_does_not_grow(tmp_path, seconds, record_property):
    """Documents follow each other as fast as they become true, with updates, removals and refusals."""
    flags = {"resync-interval": "2s", "refresh-interval": "5s"}
    async with started(tmp_path, flags=flags) as rig:
        for number in range(8):
            rig.put(f"v{number}", b"%d" % number * 100_000)
        agent, samples = psutil.Process(rig.agent.pid), {"rss": [], "fds": [], "threads": [], "disk": []}
        began = time.monotonic()
        for turn in itertools.count():
            models = {f"m{(turn + n) % 12}": f"v{(turn * n) % 8}" for n in range(6)}
            rig.want(**models, nowhere="nowhere")
            await rig.agent.wait(lambda status, models=models: status.done == models.keys())
            now = time.monotonic() - began
            samples["rss"].append((now, agent.memory_info().rss))
            samples["fds"].append((now, agent.num_fds()))
            samples["threads"].append((now, agent.num_threads()))
            samples["disk"].append((now, used(rig.model_dir)))
            if now > seconds:
                break
    grown = {name: growth(each) for name, each in samples.items()}
    record_property("growth", grown)
    print(f"{turn} documents in {now:.0f} s; grown by {grown}")
    assert grown["rss"] < 6 * MIB
    assert grown["fds"] < 3
    assert grown["threads"] < 3
    assert grown["disk"] < MIB


def used(folder):
    """Bytes below the folder; what goes meanwhile is not counted."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118 - quick
            except FileNotFoundError:
                continue
    return total
