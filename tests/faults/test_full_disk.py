"""Faults D1 and D6 on the whole agent: the disk takes nothing, and the agent goes on."""

import pytest

from tests.e2e.agent_process import until
from tests.e2e.rig import started
from tests.faults.tampered import taken_hold_of, tampered


@pytest.mark.parametrize(("error", "reason"), [("ENOSPC", "DiskFull"), ("EROFS", "ReadOnlyVolume")])
async def test_an_edit_applies_while_the_disk_takes_nothing_and_is_kept_once_it_does(tmp_path, error, reason):
    async with started(tmp_path, flags={"resync-interval": "0.3s"}) as rig:
        rig.put("one", b"1")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        with tampered(rig.agent.pid, "fsync", f"error={error}"):
            await taken_hold_of(rig.agent.pid)
            rig.want(a="one")
            await rig.settled("a")
            await until(lambda: reason in rig.agent.said())
        await until(lambda: "is kept for the next start again" in rig.agent.said())
        assert rig.agent.said().count("cannot be kept for the next start") == 1
        await rig.agent.restart()
        await rig.settled("a")
        assert "Traceback" not in rig.agent.said()
