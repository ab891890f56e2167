"""What a crash costs, and what models cost each other; run after `tests.bench.download`:

    python -m tests.bench.resume [--mib 1024] [--json FILE]

1. SIGKILL at half of a large object, then again from the start: bytes sent in all, as a ratio of its size
   (aim: at most 1.05).
2. Small models behind a large one: the p99 of their time beside it against their time alone (aim: at most 3).
3. An update that shares nine of ten shards, and two models that share nine: bytes sent, in shards.

The origin is a process of its own, so that it takes no time from whoever is measured but on the cores.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.base import HttpSource, Listing, RemoteObject, Source
from tests.fakes.faulty_origin import FaultyOrigin
from tests.fakes.origin_provider import OriginAnswers

MIB = 1 << 20
SMALL, AT_ONCE, TURNS = 64 << 10, 20, 5


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


class OriginProcess:
    """The origin, told what to serve and asked what it sent by a line of JSON each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.objects: dict[str, tuple[int, str]] = {}
        self.url: str = self._ask({})["url"]

    def _ask(self, words: dict[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the origin was started without pipes")
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def put(self, path: str, start: int, stop: int) -> None:
        """Serve these bytes of the content at *path*."""
        told = self._ask({"put": path, "start": start, "stop": stop})
        self.objects[path] = (stop - start, told["etag"])

    @property
    def sent_bytes(self) -> int:
        """What was sent so far."""
        return int(self._ask({})["sent"])

    # what a provider is asked

    async def resolve(self, uri: str) -> Listing:
        key = uri.removeprefix(self.url)
        folder = key.endswith("/")
        paths = [path for path in self.objects if (path.startswith(key) if folder else path == key)]
        return Listing(tuple(self._object(path, key) for path in sorted(paths)), single=not folder)

    def _object(self, path: str, key: str) -> RemoteObject:
        size, etag = self.objects[path]
        name = path.removeprefix(key) or path.rpartition("/")[2]
        return RemoteObject(name, path, size, f"{self.url}{path} {etag}")

    async def source(self, obj: RemoteObject) -> Source:
        etag = obj.identity.rpartition(" ")[2]
        return HttpSource(
            self.url + obj.key, OriginAnswers(), headers={"If-Match": etag}, expect={"etag": etag}
        )

    async def close(self) -> None:
        return


def serve(mib: int) -> None:
    """Be the origin."""
    content = hashlib.shake_256(b"resume").digest(MIB) * mib
    with FaultyOrigin() as origin:
        for line in sys.stdin:
            words, etag = json.loads(line), None
            if "put" in words:
                origin.put(words["put"], content[words["start"] : words["stop"]])
                etag = origin.etag(words["put"])
            print(json.dumps({"url": origin.url, "sent": origin.sent_bytes, "etag": etag}), flush=True)


@contextmanager
def origin_of(mib: int) -> Iterator[OriginProcess]:
    """Run the origin while the block lasts."""
    command = (sys.executable, "-m", "tests.bench.resume", "--serve", "--mib", str(mib))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield OriginProcess(process)
        finally:
            process.terminate()


def after_a_kill(origin: OriginProcess, mib: int) -> dict[str, float]:
    """Kill the fetching process at half, start it again, and count what the origin sent."""
    size = mib * MIB
    origin.put("/model.bin", 0, size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{origin.url}/model.bin", str(size), origin.objects["/model.bin"][1], folder)
        command = (sys.executable, "-m", "tests.bench.resume", "--child", *arguments)
        child = subprocess.Popen(command)
        while origin.sent_bytes < size // 2 and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.5)
        before = origin.sent_bytes
        subprocess.run(command, check=True)
        sent = origin.sent_bytes
    print(
        f"killed after {before / MIB:.0f} MiB were sent, whole after {sent / MIB:.0f} MiB: "
        f"{sent / size:.3f} × the object, aim ≤ 1.05"
    )
    return {"objectMib": mib, "sentAtKillMib": before / MIB, "ratio": sent / size}


async def beside_a_large_one(origin: OriginProcess, mib: int, folder: Path) -> dict[str, Any]:
    """Time small models alone, then the same number behind a large one that is under way."""
    origin.put("/large", 0, mib * MIB)
    for number in range(AT_ONCE * TURNS):
        origin.put(f"/alone/{number}", number, number + SMALL)
        origin.put(f"/beside/{number}", number + 999, number + 999 + SMALL)
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: origin, store, Engine())

        async def small(kind: str, number: int) -> float:
            began = time.monotonic()
            await fetcher.fetch(f"{origin.url}/{kind}/{number}", Progress(), relist=True)
            return time.monotonic() - began

        async def turn(kind: str, first: int) -> list[float]:
            return await asyncio.gather(*(small(kind, first + number) for number in range(AT_ONCE)))

        alone = [each for first in range(TURNS) for each in await turn("alone", first * AT_ONCE)]
        progress, beside, under_way = Progress(), [], 0
        async with asyncio.TaskGroup() as group:
            large = group.create_task(fetcher.fetch(f"{origin.url}/large", progress, relist=True))
            while progress.snapshot(time.monotonic()).bytes < mib * MIB // 20 and not large.done():
                await asyncio.sleep(0.005)
            for first in range(TURNS):
                beside += await turn("beside", first * AT_ONCE)
                under_way += not large.done()
        await fetcher.close()
    one, two = _spread(alone), _spread(beside)
    for kind, each in (("alone", one), ("behind a large one", two)):
        words = f"median {each['median'] * 1000:.0f} ms, p99 {each['p99'] * 1000:.0f} ms"
        print(f"{AT_ONCE * TURNS} small models {kind}: {words}")
    ratio = two["p99"] / one["p99"]
    print(f"p99 {ratio:.1f} ×, aim ≤ 3; the large one was under way in {under_way} of {TURNS} turns")
    return {"alone": one, "beside": two, "ratio": ratio, "turnsUnderWay": under_way}


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"median": statistics.median(ordered), "p99": ordered[round(len(ordered) * 0.99) - 1]}


async def sharing(origin: OriginProcess, mib: int, folder: Path) -> dict[str, float]:
    """Count the bytes sent for an update of one shard in ten, and for two models that share nine."""
    shard = max(2 * MIB, mib * MIB // 32)
    for number in range(9):
        origin.put(f"/m/shared/{number}", number * MIB, number * MIB + shard)
    origin.put("/m/own", 7, 7 + shard)
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: origin, store, Engine())
        before = origin.sent_bytes
        uris = (f"{origin.url}/m/", f"{origin.url}/m/shared/")
        await asyncio.gather(*(fetcher.fetch(uri, Progress(), relist=True) for uri in uris))
        two = (origin.sent_bytes - before) / shard
        before = origin.sent_bytes
        origin.put("/m/own", 99, 99 + shard)
        await fetcher.fetch(uris[0], Progress(), relist=True)
        update = (origin.sent_bytes - before) / shard
        await fetcher.close()
    print(f"two models at once that share 9 of 10 shards: {two:.3f} shards sent of 10 different ones")
    print(f"an update that shares 9 of 10 shards: {update:.3f} shards sent")
    return {"twoModelsShards": two, "updateShards": update}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        url, size, etag, folder = args.child
        asyncio.run(fetch_one(url, int(size), etag, Path(folder)))
        return
    if args.serve:
        serve(args.mib)
        return
    results: dict[str, Any] = {}
    with origin_of(args.mib) as origin:
        results["kill"] = after_a_kill(origin, args.mib)
    with origin_of(args.mib) as origin, tempfile.TemporaryDirectory() as folder:
        results["beside"] = asyncio.run(beside_a_large_one(origin, args.mib, Path(folder)))
    with origin_of(args.mib) as origin, tempfile.TemporaryDirectory() as folder:
        results["sharing"] = asyncio.run(sharing(origin, args.mib, Path(folder)))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
