"""Faults D7 and K19 on the whole agent: no descriptor or no thread to be had is a reason, and passes."""

import asyncio
import resource
import socket
import subprocess
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from tests.e2e.agent_process import AgentProcess, until
from tests.e2e.rig import started

NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
"""A user of no other process: the kernel counts threads by user, and counts none of root's."""
CAPS = "+dac_override,+dac_read_search,+chown,+fowner"  # for the folders of the test, which are root's


class UnprivilegedAgent(AgentProcess):
    """The agent as another user than root."""

    @property
    def command(self) -> list[str]:
        return [*NOBODY, f"--inh-caps={CAPS}", f"--ambient-caps={CAPS}", *super().command]


def most_threads(pid: int, most: int) -> None:
    """Bound how many the process's user may have from now on; its user may do that."""
    subprocess.run([*NOBODY, "prlimit", f"--pid={pid}", f"--nproc={most}:"], check=True)


def watches(pid: int) -> bool:
    """Whether watchfiles has its thread: it ends the whole process where it gets none (not ours to catch)."""
    names = [(task / "comm").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return any(name.startswith("notify-rs") for name in names)


def most_descriptors(pid: int, most: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


async def test_an_agent_that_gets_no_thread_says_so_and_goes_on_when_it_does(tmp_path):
    async with started(tmp_path, agent=False) as rig:
        rig.agent.__class__ = UnprivilegedAgent
        await rig.agent.start()
        await until(lambda: "models=0" in rig.agent.said() and watches(rig.agent.pid))
        rig.put("one", b"1")
        most_threads(rig.agent.pid, 1)
        rig.want(a="one")
        await rig.agent.wait(lambda status: status.reason("a") == "ResourceExhausted")
        most_threads(rig.agent.pid, 1000)
        await rig.settled("a")
        assert "Traceback" not in rig.agent.said()


def descriptors(pid: int) -> list[int]:
    return sorted(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())


@contextmanager
def connections(port: int, count: int):
    """Connections on which nothing is said."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield


@asynccontextmanager
async def without_descriptors(folder):
    """An agent, asked with a token, whose models have taken every descriptor; new connections see it."""
    (folder / "token").write_text("t")
    flags = {"status-token-file": folder / "token", "max-concurrent-downloads": 100}
    async with AsyncExitStack() as stack:
        silence = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        nobody = f"http://127.0.0.1:{silence.getsockname()[1]}"
        rig = await stack.enter_async_context(started(folder, agent=False, flags=flags))
        rig.agent.headers = {"Authorization": "Bearer t"}
        await rig.agent.start()
        rig.put("one", b"1")
        rig.want(a="one")
        await rig.settled("a")
        most_descriptors(rig.agent.pid, descriptors(rig.agent.pid)[-1] + 10)
        rig.want(a="one", **{f"m{number}": f"{nobody}/{number}" for number in range(100)})
        await rig.agent.wait(lambda status: status.reason("m99") == "ResourceExhausted")
        yield rig


async def test_an_agent_that_gets_no_descriptor_says_so_and_goes_on_when_it_does(tmp_path):
    async with without_descriptors(tmp_path) as rig:
        most_descriptors(rig.agent.pid, 1000)
        rig.put("two", b"2")
        rig.want(a="one", b="two")
        await rig.settled("a", "b")
        assert "Traceback" not in rig.agent.said()


async def test_probes_and_status_are_answered_again_and_again_while_there_is_no_descriptor(tmp_path):
    async with without_descriptors(tmp_path) as rig:
        for _ in range(20):
            answers = await asyncio.gather(
                *map(rig.agent.get, ("/healthz", "/readyz", "/status", "/metrics"))
            )
            assert [answer[0] for answer in answers] == [200] * 4
        assert "Traceback" not in rig.agent.said()


async def test_guests_who_say_nothing_keep_no_probe_out_while_there_is_no_descriptor(tmp_path):
    async with without_descriptors(tmp_path) as rig:
        with connections(rig.agent.port, 60):
            assert await rig.agent.get("/healthz") == (200, "ok\n")
            assert (await rig.agent.status()).reason("a") is None
        assert "Traceback" not in rig.agent.said()
