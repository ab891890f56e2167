"""Objects that come by no HTTP request: files of this machine, and readers of a library."""

import asyncio
import itertools
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import google_crc32c
import pytest

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.local import AT_ONCE
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import FileSource, Listing, ReaderSource, RemoteObject
from agent.storage.file import FileProvider
from tests.artifacts.engine_stands import order_in

CONTENT = bytes(range(256)) * 80_000  # 20 MB: more than two pieces of a reader


class Library:
    """A provider whose objects only a library can read."""

    def __init__(self, content=CONTENT, *, size=None, checksums=None, identity="library:1"):
        self.content, self.identity = content, identity
        self.object = RemoteObject("m.bin", "m", size, self.identity, checksums=checksums or {})
        self.reads = []
        self.hook = lambda start: None

    async def resolve(self, uri):
        return Listing((self.object,), single=True)

    async def source(self, obj):
        return ReaderSource(self.read, self.recheck)

    def read(self, start, stop):
        self.reads.append((start, stop))
        self.hook(start)
        return self.content[start:stop]

    async def recheck(self):
        return self.identity

    async def close(self):
        return


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "models", tmp_path / "store") as store:
        yield store


@pytest.fixture
async def fetch(store):
    engine = Engine(EngineSettings())

    async def fetch(provider, uri="lib://m"):
        stored = await Fetcher(lambda _: provider, store, engine).fetch(uri, Progress(), relist=True)
        manifest = store.manifest(uri, stored.revision)
        return {entry.path: store.blob_path(entry.blob).read_bytes() for entry in manifest.entries}

    yield fetch
    engine.close()


def open_below(folder):
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(each.readlink()))
    return [link for link in links if link.startswith(f"{folder}/")]


async def test_a_library_that_was_cancelled_while_it_hung_writes_nothing_into_the_next_try(tmp_path):
    reading, go = threading.Event(), threading.Event()

    def hung(start):
        reading.set()
        go.wait(10)

    library, other = Library(size=len(CONTENT)), Library(bytes(len(CONTENT)))
    library.hook, library.identity, other.identity = hung, "identity", "identity"
    order = order_in(tmp_path, len(CONTENT))
    engine = Engine(EngineSettings())
    first = asyncio.ensure_future(engine.move([replace(order, source=partial(library.source, order.obj))]))
    await asyncio.to_thread(reading.wait, 10)
    first.cancel()
    await asyncio.wait([first])

    await engine.move([replace(order, source=partial(other.source, order.obj))])
    go.set()  # the first one reads on, after all that the second wrote
    while open_below(tmp_path):
        await asyncio.sleep(0.001)
    assert (tmp_path / "part").read_bytes() == other.content
    engine.close()


async def test_the_bandwidth_limit_holds_for_files_of_this_machine_too(tmp_path):
    content = CONTENT[: 2 << 20]

    def opened():
        memory = os.memfd_create("elsewhere")  # no file system could share its blocks with ours
        os.write(memory, content)
        return memory

    async def source():
        return FileSource(opened)

    engine = Engine(EngineSettings(bandwidth_limit=4 << 20))
    began = asyncio.get_running_loop().time()
    await engine.move([replace(order_in(tmp_path, len(content)), source=source)])
    engine.close()
    assert (tmp_path / "part").read_bytes() == content
    assert asyncio.get_running_loop().time() - began > 0.4


@pytest.mark.parametrize("size", [None, len(CONTENT)])
async def test_a_library_is_read_piece_by_piece_to_its_end(fetch, size):
    assert await fetch(Library(size=size)) == {"m.bin": CONTENT}


async def test_what_a_library_reads_is_checked_like_anything_else(fetch, store):
    right = {"crc32c": f"{google_crc32c.value(CONTENT):08x}"}
    library = Library(CONTENT[:-1] + b"?", size=len(CONTENT), checksums=right)
    with pytest.raises(RetryableError) as caught:
        await fetch(library)
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH
    assert store.revisions() == {}


async def test_a_library_that_returns_too_little_is_not_believed(fetch):
    with pytest.raises(RetryableError) as caught:
        await fetch(Library(CONTENT[:-1], size=len(CONTENT)))
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH


