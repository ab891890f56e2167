"""A model of very many files (fault D17): what it costs in memory is what is to be known of each file."""

import tracemalloc

import pytest

from agent.artifacts.fetch import Fetcher
from agent.artifacts.orders import Moved
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.base import Listing, RemoteObject

FEW, MANY = 5_000, 15_000
BYTES_A_FILE = 1_500
"""Path, key, identity, blob and checksum with their objects, listed and in the index: 1,060 measured."""


class Listed:
    """A folder of so many small files."""

    def __init__(self, count):
        self.count = count

    async def resolve(self, uri):
        keys = (f"model/part-{number:06}.bin" for number in range(self.count))
        return Listing(tuple(RemoteObject(key[6:], key, 1, f"https://host/{key}#etag={key}") for key in keys))

    async def source(self, obj):
        raise AssertionError("nobody reads it")

    async def close(self):
        pass


class Instant:
    """Has every order's bytes at once."""

    async def move(self, orders):
        for order in orders:
            order.partial.write_bytes(b"x")
            order.settle(Moved(1, {"crc32c": f"{hash(order.obj.key) & 0xFFFFFFFF:08x}"}))

    def close(self):
        pass


async def peak(folder, count):
    """Return the most bytes that Python holds while a model of so many files is fetched."""
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: Listed(count), store, Instant())
        tracemalloc.start()
        try:
            stored = await fetcher.fetch("https://host/model/", Progress(), relist=True)
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await fetcher.close()
        assert stored.size_bytes == count
        return found


async def test_each_file_more_costs_what_is_known_of_it_and_nothing_of_its_download(tmp_path):
    few, many = await peak(tmp_path / "few", FEW), await peak(tmp_path / "many", MANY)
    assert (many - few) / (MANY - FEW) < BYTES_A_FILE, (many - few) / (MANY - FEW)


@pytest.mark.parametrize("count", [4096, 4097])
async def test_no_file_is_left_out_where_they_are_moved_in_rounds(tmp_path, count):
    await peak(tmp_path, count)
