import aiohttp
import pytest

from agent.kube.client import ApiClient
from agent.kube.endpoint import Endpoint, TokenSource
from tests.fakes.apiserver import ApiServer


@pytest.fixture
async def server():
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def client(server):
    async with aiohttp.ClientSession() as session:
        yield ApiClient(Endpoint(server.url, None, "default", TokenSource(fixed="secret")), session)
