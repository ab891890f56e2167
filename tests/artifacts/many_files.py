"""Fetch a model of so many small files and print the most bytes that Python held, in a process of its own:

    python -m tests.artifacts.many_files FOLDER COUNT

What other threads allocate, those of earlier tests too, would be counted likewise.
"""

import asyncio
import sys
import tracemalloc
from pathlib import Path

from agent.artifacts.fetch import Fetcher
from agent.artifacts.orders import Moved
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.base import Listing, RemoteObject


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


if __name__ == "__main__":
    print(asyncio.run(peak(Path(sys.argv[1]), int(sys.argv[2]))))
