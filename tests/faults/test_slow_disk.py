"""Fault D8: a disk that takes 0.4 s for each operation slows models down, never the probes (R11)."""

import asyncio
import statistics
import subprocess
import time
from contextlib import contextmanager

from tests.e2e.rig import started

SLOW = "fsync,fdatasync,ftruncate,fallocate,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"


@contextmanager
def slowed(pid: int):
    """Every such call of the process takes 0.4 s longer, on whichever thread it is made."""
    command = ["strace", "-qq", "-f", "-p", str(pid), "-e", f"trace={SLOW}", "-o", "/dev/null"]
    tracer = subprocess.Popen([*command, "-e", f"inject={SLOW}:delay_enter=400000"])
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


async def test_probes_answer_while_the_disk_takes_its_time(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", b"1" * 100_000)
        rig.want(a="one")
        await rig.settled("a")
        with slowed(rig.agent.pid):
            rig.put("two", b"2" * 100_000)
            rig.want(a="two", b="two")
            waiting = asyncio.create_task(rig.settled("a", "b", seconds=90))
            seconds = []
            while not waiting.done():
                began = time.monotonic()
                assert await rig.agent.get("/healthz") == (200, "ok\n")
                seconds.append(time.monotonic() - began)
                await asyncio.sleep(0.02)
            await waiting
        assert len(seconds) > 20, "the disk was not slow at all"
        assert statistics.quantiles(seconds, n=20)[-1] < 0.2, "aim 0.1 s on a quiet machine"
