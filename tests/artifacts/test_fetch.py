"""The fetch: from a URI to a complete revision, on a real origin and the real store."""

import asyncio
import gzip
import hashlib
import io
import threading
import zipfile

import google_crc32c
import pytest

from agent.artifacts.claims import Claims
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.declaration import Declaration
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import Integrity
from agent.core.reasons import Reason
from tests.artifacts.engine_orders import LARGE
from tests.artifacts.unpack.making import member, tar
from tests.fakes.faulty_origin import HONEST, Fault
from tests.fakes.origin_provider import OriginProvider

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "models", tmp_path / "store")


@pytest.fixture
def provider(origin):
    return OriginProvider(origin)


@pytest.fixture
def mover():
    return Engine(EngineSettings(stall_seconds=1))


@pytest.fixture
async def fetcher(store, provider, mover):
    fetcher = Fetcher(lambda scheme: provider, store, mover)
    yield fetcher
    await fetcher.close()


async def fetch(fetcher, uri, *, relist=False):
    return await fetcher.fetch(uri, Progress(), relist=relist)


def files(store, stored):
    manifest = store.manifest(stored.uri, stored.revision)
    return {entry.path: store.blob_path(entry.blob).read_bytes() for entry in manifest.entries}


def litter(store):
    return {path.name for path in store.store_dir.iterdir() if path.name.startswith(".agent-part")}


async def test_a_folder_becomes_a_revision_with_each_file(fetcher, origin, store):
    origin.put("/m/a.bin", CONTENT)
    origin.put("/m/deep/b.bin", b"b")
    origin.put("/m/empty", b"")
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert files(store, stored) == {"a.bin": CONTENT, "deep/b.bin": b"b", "empty": b""}
    assert stored.size_bytes == len(CONTENT) + 1
    assert litter(store) == set()


async def test_what_is_stored_is_not_asked_for_again(fetcher, origin, provider):
    origin.put("/m/a.bin", CONTENT)
    uri = f"{origin.url}/m/"
    first = await fetch(fetcher, uri)
    again = await fetch(fetcher, uri)
    assert (again, provider.listings, len(origin.requests())) == (first, 1, 1)


async def test_listing_again_moves_no_byte_where_nothing_changed(fetcher, origin, provider):
    origin.put("/m/a.bin", CONTENT)
    uri = f"{origin.url}/m/"
    first = await fetch(fetcher, uri)
    again = await fetch(fetcher, uri, relist=True)
    assert again.revision == first.revision
    assert again.resolved_at >= first.resolved_at
    assert (provider.listings, len(origin.requests())) == (2, 1)


async def test_an_update_moves_only_the_objects_that_changed(fetcher, origin, store):
    for shard in range(5):
        origin.put(f"/m/{shard}", CONTENT + bytes([shard]))
    uri = f"{origin.url}/m/"
    first = await fetch(fetcher, uri)
    origin.put("/m/3", b"new")
    second = await fetch(fetcher, uri, relist=True)
    assert second.revision != first.revision
    assert [len(origin.requests(f"/m/{shard}")) for shard in range(5)] == [1, 1, 1, 2, 1]
    assert files(store, second)["3"] == b"new"
    checksums = {e.path: e.checksum for e in store.manifest(uri, second.revision).entries}
    assert all(checksums.values())


async def test_two_fetches_of_one_blob_at_once_are_one_transfer(fetcher, origin, store):
    origin.put("/m/shared/a", CONTENT)
    uris = [f"{origin.url}/m/", f"{origin.url}/m/shared/"]
    origin.on_request = lambda _: threading.Event().wait(0.05)
    one, two = await asyncio.gather(*(fetch(fetcher, uri) for uri in uris))
    assert len(origin.requests("/m/shared/a")) == 1
    assert files(store, one) == {"shared/a": CONTENT}
    assert files(store, two) == {"a": CONTENT}


async def test_cancelling_one_waiter_does_not_take_the_blob_from_the_other(fetcher, origin, store):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    origin.on_request = lambda _: loop.call_soon_threadsafe(asked.set)
    origin.put("/m/a", CONTENT, [Fault(stall=1000)])
    owner = asyncio.ensure_future(fetch(fetcher, f"{origin.url}/m/"))
    await asked.wait()
    other = asyncio.ensure_future(fetch(fetcher, f"{origin.url}/m/a"))
    await asyncio.sleep(0)
    owner.cancel()
    assert files(store, await other) == {"a": CONTENT}


