"""The wired sidecar in this process, where a call that blocks its event loop is an error (R11)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import aiohttp
import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx

from agent.app import MOST_HANGING, Sidecar
from agent.demo.dummy_server import DummyServer
from agent.demo.kubelet import Kubelet
from agent.settings import read_settings


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "model.bin").write_bytes(name.encode() * 1000)
    (tmp_path / "models").mkdir()
    return tmp_path


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def entry(name: str, uri: str) -> dict[str, object]:
    return {"modelName": name, "modelSpec": {"storageUri": uri, "framework": "sklearn", "memory": "1Mi"}}


async def test_nothing_blocks_the_loop_through_removal_update_and_unload(folder):
    src = folder / "src"
    kubelet = Kubelet(folder / "configs")
    kubelet.models([entry("a", f"file://{src}/one"), entry("gone", f"file://{src}/two")])
    async with served(DummyServer(folder / "models").app()) as server, aiohttp.ClientSession() as session:
        words = (
            f"--config-dir {folder}/configs --model-dir {folder}/models --allowed-roots {src} --status-port 0"
        )
        sidecar = Sidecar(read_settings([*words.split(), "--server-url", server], {}), {})
        running = asyncio.create_task(sidecar.run())
        await until(sidecar, session, {"a", "gone"})  # what is read once at the start may block
        await asyncio.to_thread(kubelet.models, [entry("a", f"file://{src}/one")])
        with blockbuster_ctx("agent"):
            first = await until(sidecar, session, {"a"})
            raw = await asyncio.to_thread(kubelet.models, [entry("a", f"file://{src}/two")])
            second = await until(sidecar, session, {"a"}, sha256(raw).hexdigest())
            sidecar.stop()
            assert await running == 0
    assert first["a"]["servedRevision"] != second["a"]["servedRevision"]


async def test_a_process_that_lost_too_many_threads_to_libraries_asks_to_be_started_again(folder):
    """Fault S21: nothing is lost by it, for a restart is invisible (law 8)."""
    words = f"--config-dir {folder}/configs --model-dir {folder}/models --status-port 0"
    sidecar = Sidecar(read_settings(words.split(), {}), {})
    async with served(sidecar._site().application()) as url, aiohttp.ClientSession() as session:
        for hanging, status in ((MOST_HANGING, 200), (MOST_HANGING + 1, 503)):
            sidecar._hanging = lambda hanging=hanging: hanging
            async with session.get(f"{url}/healthz") as answer:
                assert answer.status == status


async def until(
    sidecar: Sidecar, session: aiohttp.ClientSession, names: set[str], digest: str | None = None
) -> dict[str, dict]:
    """Wait until exactly *names* are ready and up to date, with the document of that digest."""
    async with asyncio.timeout(20):
        while True:
            models: dict[str, dict] = {}
            seen = None
            if sidecar.address is not None:
                url = f"http://127.0.0.1:{sidecar.address[1]}/status"
                async with session.get(url) as answer:
                    document = json.loads(await answer.read())
                models = {model["name"]: model for model in document["models"]}
                seen = document["config"]["digest"]
            ready = models.keys() == names and all(model["reason"] is None for model in models.values())
            if ready and digest in {None, seen}:
                return models
            await asyncio.sleep(0.02)
