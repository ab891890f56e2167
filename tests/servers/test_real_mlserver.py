"""The contract on a real MLServer server, and what is its alone."""

import json
import shutil

import pytest
import pytest_asyncio

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.servers.base import ModelState
from agent.servers.detect import connect
from tests.contracts.servers import ServerContract
from tests.servers import real
from tests.servers.hosts import real_host

POISON = """import os
from mlserver import MLModel

class Bad(MLModel):
    async def load(self):
        os._exit(9)
"""

pytestmark = pytest.mark.real


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory):
    async with real_host("mlserver", tmp_path_factory.mktemp("mlserver")) as host:
        yield host


class TestMLServerContract(ServerContract):
    pass


@pytest.fixture
async def server(host):
    server = connect([host.process.url], "mlserver")
    yield server
    await server.close()


def settings(name, uri="./model.joblib", **parameters):
    document = {
        "name": name,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": uri, **parameters},
    }
    return json.dumps(document).encode()


async def test_settings_that_bear_another_name_are_served_under_ours(host, server):
    host.put(server, "ours", host.files("ours", 3) | {"model-settings.json": settings("theirs")})
    await server.load("ours")
    assert await host.ask("ours") == 3
    assert "theirs" not in (await server.read()).models


async def test_settings_deep_in_one_model_make_no_version_of_another(host, server):
    host.put(server, "victim", host.files("victim", 3))
    evil = {f"deep/{path}": content for path, content in host.files("victim", 9).items()}
    evil["deep/model-settings.json"] = settings("victim", version="999")
    evil["model-settings.json"] = settings("intruder")
    host.put(server, "intruder", host.files("intruder", 4) | evil)
    await server.load("intruder")
    await server.load("victim")
    assert (await host.ask("victim"), await host.ask("intruder")) == (3, 4)


async def test_what_is_held_without_its_folder_is_in_no_index_and_found_when_it_is_in_doubt(host, server):
    host.put(server, "orphan", host.files("orphan", 5))
    await server.load("orphan")
    shutil.rmtree(host.model_dir / "orphan")
    other = connect([host.process.url], "mlserver")
    assert "orphan" not in (await other.read()).models
    assert await host.ask("orphan") == 5
    other.doubt(["orphan"])
    assert (await other.read()).models["orphan"] is ModelState.READY
    await other.unload("orphan")
    await other.close()


async def test_several_versions_in_one_folder_are_served_as_versions_of_it(host, server):
    files = {}
    for number in (1, 2):
        files[f"v{number}/model.joblib"] = host.files("versions", number)["model.joblib"]
        files[f"v{number}/model-settings.json"] = settings("whatever", version=f"v{number}")
    host.put(server, "versions", files)
    await server.load("versions")
    assert await host.ask("versions") == 2
    assert (await server.read()).models["versions"] is ModelState.READY
    await server.unload("versions")


async def test_a_missing_artefact_is_a_rejected_model(host, server):
    files = {"model-settings.json": settings("m", uri="./elsewhere.joblib"), "README.md": b"-"}
    host.put(server, "missing", files)
    with pytest.raises(TerminalError, match="Invalid URI") as caught:
        await server.load("missing")
    assert caught.value.reason is Reason.LOAD_REJECTED


async def test_a_worker_killed_by_a_load_is_worth_another_try(tmp_path):
    """With parallel workers MLServer itself survives a model that ends the process that loads it."""
    model_dir = tmp_path / "models"
    model_dir.mkdir()
    async with real.mlserver(model_dir, parallel_workers=1) as process:
        server = connect([process.url], "mlserver")
        folder = model_dir / "poison"
        folder.mkdir()
        (folder / "poison_code.py").write_text(POISON)
        (folder / "model-settings.json").write_text('{"name": "poison", "implementation": "poison_code.Bad"}')
        with pytest.raises(RetryableError) as caught:
            await server.load("poison")
        await server.close()
    assert caught.value.reason is Reason.SERVER_CRASHED
