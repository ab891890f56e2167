"""The contract on a real KServe server, and what is its alone."""

import pytest
import pytest_asyncio

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.servers.detect import connect
from tests.contracts.servers import ServerContract
from tests.servers import real
from tests.servers.hosts import real_host

pytestmark = pytest.mark.real


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory):
    async with real_host("kserve", tmp_path_factory.mktemp("kserve")) as host:
        yield host


class TestKServeContract(ServerContract):
    pass


async def test_a_server_without_a_repository_of_its_own_takes_no_loads(tmp_path):
    model_dir = tmp_path / "models"
    (model_dir / "m").mkdir(parents=True)
    async with real.kserve_server(model_dir, loads=False) as process:
        server = connect([process.url], "kserve")
        with pytest.raises(TerminalError, match="repository that loads") as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is Reason.LOAD_NOT_SUPPORTED


async def test_the_test_server_ends_when_it_finds_a_folder_that_is_no_model(tmp_path):
    """KServe's sklearnserver does; law 1 exists because of it."""
    model_dir = tmp_path / "models"
    (model_dir / ".hidden").mkdir(parents=True)
    async with real.kserve_server(model_dir, start=False) as process:
        await process.start(wait=False)
        assert await process.ended() != 0
