"""modelSpec.sha256: bytes of another digest never become a revision (integrity by declaration)."""

import hashlib
import io
import zipfile

import pytest

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.declaration import Declaration
from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from tests.fakes.origin_provider import OriginProvider

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture(params=[True, False], ids=["pinned", "unpinned"])
def provider(request, origin):
    return OriginProvider(origin, pinned=request.param)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models", tmp_path / "store")


@pytest.fixture
async def fetcher(store, provider):
    fetcher = Fetcher(lambda scheme: provider, store, Engine(EngineSettings(stall_seconds=1)))
    yield fetcher
    await fetcher.close()


async def fetch(fetcher, uri, declared, *, relist=False):
    return await fetcher.fetch(uri, Progress(), relist=relist, declared=Declaration(declared))


async def refused(fetcher, uri, declared, *, relist=False):
    with pytest.raises(TerminalError) as caught:
        await fetch(fetcher, uri, declared, relist=relist)
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH
    return caught.value.message


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("model.txt", "hello")
    return buffer.getvalue()


async def test_what_has_the_declared_digest_is_stored_as_declared(fetcher, origin, store):
    origin.put("/m.bin", CONTENT)
    stored = await fetch(fetcher, f"{origin.url}/m.bin", DIGEST)
    assert stored.sha256 == DIGEST
    assert store.manifest(stored.uri, stored.revision).proof == "declared"


async def test_what_has_another_digest_is_no_revision_and_both_are_told(fetcher, origin, store):
    origin.put("/m.bin", CONTENT)
    message = await refused(fetcher, f"{origin.url}/m.bin", OTHER)
    assert DIGEST in message
    assert OTHER in message
    assert store.revisions() == {}


async def test_a_folder_has_no_one_digest(fetcher, origin, store):
    origin.put("/m/a", CONTENT)
    assert "one object" in await refused(fetcher, f"{origin.url}/m/", DIGEST)
    assert store.revisions() == {}


async def test_a_digest_declared_later_moves_no_byte_where_the_stored_one_fits(store, origin):
    fetcher = Fetcher(lambda scheme: OriginProvider(origin), store, Engine(EngineSettings()))
    uri = f"{origin.url}/m.bin"
    origin.put("/m.bin", CONTENT)
    first = await fetch(fetcher, uri, None)
    moved = len(origin.requests("/m.bin"))
    second = await fetch(fetcher, uri, DIGEST, relist=True)
    assert (second.revision, second.sha256) == (first.revision, DIGEST)
    await refused(fetcher, uri, OTHER, relist=True)
    assert len(origin.requests("/m.bin")) == moved
    assert store.revisions()[uri].sha256 == DIGEST
    await fetcher.close()


async def test_the_digest_of_an_archive_is_compared_before_it_is_unpacked(fetcher, origin, store):
    packed = archive()
    origin.put("/m.zip", packed)
    uri = f"{origin.url}/m.zip"
    await refused(fetcher, uri, OTHER)
    assert store.revisions() == {}
    digest = hashlib.sha256(packed).hexdigest()
    stored = await fetch(fetcher, uri, digest)
    assert [entry.path for entry in store.manifest(uri, stored.revision).entries] == ["model.txt"]
    assert stored.sha256 == digest


async def test_the_digest_outlives_a_restart(fetcher, origin, store, tmp_path):
    origin.put("/m.bin", CONTENT)
    uri = f"{origin.url}/m.bin"
    await fetch(fetcher, uri, DIGEST)
    store.close()
    again = Store.open(tmp_path / "models", tmp_path / "store")
    assert again.revisions()[uri].sha256 == DIGEST
    again.close()
