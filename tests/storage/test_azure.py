"""`abfs://` by the real adlfs against a real Azurite: the contract."""

import asyncio
import uuid

import pytest

from agent.storage.fsspec_provider import FsspecProvider
from tests.contracts.storage import FolderContract
from tests.fakes import objectstores

pytestmark = pytest.mark.real

CONTAINER = "models"


@pytest.fixture(scope="session")
def container(tmp_path_factory):
    """A client of the one container, and the account's connection string."""
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - slow to import, for few tests

    with (
        objectstores.azurite(tmp_path_factory.mktemp("azurite")) as connection,
        BlobServiceClient.from_connection_string(connection) as client,
    ):
        yield client.create_container(CONTAINER), connection


class Prefix:
    """A prefix of its own in the shared container."""

    def __init__(self, client):
        self._client, self.name = client, uuid.uuid4().hex

    async def put(self, path, content):
        name = f"{self.name}/{path}"
        await asyncio.to_thread(self._client.upload_blob, name, content, overwrite=True)

    async def remove(self, path):
        await asyncio.to_thread(self._client.delete_blob, f"{self.name}/{path}")

    def uri(self, path=""):
        return f"abfs://{CONTAINER}/{self.name}/{path}".rstrip("/")


class TestContract(FolderContract):
    """Azure itself takes a backslash for a slash."""

    hostile = ("new\nline",)

    @pytest.fixture
    def tree(self, container):
        return Prefix(container[0])

    @pytest.fixture
    async def provider(self, container):
        provider = FsspecProvider({"AZURE_STORAGE_CONNECTION_STRING": container[1]})
        yield provider
        await provider.close()