async def test_cancel_lets_go_within_a_second_and_leaves_only_the_partial(fetcher, origin, store):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    origin.on_request = lambda _: loop.call_soon_threadsafe(asked.set)
    origin.put("/m/a", CONTENT, [Fault(stall=1000)])
    task = asyncio.ensure_future(fetch(fetcher, f"{origin.url}/m/"))
    await asked.wait()
    task.cancel()
    async with asyncio.timeout(1):
        await asyncio.wait([task])
    assert task.cancelled()
    names = {path.name for path in store.store_dir.iterdir()}
    assert not [name for name in names if name.startswith((".agent-blob", ".agent-manifest"))]
    assert store.revisions() == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=1000),
        Fault(reset=1000),
        Fault(stall=1000),
        Fault(hang_up=True),
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(short=1),
        Fault(extra=1),
        Fault(encode=True),
    ],
    ids=repr,
)
async def test_a_fault_that_passes_costs_only_a_quick_retry(fetcher, origin, store, fault):
    origin.put("/m/a", CONTENT, [fault])
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert files(store, stored) == {"a": CONTENT}
    assert len(origin.requests("/m/a")) == 2


async def test_a_power_loss_in_mid_pull_costs_nothing_that_the_disk_kept(origin, provider, tmp_path):
    origin.put("/m/done", LARGE)
    origin.put("/m/half", CONTENT, [Fault(stall=10)])
    with Store.open(tmp_path / "models", tmp_path / "store", boot_id="b1" * 8) as store:
        fetcher = Fetcher(lambda _: provider, store, Engine(boot="one"))
        task = asyncio.ensure_future(fetch(fetcher, f"{origin.url}/m/"))
        while not list(store.store_dir.glob(".agent-blob-*")):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await fetcher.close()
    asked = len(origin.requests("/m/done"))
    with Store.open(tmp_path / "models", tmp_path / "store", boot_id="b2" * 8) as store:
        fetcher = Fetcher(lambda _: provider, store, Engine(boot="two"))
        stored = await fetch(fetcher, f"{origin.url}/m/")
        assert files(store, stored)["done"] == LARGE
        assert store.manifest(stored.uri, stored.revision).proof == "seen-first"
        await fetcher.close()
        assert not list(store.store_dir.glob(".agent-journal-*"))
    assert len(origin.requests("/m/done")) == asked


async def test_a_fault_that_stays_is_told_and_leaves_no_revision(fetcher, origin, store):
    origin.put("/m/a", CONTENT)
    origin.every = Fault(short=1)
    with pytest.raises(RetryableError) as caught:
        await fetch(fetcher, f"{origin.url}/m/")
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH
    assert store.revisions() == {}
    assert litter(store) == set()


@pytest.mark.parametrize("algorithm", ["sha256", "crc32c", "md5"])
async def test_a_flipped_bit_is_noticed_by_any_checksum_that_storage_gives(store, origin, mover, algorithm):
    def checksums(content):
        if algorithm == "crc32c":
            return {"crc32c": f"{google_crc32c.value(content):08x}"}
        return {algorithm: hashlib.new(algorithm, content).hexdigest()}

    fetcher = Fetcher(lambda _: OriginProvider(origin, checksums=checksums), store, mover)
    origin.put("/m/a", CONTENT, [Fault(flip=77)])
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert files(store, stored) == {"a": CONTENT}
    assert store.manifest(stored.uri, stored.revision).proof == "provider"
    assert len(origin.requests("/m/a")) == 2
    await fetcher.close()


async def test_a_checksum_in_the_answer_counts_as_one_of_the_listing(fetcher, origin, store):
    told = {"X-Checksum-crc32c": f"{google_crc32c.value(CONTENT):08x}"}
    origin.answer_headers = lambda _: told
    origin.put("/m/a", CONTENT, [Fault(flip=0)])
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert files(store, stored) == {"a": CONTENT}
    assert store.manifest(stored.uri, stored.revision).proof == "provider"