async def test_an_object_that_changed_while_a_library_read_it_is_not_spliced(fetch, store):
    library = Library(size=len(CONTENT))

    def change(start):
        if start:
            library.identity = "library:2"

    library.hook = change
    with pytest.raises(RetryableError) as caught:
        await fetch(library)
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED
    assert store.revisions() == {}


async def test_a_library_that_hangs_does_not_hold_up_a_cancel(fetch):
    library, reading, loop = Library(), asyncio.Event(), asyncio.get_running_loop()
    never = threading.Event()

    def hang(start):
        loop.call_soon_threadsafe(reading.set)
        never.wait(30)

    library.hook = hang
    task = asyncio.ensure_future(fetch(library))
    await reading.wait()
    task.cancel()
    async with asyncio.timeout(1):
        await asyncio.wait([task])
    never.set()
    assert task.cancelled()


@pytest.fixture
async def impatient(store):
    """An engine that gives a library a quarter of a second for each piece."""
    engine = Engine(EngineSettings(stall_seconds=0.25, min_rate=1 << 40))
    yield engine
    engine.close()


async def test_a_library_that_never_comes_back_costs_its_thread_and_no_other_model(impatient, store):
    never = threading.Event()
    libraries = {f"lib{number}": Library(identity=f"library:{number}") for number in range(AT_ONCE + 1)}
    for library in list(libraries.values())[1:]:
        library.hook = lambda start: never.wait(30)
    fetcher = Fetcher(lambda scheme: libraries[scheme], store, impatient)
    hung = [
        asyncio.ensure_future(fetcher.fetch(f"{scheme}://m", Progress(), relist=True))
        for scheme in libraries
        if scheme != "lib0"
    ]
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*hung, return_exceptions=True)
    assert {error.reason for error in ended} == {Reason.STORAGE_TIMEOUT}
    assert all(error.retry_after_seconds >= 60 for error in ended), "each try may cost another thread"
    assert impatient.hanging == AT_ONCE
    await fetcher.fetch("lib0://m", Progress(), relist=True)
    never.set()
    async with asyncio.timeout(5):
        while impatient.hanging:
            await asyncio.sleep(0.01)


async def test_what_a_call_that_was_left_behind_brings_late_is_written_nowhere(impatient, store):
    late, calls, library = threading.Event(), itertools.count(), Library()

    def read(start, stop):
        if next(calls) == 0:
            late.wait(30)
            return b"?" * (stop - start)
        if start:
            late.set()
            while impatient.hanging:
                time.sleep(0.001)  # the late one is done when its thread is counted no more
        return CONTENT[start:stop]

    library.read = read
    fetcher = Fetcher(lambda _: library, store, impatient)
    with pytest.raises(RetryableError):
        await fetcher.fetch("lib://m", Progress(), relist=True)
    stored = await fetcher.fetch("lib://m", Progress(), relist=True)
    (entry,) = store.manifest("lib://m", stored.revision).entries
    assert store.blob_path(entry.blob).read_bytes() == CONTENT


async def test_files_of_this_machine_are_copied_and_never_linked(fetch, store, tmp_path):
    folder = tmp_path / "share" / "model"
    (folder / "deep").mkdir(parents=True)
    for number in range(30):
        (folder / f"{number}.bin").write_bytes(CONTENT[number : number + 1000 * number])
    (folder / "deep" / "large.bin").write_bytes(CONTENT)
    got = await fetch(FileProvider([tmp_path / "share"]), f"file://{folder}")
    assert got.pop("deep/large.bin") == CONTENT
    assert got == {f"{n}.bin": CONTENT[n : n + 1000 * n] for n in range(30)}
    assert (folder / "deep" / "large.bin").stat().st_nlink == 1


async def test_a_file_that_is_written_while_it_is_copied_is_snapshot_changed(fetch, store, tmp_path):
    file = tmp_path / "share" / "m.bin"
    file.parent.mkdir()
    file.write_bytes(CONTENT)

    class Written(FileProvider):
        async def source(self, obj):
            file.write_bytes(CONTENT + b"more")
            return await super().source(obj)

    with pytest.raises(RetryableError) as caught:
        await fetch(Written([tmp_path / "share"]), f"file://{file}")
    assert caught.value.reason is Reason.SNAPSHOT_CHANGED
    assert store.revisions() == {}
