"""Fault D8: a disk that takes its time for each operation slows models down, never the probes (R11)."""

import asyncio

from tests.e2e.rig import started
from tests.faults.tampered import CHANGES, taken_hold_of, tampered

OTHERS = "openat,newfstatat,statx,getdents64,pwrite64,copy_file_range,fchmod,fchmodat,utimensat"


async def test_the_loop_that_answers_probes_waits_for_no_operation_of_the_disk(tmp_path):
    """How soon a probe is answered then depends on no disk; the figure is tests.bench.endings's to tell."""
    async with started(tmp_path) as rig:
        rig.put("one", b"1" * 100_000)
        rig.want(a="one")
        await rig.settled("a")
        record = tmp_path / "calls"
        with tampered(rig.agent.pid, CHANGES, "delay_enter=100000", also=OTHERS, record=record):
            await taken_hold_of(rig.agent.pid)
            rig.put("two", b"2" * 100_000)
            rig.want(a="two", b="two")
            waiting = asyncio.create_task(rig.settled("a", "b", seconds=90))
            while not waiting.done():
                assert await rig.agent.get("/healthz") == (200, "ok\n")
                await asyncio.sleep(0.02)
            await waiting
        calls = [line.split(maxsplit=1) for line in record.read_text(errors="replace").splitlines()]
        on_disk = [(int(thread), call) for thread, call in calls if str(rig.volume) in call]
        assert any(call.startswith("renameat2") for _, call in on_disk), "nothing was published meanwhile"
        assert [call for thread, call in on_disk if thread == rig.agent.pid] == []
