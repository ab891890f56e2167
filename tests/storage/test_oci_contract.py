"""OciProvider: the contract, on the distribution project's registry and on one that asks for tokens."""

import asyncio
import re
import zlib

import pytest

from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from tests.contracts.storage import ObjectContract, one
from tests.fakes.registry import LOGIN, SECRETS, Pushing, Registry, digest_of, docker_config


def repository(path: str) -> str:
    """Name a repository as near to a path as registries allow."""
    return path if re.fullmatch(r"[a-z0-9./]+", path) else f"odd/x{zlib.crc32(path.encode())}"


@pytest.fixture
async def registry():
    async with Registry(login=LOGIN).serving() as registry:
        yield registry


@pytest.fixture
def provider(connect_oci, registry, tmp_path):
    return connect_oci(docker_config(tmp_path, registry.host))


class RealTree:
    def __init__(self, host):
        self._pushing = Pushing(host)
        self._pushed = {}

    async def put(self, path, content):
        title = {path.rpartition("/")[2]: content}
        digest = await asyncio.to_thread(self._pushing.artifact, repository(path), title)
        self._pushed[path] = digest

    async def remove(self, path):
        await asyncio.to_thread(self._pushing.remove, repository(path), self._pushed[path])

    def uri(self, path=""):
        return f"oci://{self._pushing.host}/{repository(path)}"


class FakeTree(RealTree):
    def __init__(self, registry):
        self._registry = registry

    async def put(self, path, content):
        self._registry.push(repository(path), {path.rpartition("/")[2]: content})

    async def remove(self, path):
        for each in [each for each in self._registry.files if each.startswith(f"/v2/{repository(path)}/")]:
            del self._registry.files[each]
            self._registry.kinds.pop(each, None)

    def uri(self, path=""):
        return f"oci://{self._registry.host}/{repository(path)}"


@pytest.mark.real
class TestRealRegistry(ObjectContract):
    @pytest.fixture
    def tree(self, docker_registry):
        return RealTree(docker_registry)

    @pytest.fixture
    def provider(self, connect_oci):
        return connect_oci({"HOME": "/nonexistent"})

    async def test_what_is_deleted_between_list_and_read_is_listed_again(self, docker_registry, provider):
        pushing = Pushing(docker_registry)
        await asyncio.to_thread(pushing.artifact, "gone", {"model.bin": b"gone"})
        obj = await one(provider, f"oci://{docker_registry}/gone")
        await asyncio.to_thread(pushing.remove, "gone", digest_of(b"gone"), "blobs")
        with pytest.raises(RetryableError, match="was listed and is gone") as caught:
            await provider.source(obj)
        assert caught.value.reason is Reason.SNAPSHOT_CHANGED


class TestTokens(ObjectContract):
    @pytest.fixture
    def secrets(self):
        return SECRETS

    @pytest.fixture
    def tree(self, registry):
        return FakeTree(registry)


class TestTokensAndBlobsElsewhere(TestTokens):
    @pytest.fixture
    def tree(self, registry):
        registry.away = f"http://127.0.0.1:{registry.elsewhere.port}"
        return FakeTree(registry)


class TestBasic(TestTokens):
    @pytest.fixture
    def tree(self, registry):
        registry.basic = True
        return FakeTree(registry)
