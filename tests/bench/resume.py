"""What a crash costs, and what models cost each other; run after `tests.bench.download`:

    python -m tests.bench.resume [--mib 1024]

1. SIGKILL at half of a large object, then again from the start: bytes sent in all, as a ratio of its size.
2. Twenty small models behind a large one: their time beside the large download against their time alone.
3. Two models that share nine of ten shards: bytes sent, as a ratio of the eleven different shards.
"""

import argparse
import asyncio
import hashlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.base import HttpSource, Listing, RemoteObject
from tests.fakes.faulty_origin import FaultyOrigin
from tests.fakes.origin_provider import OriginAnswers, OriginProvider

MIB = 1 << 20


class OneObject:
    """A provider of one object of an origin in another process."""

    def __init__(self, url: str, size: int, etag: str) -> None:
        self._url = url
        self._object = RemoteObject("model.bin", url, size, f"{url} {etag}")
        self._etag = etag

    async def resolve(self, uri: str) -> Listing:
        return Listing((self._object,), single=True)

    async def source(self, obj: RemoteObject) -> HttpSource:
        pins = {"etag": self._etag}
        return HttpSource(self._url, OriginAnswers(), headers={"If-Match": self._etag}, expect=pins)

    async def close(self) -> None:
        return


async def fetch_one(url: str, size: int, etag: str, folder: Path) -> None:
    """Fetch one object into the store in *folder*."""
    provider = OneObject(url, size, etag)
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())
        await fetcher.fetch(url, Progress(), relist=True)
        await fetcher.close()


def after_a_kill(origin: FaultyOrigin, content: bytes) -> None:
    """Kill the fetching process at half, start it again, and count what the origin sent."""
    origin.put("/model.bin", content)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{origin.url}/model.bin", str(len(content)), origin.etag("/model.bin"), folder)
        command = (sys.executable, "-m", "tests.bench.resume", "--child", *arguments)
        child = subprocess.Popen(command)
        while origin.sent_bytes < len(content) // 2 and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.5)
        before = origin.sent_bytes
        subprocess.run(command, check=True)
        sent = origin.sent_bytes
        print(
            f"killed after {before / MIB:.0f} MiB were sent, whole after {sent / MIB:.0f} MiB: "
            f"{sent / len(content):.3f} × the object"
        )


async def beside_a_large_one(origin: FaultyOrigin, content: bytes, folder: Path) -> None:
    """Time twenty small models alone, then behind a large one that is under way."""
    for number in range(20):
        origin.put(f"/alone/{number}", content[number : number + 65536])
        origin.put(f"/beside/{number}", content[number + 99 : number + 99 + 65536])
    origin.put("/large", content)
    provider = OriginProvider(origin)
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())

        async def small(kind: str, number: int) -> float:
            began = time.monotonic()
            await fetcher.fetch(f"{origin.url}/{kind}/{number}", Progress(), relist=True)
            return time.monotonic() - began

        alone = await asyncio.gather(*(small("alone", number) for number in range(20)))
        progress = Progress()
        async with asyncio.TaskGroup() as group:
            large = group.create_task(fetcher.fetch(f"{origin.url}/large", progress, relist=True))
            while progress.snapshot(time.monotonic()).bytes < len(content) // 20:
                await asyncio.sleep(0.005)
            beside = await asyncio.gather(*(small("beside", number) for number in range(20)))
            still = not large.done()
        await fetcher.close()

    def told(seconds: list[float]) -> str:
        return f"median {statistics.median(seconds) * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms"

    print(f"20 small models alone: {told(alone)}; behind a large one: {told(beside)}")
    way = "still" if still else "no longer"
    print(f"longest {max(beside) / max(alone):.1f} ×; the large one was {way} under way")


async def sharing(origin: FaultyOrigin, content: bytes, folder: Path) -> None:
    """Fetch two folders with nine shards of one identity, and count the bytes sent."""
    shard = len(content) // 10
    for number in range(10):
        origin.put(f"/m/{number}", content[number * shard : (number + 1) * shard])
    provider = OriginProvider(origin)
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())
        await fetcher.fetch(f"{origin.url}/m/", Progress(), relist=True)
        before = origin.sent_bytes
        origin.put("/m/3", content[7 : 7 + shard])
        await fetcher.fetch(f"{origin.url}/m/", Progress(), relist=True)
        await fetcher.close()
    print(f"an update that shares 9 of 10 shards: {(origin.sent_bytes - before) / shard:.3f} shards sent")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--child", nargs=4)
    args = parser.parse_args()
    if args.child:
        url, size, etag, folder = args.child
        asyncio.run(fetch_one(url, int(size), etag, Path(folder)))
        return
    content = hashlib.shake_256(b"resume").digest(MIB) * args.mib
    with FaultyOrigin() as origin:
        after_a_kill(origin, content)
    with FaultyOrigin() as origin, tempfile.TemporaryDirectory() as folder:
        asyncio.run(beside_a_large_one(origin, content, Path(folder)))
    with FaultyOrigin() as origin, tempfile.TemporaryDirectory() as folder:
        asyncio.run(sharing(origin, content, Path(folder)))


if __name__ == "__main__":
    main()
