"""Stored bytes are read again and compared with what was verified: what rots on disk is found (fault D11).

One pass reads each blob of what is wanted or was told once, at a bounded rate. A blob that is not what it was
is taken out of use with every revision of it, so that the next plan fetches it again; what serves stays.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agent.artifacts.digests import COMPUTABLE, Digests
from agent.artifacts.errors import disk_errors
from agent.artifacts.manifest import BlobId, Entry
from agent.artifacts.store import Store

log = logging.getLogger("agent.scrub")

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What one pass found: how many blobs and bytes were compared, and which were damaged."""

    blobs: int = 0
    size_bytes: int = 0
    damaged: tuple[BlobId, ...] = ()


async def scrub(store: Store, rate: int) -> Scrubbed:
    """Read all that is stored at no more than *rate* bytes a second (0: as fast as it goes).

    Blobs without a checksum that can be computed are left out. Raises RetryableError where the disk does
    not let itself be read.
    """
    blobs = size = 0
    damaged: list[BlobId] = []
    for entry in _entries(store):
        found = await _digest(store, entry, rate)
        if found is None:
            continue
        blobs, size = blobs + 1, size + entry.size
        if found != entry.checksum:
            await asyncio.to_thread(store.distrust, entry.blob)
            damaged.append(entry.blob)
            fields = {"file": entry.path, "verified": entry.checksum, "found": found}
            log.warning("stored bytes are not what was verified; they are fetched again", extra=fields)
    return Scrubbed(blobs, size, tuple(damaged))


def _entries(store: Store) -> Iterator[Entry]:
    """Yield one entry of each blob, looked up as it comes: revisions may go meanwhile."""
    seen: set[BlobId] = set()
    newest = {(each.uri, each.revision) for each in store.revisions().values()}
    for uri, revision in sorted(newest | {(each.uri, each.revision) for each in store.told().values()}):
        manifest = store.manifest(uri, revision)
        for entry in manifest.entries if manifest is not None else ():
            computable = (entry.checksum or "").partition(":")[0] in COMPUTABLE
            if entry.link is None and computable and entry.blob not in seen:
                seen.add(entry.blob)
                yield entry


async def _digest(store: Store, entry: Entry, rate: int) -> str | None:
    """Return the checksum of a blob as manifests write it, None where it is not there any more."""
    algorithm = (entry.checksum or "").partition(":")[0]
    with disk_errors("reading a stored file again", volume=store.store_dir):
        try:
            file = await asyncio.to_thread(os.open, store.blob_path(entry.blob), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            digests, buffer = Digests([algorithm]), bytearray(CHUNK_BYTES)
            while await _paced(file, buffer, digests, rate):
                pass
        finally:
            os.close(file)
    return f"{algorithm}:{digests.result()[algorithm]}"


async def _paced(file: int, buffer: bytearray, digests: Digests, rate: int) -> int:
    """Take in the next chunk in no less time than *rate* allows; returns its size, 0 at the end."""
    began = time.monotonic()
    count = await asyncio.to_thread(_take, file, buffer, digests)
    await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()) if rate else 0)
    return count


def _take(file: int, buffer: bytearray, digests: Digests) -> int:
    count = os.readv(file, [buffer])
    digests.update(memoryview(buffer)[:count])
    return count