async def test_what_storage_proved_before_stays_proved_when_another_file_is_added(fetcher, origin, store):
    origin.answer_headers = lambda path: {
        "X-Checksum-crc32c": f"{google_crc32c.value(origin.objects[path]):08x}"
    }
    origin.put("/m/a", CONTENT)
    first = await fetch(fetcher, f"{origin.url}/m/")
    origin.put("/m/b", b"more")
    second = await fetch(fetcher, f"{origin.url}/m/", relist=True)
    assert len(origin.requests("/m/a")) == 1
    for stored in (first, second, store.revisions()[first.uri]):
        assert stored.integrity == Integrity("provider", ("crc32c",))
    origin.answer_headers = lambda _: {}
    origin.put("/m/c", b"nobody vouches for this")
    third = await fetch(fetcher, f"{origin.url}/m/", relist=True)
    assert not third.integrity.verified


async def test_another_version_during_the_read_lists_again_and_takes_the_new_one(fetcher, origin, store):
    origin.put("/m/a", CONTENT)

    def replace_once(asked):
        origin.on_request = lambda _: None
        origin.put("/m/a", b"version 2")

    origin.on_request = replace_once
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert files(store, stored) == {"a": b"version 2"}


async def test_an_object_that_never_holds_still_is_snapshot_changed(fetcher, origin, provider):
    origin.put("/m/a", CONTENT)
    origin.every = Fault(swap_etag=True)
    with pytest.raises(RetryableError) as caught:
        await fetch(fetcher, f"{origin.url}/m/")
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED
    assert provider.listings == 2


async def test_what_is_not_there_is_told_at_once(fetcher, origin):
    with pytest.raises(TerminalError) as caught:
        await fetch(fetcher, f"{origin.url}/none/")
    assert caught.value.reason is Reason.NOT_FOUND


async def test_one_file_that_fails_fails_the_fetch_and_the_others_are_kept_for_the_next(
    fetcher, origin, store
):
    for name in "abc":
        origin.put(f"/m/{name}", CONTENT + name.encode())
    origin.put("/m/b", CONTENT, [Fault(status=404)])
    with pytest.raises(TerminalError):
        await fetch(fetcher, f"{origin.url}/m/")
    stored = await fetch(fetcher, f"{origin.url}/m/")
    assert len(files(store, stored)) == 3


async def test_bytes_without_any_validator_are_known_by_their_digest(store, origin, mover):
    provider = OriginProvider(origin, pinned=False, sizes=False)
    fetcher = Fetcher(lambda _: provider, store, mover)
    origin.every = Fault(chunked=True, drop_etag=True)
    origin.put("/m", b"one")
    uri = f"{origin.url}/m"
    first = await fetch(fetcher, uri)
    same = await fetch(fetcher, uri, relist=True)
    origin.put("/m", b"two")
    other = await fetch(fetcher, uri, relist=True)
    assert same.revision == first.revision
    assert other.revision != first.revision
    assert files(store, other) == {"m": b"two"}
    assert store.manifest(uri, other.revision).proof == "seen-first"
    await fetcher.close()


async def test_no_room_is_told_with_the_numbers_before_a_byte_is_asked_for(origin, provider, tmp_path):
    class Small(Store):
        def free_bytes(self):
            return 1000

    store = Small.open(tmp_path / "models", tmp_path / "store")
    wanted = []
    claims = Claims(store, make_room=lambda missing, _: wanted.append(missing))
    fetcher = Fetcher(lambda _: provider, store, Engine(), claims=claims)
    origin.put("/m/a", CONTENT)
    with pytest.raises(RetryableError) as caught:
        await fetch(fetcher, f"{origin.url}/m/")
    assert caught.value.reason is Reason.DISK_FULL
    assert "512000 bytes" in caught.value.message
    assert "1000 bytes are free" in caught.value.message
    assert wanted == [511000]
    assert origin.requests() == []
    await fetcher.close()


