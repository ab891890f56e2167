"""Fault S21: a library that never returns costs its models only. Probes answer, others load, it ends."""

import asyncio

from tests.e2e.agent_process import ROOT
from tests.e2e.rig import started

LIBRARY = """
import threading
from fsspec import AbstractFileSystem

class Hanging(AbstractFileSystem):
    protocol = "hang"

    def info(self, path, **_):
        if "list" in path:
            threading.Event().wait()
        return {"name": path, "type": "file", "size": 1 << 20, "etag": "1"}

    def cat_file(self, path, start=None, end=None, **_):
        threading.Event().wait()
"""
ENTRY_POINTS = "[fsspec.specs]\nhang = hanging_library:Hanging\n"


def installed(folder):
    """Put the library where the agent's Python finds it, as an installed package is found."""
    packed = folder / "site" / "hanging_library-1.dist-info"
    packed.mkdir(parents=True)
    (packed / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging-library\nVersion: 1\n")
    (packed / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "site" / "hanging_library.py").write_text(LIBRARY)
    return {"PYTHONPATH": f"{ROOT}:{folder / 'site'}"}


async def test_a_library_that_never_returns_keeps_no_probe_and_no_other_model_waiting(tmp_path):
    hanging = {f"h{n}": f"hang://{'list' if n % 2 else 'read'}/{n}" for n in range(6)}
    async with started(tmp_path, environ=installed(tmp_path), flags={"max-concurrent-downloads": 8}) as rig:
        rig.put("good", b"good")
        rig.want(**hanging)
        await rig.agent.wait(lambda status: all(status.model(name) for name in hanging))
        await rig.agent.wait(lambda status: [m["phase"] for m in status["models"]].count("Downloading") >= 5)
        rig.want(good="good", **hanging)
        waiting = asyncio.create_task(rig.agent.wait(lambda status: "good" in status.done))
        while not waiting.done():
            assert await rig.agent.get("/healthz") == (200, "ok\n")  # while calls hang that never return
        await waiting
        code, took = await rig.agent.terminate()
        assert (code, took < 2) == (0, True)
