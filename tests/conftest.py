"""Fixtures for all tests."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.fakes import objectstores

pytest.register_assert_rewrite("tests.contracts")

# A deadline an example tells how busy the machine is, and nothing of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def _first_event_loop() -> Iterator[None]:
    """Own the loop that looptime's plugin asks for before a synchronous test, and close it.

    Without this the plugin makes one that nobody closes, and its ResourceWarning fails some later test.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory):
    with objectstores.fake_gcs(tmp_path_factory.mktemp("fake-gcs")) as store:
        yield store


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """An S3 that keeps keys as they are, `..` too."""
    with objectstores.moto(tmp_path_factory.mktemp("moto")) as store:
        yield store