async def test_progress_counts_held_and_moved_bytes(fetcher, origin):
    origin.put("/m/a", CONTENT)
    await fetch(fetcher, f"{origin.url}/m/")
    origin.put("/m/b", b"12345")
    progress = Progress(0.0)
    await fetcher.fetch(f"{origin.url}/m/", progress, relist=True)
    reading = progress.snapshot(2.0)
    assert (reading.bytes, reading.total_bytes) == (len(CONTENT) + 5, len(CONTENT) + 5)
    assert reading.eta_seconds == 0


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


async def test_the_members_of_an_archive_are_the_files_and_the_archive_goes(fetcher, origin, store):
    origin.put("/m.zip", zipped({"model/a.bin": CONTENT, "b.txt": b"b"}))
    uri = f"{origin.url}/m.zip"
    stored = await fetch(fetcher, uri)
    assert files(store, stored) == {"model/a.bin": CONTENT, "b.txt": b"b"}
    manifest = store.manifest(uri, stored.revision)
    assert manifest.unpacked_from is not None
    assert {e.checksum for e in manifest.entries} == {
        f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (CONTENT, b"b")
    }
    assert len([path for path in store.store_dir.iterdir() if path.name.startswith(".agent-blob")]) == 2
    again = await fetch(fetcher, uri, relist=True)
    assert again.revision == stored.revision
    assert len(origin.requests("/m.zip")) == 1


async def test_one_archive_that_two_models_name_is_moved_and_unpacked_once(fetcher, origin, store):
    origin.put("/m.zip", zipped({"a.bin": CONTENT}))
    uri = f"{origin.url}/m.zip"
    one, two = await asyncio.gather(fetch(fetcher, uri), fetch(fetcher, uri))
    assert one.revision == two.revision
    assert files(store, one) == {"a.bin": CONTENT}
    assert len(origin.requests("/m.zip")) == 1


async def refusal(fetcher, uri):
    with pytest.raises(AgentError) as caught:
        await fetch(fetcher, uri, relist=True)
    assert caught.value.reason is Reason.ARCHIVE_REFUSED
    return type(caught.value)


async def test_an_archive_that_is_refused_leaves_nothing_and_is_fetched_once_more_at_once(
    fetcher, origin, store
):
    origin.put("/m.zip", zipped({"../evil": b"x"}))
    refusals = [await refusal(fetcher, f"{origin.url}/m.zip") for _ in range(3)]
    assert refusals == [RetryableError, TerminalError, TerminalError]
    assert len(origin.requests("/m.zip")) == 3
    assert (store.revisions(), store.used_bytes()) == ({}, 0)


async def test_an_archive_that_a_cache_kept_damaged_for_a_while_is_fetched_when_it_is_tried_again(
    fetcher, origin, store
):
    origin.put("/m.tar.gz", gzip.compress(tar(member(b"a.bin", CONTENT)), mtime=0))
    uri = f"{origin.url}/m.tar.gz"
    origin.every = Fault(flip=1)
    assert [await refusal(fetcher, uri) for _ in range(2)] == [RetryableError, TerminalError]
    origin.every = HONEST
    assert files(store, await fetch(fetcher, uri)) == {"a.bin": CONTENT}


async def test_an_archive_that_was_changed_on_its_way_each_time_is_fetched_until_it_is_whole(
    fetcher, origin, store
):
    """No checksum proves it, and its validator is the honest one's."""
    origin.put("/m.tar.gz", gzip.compress(tar(member(b"a.bin", CONTENT)), mtime=0))
    uri = f"{origin.url}/m.tar.gz"
    for at in (0, 1, 0, 1):
        origin.every = Fault(flip=at)
        assert await refusal(fetcher, uri) is RetryableError
    origin.every = HONEST
    assert files(store, await fetch(fetcher, uri)) == {"a.bin": CONTENT}


async def test_a_refused_archive_whose_bytes_are_proved_is_not_fetched_again(fetcher, origin, provider):
    origin.put("/m.zip", content := zipped({"../evil": b"x"}))
    declared = Declaration(sha256=hashlib.sha256(content).hexdigest())
    for _ in range(2):
        with pytest.raises(TerminalError) as caught:
            await fetcher.fetch(f"{origin.url}/m.zip", Progress(), relist=True, declared=declared)
        assert caught.value.reason is Reason.ARCHIVE_REFUSED
    assert len(origin.requests("/m.zip")) == 1
