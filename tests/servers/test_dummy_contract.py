"""The dummy server in the place of each real one: the same contract, so that it may stand in for them."""

import pytest_asyncio

from tests.contracts.servers import ServerContract
from tests.servers.hosts import dummy_host


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["kserve", "mlserver", "triton"])
async def host(request, tmp_path_factory):
    async with dummy_host(request.param, tmp_path_factory.mktemp(request.param)) as host:
        yield host


class TestDummyContract(ServerContract):
    pass
