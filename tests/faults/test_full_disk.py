"""Faults D1 and D6 on the whole agent: the disk takes nothing, and the agent goes on."""

import subprocess
from contextlib import contextmanager

import pytest

from tests.e2e.agent_process import until
from tests.e2e.rig import started


@contextmanager
def refused(pid: int, calls: str, error: str):
    """Each of these system calls of the process fails with *error*, on whichever thread it is made."""
    command = ["strace", "-qq", "-f", "-p", str(pid), "-e", f"trace={calls}", "-o", "/dev/null"]
    tracer = subprocess.Popen([*command, "-e", f"inject={calls}:error={error}"])
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.parametrize(("error", "reason"), [("ENOSPC", "DiskFull"), ("EROFS", "ReadOnlyVolume")])
async def test_an_edit_applies_while_the_disk_takes_nothing_and_is_kept_once_it_does(tmp_path, error, reason):
    async with started(tmp_path, flags={"resync-interval": "0.3s"}) as rig:
        rig.put("one", b"1")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        with refused(rig.agent.pid, "fsync", error):
            await until(lambda: "TracerPid:\t0" not in status_of(rig.agent.pid))
            rig.want(a="one")
            await rig.settled("a")
            await until(lambda: reason in rig.agent.said())
        await until(lambda: "is kept for the next start again" in rig.agent.said())
        assert rig.agent.said().count("cannot be kept for the next start") == 1
        await rig.agent.restart()
        await rig.settled("a")
        assert "Traceback" not in rig.agent.said()


def status_of(pid: int) -> str:
    with open(f"/proc/{pid}/status") as stream:  # noqa: PTH123 - read in one go
        return stream.read()
