"""The contract on a real Triton server, and what is its alone."""

import asyncio

import pytest
import pytest_asyncio

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.servers.base import ModelState
from agent.servers.detect import connect
from tests.contracts.servers import ServerContract
from tests.servers import real
from tests.servers.hosts import real_host

pytestmark = pytest.mark.real


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory):
    async with real_host("triton", tmp_path_factory.mktemp("triton")) as host:
        yield host


class TestTritonContract(ServerContract):
    pass


async def test_unload_returns_only_when_requests_in_flight_have_ended(host):
    """Triton answers an unload at once and frees nothing before the last request is answered."""
    server = connect([host.process.url], "triton")
    code = real.TRITON_CODE.format(answer=5, seconds=2).encode()
    host.put(server, "slow", host.files("slow", 5) | {"1/model.py": code})
    await server.load("slow")
    asked = asyncio.ensure_future(host.ask("slow"))
    unloading = asyncio.ensure_future(server.unload("slow"))
    await asyncio.wait([asked, unloading], return_when=asyncio.FIRST_COMPLETED)
    assert asked.done()
    await unloading
    assert await asked in (5, None)  # None where the unload overtook it
    assert (await server.read()).models["slow"] is ModelState.UNAVAILABLE
    await server.close()


async def test_a_config_with_another_name_and_bare_files_are_put_right(host):
    server = connect([host.process.url], "triton")
    files = host.files("theirs", 6)
    host.put(server, "ours", {"config.pbtxt": files["config.pbtxt"], "model.py": files["1/model.py"]})
    await server.load("ours")
    assert await host.ask("ours") == 6
    await server.unload("ours")
    await server.close()


async def test_readings_do_not_wait_for_loads(host):
    """They would on a kept connection that shares its HTTP thread with the load."""
    server = connect([host.process.url], "triton")
    names = ["side-0", "side-1"]
    for name in names:
        host.put(server, name, host.files(name, 1))
    async with asyncio.TaskGroup() as group:
        loads = [group.create_task(server.load(name)) for name in names]
        readings = []
        while not any(load.done() for load in loads):
            readings.append((await server.read()).models)
    assert any(ModelState.LOADING in [models.get(name) for name in names] for models in readings)
    for name in names:
        await server.unload(name)
    await server.close()


async def test_a_server_in_another_control_mode_takes_no_loads_and_says_which_flag(tmp_path):
    model_dir = tmp_path / "models"
    model_dir.mkdir()
    async with real.triton(model_dir, control_mode="none") as process:
        server = connect([process.url], "triton")
        with pytest.raises(TerminalError, match="--model-control-mode=explicit") as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is Reason.LOAD_NOT_SUPPORTED
