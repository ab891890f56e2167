"""The dummy server's own routes, its scripted faults and its command."""

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError
from aiohttp.test_utils import TestClient, TestServer

from agent.demo.dummy_models import Dialect, Faults
from agent.demo.dummy_server import DummyServer

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def model_dir(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(name.encode() * 10)
    return tmp_path


@pytest.fixture
async def client_of():
    clients = []

    async def make(dummy):
        server = TestServer(dummy.app())
        await server.start_server(shutdown_timeout=0)
        client = TestClient(server)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


async def load(client, name):
    async with client.post(f"/v2/repository/models/{name}/load") as response:
        return response.status


async def test_a_model_answers_with_what_its_files_were_when_it_was_loaded(client_of, model_dir):
    client = await client_of(DummyServer(model_dir))
    assert await load(client, "a") == 200
    (model_dir / "a" / "model.bin").write_bytes(b"changed")
    async with client.post("/v2/models/a/infer", json={}) as response:
        answer = await response.json()
    digest = hashlib.sha256(b"a" * 10).hexdigest()
    assert answer["files"] == {"model.bin": {"size": 10, "sha256": digest, "head": "a" * 10}}


async def test_a_forgetful_server_loses_a_model_some_time_after_its_load(client_of, model_dir):
    client = await client_of(DummyServer(model_dir, faults=Faults(forgetful=0.05)))
    assert await load(client, "a") == 200
    async with asyncio.timeout(5):
        while (await client.get("/v2/models/a/ready")).status == 200:
            await asyncio.sleep(0.01)


async def test_a_large_file_is_digested_whole(client_of, model_dir):
    content = b"x" * 3_000_000 + b"end"
    (model_dir / "a" / "model.bin").write_bytes(content)
    client = await client_of(DummyServer(model_dir))
    await load(client, "a")
    async with client.get("/v2/models/a") as response:
        item = (await response.json())["files"]["model.bin"]
    assert (item["size"], item["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("spoiled", ["broken", "weights"])
async def test_a_file_called_or_holding_broken_spoils_a_model(client_of, model_dir, spoiled):
    (model_dir / "a" / spoiled).write_text("broken" if spoiled != "broken" else "")
    client = await client_of(DummyServer(model_dir))
    assert (await load(client, "a"), await load(client, "b")) == (503, 200)


async def test_faults_are_set_one_by_one_while_it_runs(client_of, model_dir):
    client = await client_of(DummyServer(model_dir))
    async with client.post("/_faults", json={"fail": "a*"}) as response:
        assert (await response.json())["fail"] == "a*"
    async with client.post("/_faults", json={"load_seconds": 0}) as response:
        assert (await response.json())["fail"] == "a*"
    assert (await load(client, "a"), await load(client, "b")) == (503, 200)


@pytest.mark.parametrize(
    "wrong", [{"slow": 1}, {"fail": 7}, {"deaf": "yes"}, [1], "x", {"load_seconds": True}]
)
async def test_a_fault_that_is_none_is_refused(client_of, model_dir, wrong):
    client = await client_of(DummyServer(model_dir))
    async with client.post("/_faults", json=wrong) as response:
        assert response.status == 400


async def test_it_counts_what_it_was_asked(client_of, model_dir):
    client = await client_of(DummyServer(model_dir, faults=Faults(load_seconds=0.05)))
    await asyncio.gather(*(load(client, name) for name in ("a", "b", "a", "none")))
    async with client.get("/_stats") as response:
        stats = await response.json()
    assert stats["loads"] == {"a": 2, "b": 1, "none": 1}
    assert stats["failed_loads"] == {"none": 1}
    assert stats["max_concurrent_loads"] == 4
    assert stats["models"] == ["a", "b"]
    assert stats["requests"] == {"POST /v2/repository/models/{name}/load": 4}


async def test_a_blocking_server_loads_one_at_a_time_and_answers_nothing_meanwhile(client_of, model_dir):
    dummy = DummyServer(model_dir, faults=Faults(load_seconds=0.1, blocking=True))
    client = await client_of(dummy)
    order = []

    async def note(what, awaitable):
        await awaitable
        order.append(what)

    async def health():
        async with client.get("/v2/health/live"):
            pass

    first = asyncio.ensure_future(note("load a", load(client, "a")))
    while not dummy.counts.loading_now:
        await asyncio.sleep(0)
    await asyncio.gather(first, note("health", health()), note("load b", load(client, "b")))
    assert order.index("load a") < order.index("health")
    assert dummy.counts.max_concurrent_loads == 1


async def test_it_forgets_on_request(client_of, model_dir):
    client = await client_of(DummyServer(model_dir))
    for name in ("a", "b"):
        await load(client, name)
    async with client.post("/_forget", json={"models": "a"}) as response:
        assert (await response.json())["models"] == ["b"]
    async with client.post("/_forget") as response:
        assert (await response.json())["models"] == []


async def test_a_dropped_answer_still_loads(client_of, model_dir):
    dummy = DummyServer(model_dir, faults=Faults(drop="a"))
    client = await client_of(dummy)
    with pytest.raises(ClientConnectionError):
        await load(client, "a")
    assert "a" in dummy.models


async def test_triton_unloads_in_its_own_time(client_of, model_dir):
    client = await client_of(DummyServer(model_dir, Dialect.TRITON, Faults(unload_seconds=0.05)))
    await load(client, "a")
    async with client.post("/v2/repository/models/a/unload") as response:
        assert response.status == 200
    seen = set()
    while "UNAVAILABLE" not in seen:
        async with client.post("/v2/repository/index") as response:
            entries = {entry["name"]: entry for entry in await response.json()}
        seen.add(entries["a"]["state"])
    assert "UNLOADING" in seen
    assert entries["b"] == {"name": "b"}


async def test_mlserver_knows_only_folders_with_settings_that_bear_their_name(client_of, model_dir):
    (model_dir / "b" / "model-settings.json").write_text('{"name": "b"}')
    client = await client_of(DummyServer(model_dir, Dialect.MLSERVER))
    assert (await load(client, "a"), await load(client, "b")) == (404, 200)
    async with client.post("/v2/repository/index", json={}) as response:
        assert [entry["name"] for entry in await response.json()] == ["b"]
    async with client.post("/v2/repository/index") as response:
        assert response.status == 422


async def started(*arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.demo.dummy_command", *arguments, "--port", "0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_the_command_says_its_url_and_ends_in_peace(model_dir):
    process, url = await started(str(model_dir), "--dialect", "triton", "--load-all")
    assert url.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    assert (await process.communicate(), process.returncode)[1] == 0


async def test_the_command_ends_with_1_where_a_folder_is_bad_and_all_must_be_loaded(model_dir):
    (model_dir / ".hidden").mkdir()
    process, url = await started(str(model_dir), "--load-all")
    _, errors = await process.communicate()
    assert (url, process.returncode) == ("", 1)
    assert b"holds no file" in errors
