"""Reading the bytes of a `Source` in tests: the plainest reader that keeps the seam's promises.

It is not the artifact layer's: no retry, no resume, no verification beyond what the seam itself asks of a
reader (`expect`, redirects refused, `recheck`).
"""

import asyncio
import os
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import FileSource, HttpSource, ReaderSource, Source, StorageProvider

BLOCK = 1 << 16


async def read_source(
    source: Source,
    identity: str,
    start: int = 0,
    stop: int | None = None,
    *,
    resolver: AbstractResolver | None = None,
) -> bytes:
    """Return bytes `[start, stop)` of *source*, to the end where *stop* is None.

    *resolver* finds the hosts of http sources, where names are made up; *identity* is that of the object.
    Raises RetryableError(SnapshotChanged) where the bytes are not its.
    """
    match source:
        case HttpSource():
            return await _read_http(source, start, stop, resolver)
        case FileSource():
            return await asyncio.to_thread(_read_file, source, start, stop)
        case ReaderSource():
            return await _read_reader(source, identity, start, stop)


async def _read_http(
    source: HttpSource, start: int, stop: int | None, resolver: AbstractResolver | None
) -> bytes:
    if stop is not None and stop <= start:
        return b""
    headers = dict(source.headers)
    ranged = start > 0 or stop is not None
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    headers.setdefault("Accept-Encoding", "identity")
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver), auto_decompress=False
        ) as session,
        session.get(
            URL(source.url, encoded=True),
            headers=headers,
            allow_redirects=False,
            ssl=source.ssl_context or True,
            proxy=source.proxy,
        ) as response,
    ):
        body = await response.read()
        answered = {name.lower(): value for name, value in response.headers.items()}
        if response.status not in {200, 206}:
            raise source.answers.error(response.status, answered, body[:65536])
        for name, wanted in source.expect.items():
            if answered.get(name) != wanted:
                raise RetryableError(Reason.SNAPSHOT_CHANGED, f"another {name} than when it was listed")
        if response.status == 206:
            assert answered["content-range"].startswith(f"bytes {start}-")
            return body
        return body[start:stop]  # a server may ignore Range


def _read_file(source: FileSource, start: int, stop: int | None) -> bytes:
    descriptor = source.open()
    try:
        size = os.fstat(descriptor).st_size
        end = size if stop is None else min(stop, size)
        parts = []
        while start < end:
            part = os.pread(descriptor, min(BLOCK, end - start), start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


async def _read_reader(source: ReaderSource, identity: str, start: int, stop: int | None) -> bytes:
    parts = []
    while stop is None or start < stop:
        end = start + BLOCK if stop is None else min(stop, start + BLOCK)
        part = await asyncio.to_thread(source.read, start, end)
        assert len(part) <= end - start
        parts.append(part)
        start += len(part)
        if start < end:
            break
    if await source.recheck() != identity:
        raise RetryableError(Reason.SNAPSHOT_CHANGED, "another identity than when it was listed")
    return b"".join(parts)


async def fetched(provider: StorageProvider, uri: str, folder: Path) -> tuple[dict[str, bytes], str]:
    """Fetch a URI by the engine into a store of *folder*; the model's files, and what proves them."""
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())
        try:
            stored = await fetcher.fetch(uri, Progress(), relist=True)
        finally:
            await fetcher.close()
        found = store.manifest(stored.uri, stored.revision)
        assert found is not None
        return {each.path: store.blob_path(each.blob).read_bytes() for each in found.entries}, found.proof
