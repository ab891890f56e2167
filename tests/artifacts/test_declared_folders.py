"""modelSpec.sha256 as a list of digests, and modelSpec.signature: a folder is served whole and as signed.

The signatures are made and checked by the real OpenSSF library.
"""

import hashlib

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
from tests.fakes.signing import make_key, packed, signature_of

FILES = {"model.bin": b"weights" * 5000, "sub/config.json": b"{}", "empty": b""}
LISTED = Declaration("SHA256SUMS")
SIGNED = Declaration(None, "model.sig")


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models", tmp_path / "store")


@pytest.fixture
def keys(tmp_path):
    """The public keys of the operator and of a stranger."""
    return [make_key(tmp_path, name) for name in ("ours", "theirs")]


@pytest.fixture
async def fetcher(store, origin, keys):
    fetcher = Fetcher(
        lambda scheme: OriginProvider(origin),
        store,
        Engine(EngineSettings()),
        signing_key=keys[0],
    )
    yield fetcher
    await fetcher.close()


def sums(files):
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in files.items()).encode()


def put(origin, files):
    for path, data in files.items():
        origin.put(f"/m/{path}", data)


async def fetch(fetcher, origin, declared, path="/m/"):
    return await fetcher.fetch(f"{origin.url}{path}", Progress(), relist=True, declared=declared)


async def refused(fetcher, origin, declared, reason, path="/m/"):
    with pytest.raises(TerminalError) as caught:
        await fetch(fetcher, origin, declared, path)
    assert caught.value.reason is reason
    return caught.value.message


async def test_a_folder_that_is_what_its_list_says_is_stored_as_declared(fetcher, origin, store):
    put(origin, {**FILES, "SHA256SUMS": sums(FILES)})
    stored = await fetch(fetcher, origin, LISTED)
    assert stored.meets(LISTED)
    assert store.manifest(stored.uri, stored.revision).proof == "declared"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "model.bin": b"other"}, "the sha256 of 'model.bin'"),
        ({**FILES, "extra.py": b"evil"}, "'extra.py' is there and is not declared"),
        ({"model.bin": FILES["model.bin"], "empty": b""}, "'sub/config.json' is declared and is not there"),
    ],
)
async def test_a_folder_that_is_not_is_no_revision(fetcher, origin, store, files, words):
    put(origin, {**files, "SHA256SUMS": sums(FILES)})
    assert words in await refused(fetcher, origin, LISTED, Reason.INTEGRITY_MISMATCH)
    assert store.revisions() == {}


async def test_a_list_that_is_not_there_or_is_none_is_told(fetcher, origin):
    put(origin, FILES)
    assert "no such file" in await refused(fetcher, origin, LISTED, Reason.INTEGRITY_MISMATCH)
    wrong = Declaration("sub/config.json")
    assert "line 1" in await refused(fetcher, origin, wrong, Reason.INTEGRITY_MISMATCH)


async def test_what_is_declared_later_moves_no_byte_and_outlives_a_restart(fetcher, origin, store, tmp_path):
    put(origin, {**FILES, "SHA256SUMS": sums(FILES)})
    first = await fetch(fetcher, origin, Declaration())
    assert not first.meets(LISTED)
    sent = origin.sent_bytes
    second = await fetch(fetcher, origin, LISTED)
    assert second.revision == first.revision
    assert second.meets(LISTED)
    assert origin.sent_bytes == sent
    store.close()
    with Store.open(tmp_path / "models", tmp_path / "store") as again:
        assert again.revisions()[second.uri].meets(LISTED)


async def test_the_list_in_an_archive_speaks_of_its_members(fetcher, origin, store):
    origin.put("/m.tgz", packed({**FILES, "SHA256SUMS": sums(FILES)}))
    stored = await fetch(fetcher, origin, LISTED, "/m.tgz")
    assert stored.meets(LISTED)
    assert len(store.manifest(stored.uri, stored.revision).entries) == 4


async def test_a_folder_signed_with_the_operators_key_is_stored_as_signed(
    fetcher, origin, store, keys, tmp_path
):
    put(origin, {**FILES, "model.sig": signature_of(FILES, tmp_path / "m", keys[0])})
    stored = await fetch(fetcher, origin, SIGNED)
    assert stored.meets(SIGNED)
    assert store.manifest(stored.uri, stored.revision).proof == "signed"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "empty": b"now not"}, "'empty'"),
        ({**FILES, "extra.py": b"evil"}, "'extra.py' is there and is not declared"),
        ({"model.bin": FILES["model.bin"], "empty": b""}, "'sub/config.json'"),
    ],
)
async def test_files_changed_after_signing_are_no_revision(
    fetcher, origin, store, keys, tmp_path, files, words
):
    put(origin, {**files, "model.sig": signature_of(FILES, tmp_path / "m", keys[0])})
    assert words in await refused(fetcher, origin, SIGNED, Reason.SIGNATURE_INVALID)
    assert store.revisions() == {}


async def test_a_strangers_signature_a_broken_one_and_none_are_refused(fetcher, origin, keys, tmp_path):
    put(origin, {**FILES, "model.sig": signature_of(FILES, tmp_path / "m", keys[1])})
    assert "Key mismatch" in await refused(fetcher, origin, SIGNED, Reason.SIGNATURE_INVALID)
    origin.put("/m/model.sig", b'{"mediaType": 5}')
    await refused(fetcher, origin, SIGNED, Reason.SIGNATURE_INVALID)
    absent = Declaration(None, "other.sig")
    assert "no such file" in await refused(fetcher, origin, absent, Reason.SIGNATURE_INVALID)


async def test_without_a_key_nothing_signed_is_believed(origin, store, keys, tmp_path):
    fetcher = Fetcher(lambda scheme: OriginProvider(origin), store, Engine(EngineSettings()))
    put(origin, {**FILES, "model.sig": signature_of(FILES, tmp_path / "m", keys[0])})
    assert "--signing-key-file" in await refused(fetcher, origin, SIGNED, Reason.SIGNATURE_INVALID)
    await fetcher.close()
