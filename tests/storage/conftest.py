"""Real object stores for the providers, started when the first test asks for them."""

import pytest

from agent.storage.oci import OciProvider
from agent.storage.s3 import S3Provider
from tests.fakes import objectstores


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """SeaweedFS with the bucket that its read-only keys may read."""
    import boto3  # noqa: PLC0415 - slow to import, and few tests need it

    with objectstores.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        s3_admin(boto3, store).create_bucket(Bucket=store.readable_bucket)
        yield store


@pytest.fixture(scope="session")
def azurite(tmp_path_factory):
    """The connection string of Azurite's one account."""
    with objectstores.azurite(tmp_path_factory.mktemp("azurite")) as connection:
        yield connection


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory):
    """Host and port of a real registry that asks nobody who he is."""
    with objectstores.docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def admin(seaweedfs):
    """A boto3 client that may write."""
    import boto3  # noqa: PLC0415 - slow to import, and few tests need it

    client = s3_admin(boto3, seaweedfs)
    yield client
    client.close()


def s3_admin(boto3, store):
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name="us-east-1",
        aws_access_key_id=store.admin.access_key,
        aws_secret_access_key=store.admin.secret_key,
    )


@pytest.fixture
async def connect_s3():
    """Make providers that are closed at the end."""
    made = []

    def connect(environ, **more):
        made.append(S3Provider(environ, **more))
        return made[-1]

    yield connect
    for provider in made:
        await provider.close()


@pytest.fixture
async def connect_oci():
    """Make providers of registries that are closed at the end."""
    made = []

    def connect(environ, **more):
        made.append(OciProvider(environ, **more))
        return made[-1]

    yield connect
    for provider in made:
        await provider.close()
