"""The same promises on real model servers, each proved by what a model answers.

The answers are numbers: a model of version 7 answers 7.
"""

import os
import signal

import pytest

from tests.e2e.agent_process import until
from tests.e2e.neighbours import Relay, kept_up
from tests.e2e.real_pod import pod

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

SERVERS = pytest.mark.parametrize(
    ("name", "beside"),
    [("mlserver", False), ("kserve", False), ("kserve", True), ("triton", True)],
    ids=["mlserver", "kserve-drop-in", "kserve-store-beside", "triton"],
)


@SERVERS
async def test_a_life_with_a_real_server(tmp_path, name, beside):
    """One server process for the whole story, since each takes seconds to start."""
    async with pod(tmp_path, name, beside=beside) as it:
        rig = it.rig

        # a cold start, with a corrupt model beside good ones
        it.want(a=1, b=2, bad=None)
        await rig.agent.wait(
            lambda status: status.done == {"a", "b"} and status.reason("bad") == "LoadRejected", 60
        )
        assert [await it.answers(model) for model in ("a", "b", "bad")] == [1, 2, None]
        assert {"a", "b"} <= rig.directories()
        assert "bad" not in rig.directories()

        # an update, and one that is refused
        it.want(a=3, b=2)
        await rig.settled("a", "b", seconds=60)
        assert await it.answers("a") == 3
        it.want(a=None, b=2)
        status = await rig.agent.wait(lambda status: status.reason("a") == "LoadRejected", 60)
        assert status.ready == {"a", "b"}
        assert await it.answers("a") == 3

        # one removed
        it.want(a=3)
        await rig.settled("a", seconds=60)
        assert await it.answers("b") is None
        assert rig.directories() == {"a"}

        # the agent restarts: no load, no unload
        it.want(a=3, c=4)
        await rig.settled("a", "c", seconds=60)
        async with Relay(rig.server.url).serving() as relay:
            rig.agent.flags["server-url"] = relay.url
            await rig.agent.restart(kill=True)
            await rig.settled("a", "c")
            assert relay.orders == []
            it.want(c=4)
            await rig.settled("c")
            assert relay.orders == ["a/unload"], "the relay does count"
            rig.agent.flags["server-url"] = rig.server.url
            await rig.agent.terminate()
        it.want(a=3, c=4)
        await rig.agent.start()
        await rig.settled("a", "c")

        # the server is killed and comes back
        await rig.server.kill()
        await rig.agent.wait(lambda status: not status.ready, 30)
        await rig.server.start()
        await it.answer("a", 3, seconds=5)
        await it.answer("c", 4, seconds=5)
        await rig.settled("a", "c", seconds=30)

        # both are
        await rig.agent.kill()
        await rig.server.restart(wait=False)
        await rig.agent.start()
        await rig.server.healthy()
        await it.answer("a", 3)
        await it.answer("c", 4)


@pytest.mark.parametrize("beside", [False, True], ids=["drop-in", "store-beside"])
async def test_kserves_server_never_ends_at_its_start_because_of_the_agent(tmp_path, beside):
    """It loads each folder that it finds, hidden ones too, and ends if one is bad."""
    async with pod(tmp_path, "kserve", beside=beside) as it:
        rig = it.rig
        it.want(a=1, bad=None)
        await rig.agent.wait(
            lambda status: status.done == {"a"} and status.reason("bad") == "LoadRejected", 60
        )
        async with kept_up(rig.server) as codes:
            for kills, answer in enumerate((2, None, 3), start=1):
                it.want(a=answer, b=4, bad=None)
                await rig.agent.wait(lambda status: "b" in status.done, 60)
                os.killpg(rig.server.pid, signal.SIGKILL)
                await until(lambda kills=kills: len(codes) == kills and rig.server.running)
                await rig.server.healthy()
            await it.answer("a", 3)
            await it.answer("b", 4)
            assert codes == [-signal.SIGKILL] * 3, "it ended when it was killed, and never by itself"
