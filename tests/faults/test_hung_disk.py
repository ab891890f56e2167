"""A read or a sync that never comes back keeps no agent from ending (R10, design §8.10)."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

from agent.app import Sidecar
from agent.artifacts.store import Store
from agent.settings import read_settings
from tests.e2e.agent_process import until
from tests.e2e.rig import started


async def test_sigterm_ends_within_2_s_while_a_worker_thread_hangs(tmp_path):
    os.mkfifo(tmp_path / "token")  # to open it for reading waits for ever, as a dead mount does
    flags = {"server-token-file": tmp_path / "token", "log-level": "debug"}
    async with started(tmp_path, flags=flags) as rig:
        await until(lambda: hangs_in_fifo(rig.agent.pid), what="a thread that hangs")
        code, seconds = await rig.agent.terminate(signal.SIGTERM)
    assert (code, seconds < 2) == (0, True)


def hangs_in_fifo(pid: int) -> bool:
    """Tell whether any thread waits in openat (system call 257 or 56) of something that does not open."""
    calls = Path(f"/proc/{pid}/task").glob("*/syscall")
    return any(call.read_text().partition(" ")[0] in {"257", "56"} for call in calls)


async def test_it_ends_within_2_s_while_the_store_hangs_as_it_is_opened(tmp_path):
    entered, lets_go = threading.Event(), threading.Event()

    def opens(model_dir, store_dir):
        entered.set()
        lets_go.wait()
        return Store.open(model_dir, store_dir)

    words = ["--config-dir", str(tmp_path / "configs"), "--model-dir", str(tmp_path / "models")]
    sidecar = Sidecar(read_settings([*words, "--status-port", "0"], {}), {}, open_store=opens)
    running = asyncio.create_task(sidecar.run())
    try:
        await until(entered.is_set)
        began = time.monotonic()
        sidecar.stop()
        assert await running == 0
        assert time.monotonic() - began < 2
    finally:
        lets_go.set()
