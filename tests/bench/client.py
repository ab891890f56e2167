"""The agent's own side of the download benchmark, as a process: fetch all files of a case, checks on.

    python -m tests.bench.client MODE BASE-URL CA DEST FILES

MODE `move` ends when every file is verified and in place, as the peers end; `s3` does likewise, with the
provider of s3:// that lists, heads and signs; `fetch` goes through the whole of the fetch and the store,
fsync and manifest included.
"""

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from agent.aio.leaving import leave
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import SMALL_BYTES, EngineSettings
from agent.artifacts.orders import Moved, Order, judge
from agent.artifacts.progress import Meter, Progress
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource, Listing, RemoteObject, Source, StorageProvider


class Answers:
    """Reads the answers of the benchmark's nginx, which tells no checksums."""

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        return RetryableError(Reason.STORAGE_ERROR, f"status {status}")

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {}


class Static:
    """Objects as listed by the benchmark: path, size and the ETag that nginx makes of time and size."""

    def __init__(self, base: str, ca: str, files: Path) -> None:
        self._base, self._answers = base, Answers()
        self._context = ssl.create_default_context(cafile=ca) if base.startswith("https") else None
        self._objects = tuple(self._object(entry, files.name) for entry in os.scandir(files))

    def _object(self, entry: os.DirEntry[str], case: str) -> RemoteObject:
        stat = entry.stat()
        etag = f'"{int(stat.st_mtime):x}-{stat.st_size:x}"'
        path = f"{case}/{entry.name}"
        return RemoteObject(path, path, stat.st_size, f"{self._base}/{path} {etag}")

    async def resolve(self, uri: str) -> Listing:
        return Listing(self._objects)

    async def source(self, obj: RemoteObject) -> HttpSource:
        etag = obj.identity.rpartition(" ")[2]
        return HttpSource(
            url=f"{self._base}/bench/{obj.key}",
            answers=self._answers,
            headers={"If-Match": etag},
            expect={"etag": etag},
            ssl_context=self._context,
        )

    async def close(self) -> None:
        return


async def move(provider: StorageProvider, uri: str, dest: Path, engine: Engine) -> None:
    listing = await provider.resolve(uri)
    for folder in {obj.path.rpartition("/")[0] for obj in listing.objects}:
        (dest / folder).mkdir(parents=True, exist_ok=True)
    await engine.move([order(provider, dest, number, obj) for number, obj in enumerate(listing.objects)])


def order(provider: StorageProvider, dest: Path, number: int, obj: RemoteObject) -> Order:
    partial = Path(f"{dest}/.agent-part-{number}")

    async def source() -> Source:
        return await provider.source(obj)

    def settle(moved: Moved) -> None:
        problem, _ = judge(obj, moved)
        if problem:
            raise SystemExit(problem)
        if obj.size > SMALL_BYTES:
            journal.unlink()
        os.rename(partial, f"{dest}/{obj.path}")  # noqa: PTH104 - 4,000 times

    journal = (
        partial if obj.size <= SMALL_BYTES else dest / f".agent-journal-{number}"
    )  # small ones have none
    return Order(obj, source, partial, journal, Meter(), settle)


async def main() -> None:
    mode, base, ca, dest, files = sys.argv[1:]
    provider = Static(base, ca, Path(files))
    engine = Engine(EngineSettings(**json.loads(os.environ.get("ENGINE_SETTINGS", "{}"))))
    began = time.perf_counter()
    if mode == "move":
        await move(provider, "", Path(dest), engine)
        engine.close()
    elif mode == "s3":
        from agent.storage.s3 import S3Provider  # noqa: PLC0415 - what the others need not pay for

        anonymous = {"AWS_ENDPOINT_URL": base, "awsAnonymousCredential": "true", "AWS_REGION": "us-east-1"}
        await move(S3Provider(anonymous), f"s3://bench/{Path(files).name}/", Path(dest), engine)
        engine.close()
    else:
        from agent.artifacts.fetch import Fetcher  # noqa: PLC0415 - as above
        from agent.artifacts.store import Store  # noqa: PLC0415 - as above

        with contextlib.closing(Store.open(Path(dest) / "models", Path(dest) / "store")) as store:
            fetcher = Fetcher(lambda _: provider, store, engine)
            await fetcher.fetch(f"{base}/", Progress(), relist=True)
            await fetcher.close()
    print(f"{time.perf_counter() - began:.3f}")


if __name__ == "__main__":
    asyncio.run(main())
    leave(0)  # as `model-agent run` does
