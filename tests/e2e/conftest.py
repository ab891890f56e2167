"""Real object stores for the tests from end to end, started when the first test asks for them."""

import pytest

from tests.fakes import objectstores


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    with objectstores.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        yield store


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """An S3 that keeps keys as they are, `..` too."""
    with objectstores.moto(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory):
    with objectstores.fake_gcs(tmp_path_factory.mktemp("fake-gcs")) as store:
        yield store
