"""The agent is told to end at any moment, and as its pod ends (faults K2, K14): nothing is lost, no noise."""

import random

import pytest

from tests.bench.endings import NAMES, busy_pod, end_at_random
from tests.e2e.rig import started


@pytest.mark.parametrize(
    "moments", [4, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
async def test_sigterm_at_random_moments_ends_with_0_unloads_nothing_and_goes_on(tmp_path, moments):
    seed = random.SystemRandom().randrange(10**6)
    async with busy_pod(tmp_path) as rig:
        await end_at_random(rig, moments, seed)
        await rig.agent.start()
        await rig.settled(*NAMES)
        assert await rig.unloads() == 0, f"seed {seed}"
    assert "Traceback" not in rig.agent.said(), f"seed {seed}"


async def test_a_server_that_goes_first_is_told_in_a_line_or_two_and_nothing_is_taken_away(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        names = [f"m{number}" for number in range(10)]
        rig.want(**dict.fromkeys(names, "one"))
        await rig.settled(*names)
        said = len(rig.agent.said().splitlines())
        await rig.server.kill()
        await rig.agent.wait(lambda status: not status.ready)
        code, _ = await rig.agent.terminate()
        after = rig.agent.said().splitlines()[said:]
        assert code == 0
        assert rig.directories() == set(names)
        about_models = [line for line in after if "agent.models" in line]
        assert len(after) - len(about_models) <= 3, after
        assert len(about_models) <= len(names), after  # at most one each: that it waits for the server
