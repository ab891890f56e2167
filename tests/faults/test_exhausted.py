"""Faults D7 and K19 on the whole agent: no descriptor or no thread to be had is a reason, and passes."""

import asyncio
import subprocess
from contextlib import asynccontextmanager

import aiohttp

from tests.e2e.agent_process import LOOK_SECONDS, AgentProcess, Status, until
from tests.e2e.rig import started
from tests.servers.real import free_ports

NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
"""A user of no other process: the kernel counts threads by user, and counts none of root's."""
CAPS = "+dac_override,+dac_read_search,+chown,+fowner"  # for the folders of the test, which are root's


class UnprivilegedAgent(AgentProcess):
    """The agent as another user than root."""

    @property
    def command(self) -> list[str]:
        return [*NOBODY, f"--inh-caps={CAPS}", f"--ambient-caps={CAPS}", *super().command]


def limit(pid: int, what: str, most: int | str) -> None:
    """Bound what the process may have from now on; its user may do that."""
    subprocess.run([*NOBODY, "prlimit", f"--pid={pid}", f"--{what}={most}:"], check=True)


@asynccontextmanager
async def asking(agent: AgentProcess):
    """Ask /status by one connection that is kept, since a new one may not be had."""
    async with aiohttp.ClientSession(agent.url) as session:

        async def reason(name: str) -> str | None:
            async with session.get("/status") as answer:
                return Status(await answer.json()).reason(name)

        await reason("")
        yield reason


async def test_an_agent_that_gets_no_thread_says_so_and_goes_on_when_it_does(tmp_path):
    async with started(tmp_path, agent=False) as rig:
        rig.agent.__class__ = UnprivilegedAgent
        await rig.agent.start()
        await until(lambda: "models=0" in rig.agent.said())
        rig.put("one", b"1")
        limit(rig.agent.pid, "nproc", 1)
        rig.want(a="one")
        await rig.agent.wait(lambda status: status.reason("a") == "ResourceExhausted")
        limit(rig.agent.pid, "nproc", 1000)
        await rig.settled("a")
        assert "Traceback" not in rig.agent.said()


async def test_an_agent_that_gets_no_descriptor_says_so_and_goes_on_when_it_does(tmp_path):
    (nobody,) = free_ports(1)
    async with started(tmp_path, agent=False) as rig:
        rig.agent.__class__ = UnprivilegedAgent
        await rig.agent.start()
        rig.put("one", b"1")
        rig.want(a=f"http://127.0.0.1:{nobody}/m")  # each try needs a new socket
        await rig.agent.wait(lambda status: status.reason("a") == "StorageUnavailable")
        async with asking(rig.agent) as reason, asyncio.timeout(20):
            limit(rig.agent.pid, "nofile", 3)
            while await reason("a") != "ResourceExhausted":
                await asyncio.sleep(LOOK_SECONDS)
        limit(rig.agent.pid, "nofile", 1000)
        rig.want(a="one")
        await rig.settled("a")
        assert "Traceback" not in rig.agent.said()
