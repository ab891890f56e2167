"""Blobs and partial downloads: what was verified, and what is still coming.

A blob is read-only, and its size and mtime are compared before each reuse; one that changed is removed,
and every revision that needs it.
"""

import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from agent.artifacts.folder import BLOCK, Folder, temp_name
from agent.artifacts.index import BlobRecord, Index, RevisionKey
from agent.artifacts.manifest import BlobId, BlobStat, manifest_file
from agent.artifacts.scan import newest_touch
from agent.core.errors import RetryableError
from agent.core.reasons import Reason


def blob_file(blob: BlobId) -> str:
    """Return the flat name of verified bytes."""
    return f".agent-blob-{blob}"


def part_file(blob: BlobId) -> str:
    """Return the flat name of a partial download."""
    return f".agent-part-{blob}"


def journal_file(blob: BlobId) -> str:
    """Return the flat name of a partial download's journal."""
    return f".agent-journal-{blob}"


class Blobs:
    """The blobs of one store, and the index of it. `lock` guards index, partials and expectations."""

    def __init__(
        self,
        folder: Folder,
        index: Index,
        partials: dict[BlobId, float],
        discard: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder
        self.index = index
        self.partials = partials
        self.expected: dict[str, frozenset[BlobId]] = {}
        self.lock = threading.RLock()
        self._discard = discard
        self._clock = clock

    def path_of_part(self, blob: BlobId) -> Path:
        """Return where the download of a blob goes, and note that it is asked for."""
        with self.lock:
            self.partials[blob] = self._clock()
        return self.folder.path / part_file(blob)

    def holds(self, blob: BlobId, size: int | None) -> bool:
        """Whether the blob is there as it was adopted; one that changed is forgotten. One stat."""
        record = self.index.blobs.get(blob)
        if record is None:
            return False
        if self.folder.blob_stat(blob_file(blob)) != record.stat:
            self.forget((blob,))
            return False
        record.touched = self._clock()
        return size is None or size == record.stat.size

    def adopt(self, blob: BlobId) -> None:
        """Make the verified partial the blob, unless the same is there already.

        Its journal stays until a revision makes the blob durable: after a reboot it tells what is good.
        """
        part = part_file(blob)
        stat = self._finish(part)
        with self.lock:
            if self.holds(blob, stat.size):
                self.folder.remove(part)
                self.folder.remove(journal_file(blob))
            else:
                if blob in self.index.blobs:
                    self._replace(blob)
                self._show(part, blob_file(blob))
                self.index.blobs[blob] = BlobRecord(stat, self._clock())
            self.partials.pop(blob, None)

    def _show(self, part: str, name: str) -> None:
        try:
            self.folder.rename(part, name)
        except IsADirectoryError:  # not ours, and in our way
            self.discard([self._rename_away(name)])
            self.folder.rename(part, name)

    def durable(self, blobs: Iterable[BlobId]) -> None:
        """The disk keeps these from now on: their journals have nothing to tell any more."""
        for blob in blobs:
            self.folder.remove(journal_file(blob))

    def _finish(self, part: str) -> BlobStat:
        """Make the file read-only and give it a time of its own, finer than the clock of the kernel's writes.

        An edit in the same tick as the last write would otherwise leave the mtime as it was.
        """
        fd = self.folder.open(part)
        try:
            now = int(self._clock() * 1e9)
            os.utime(fd, ns=(now, now))
            os.fchmod(fd, 0o444)
            found = os.fstat(fd)
            return BlobStat(found.st_size, found.st_mtime_ns)
        finally:
            os.close(fd)

    def forget(self, blobs: Iterable[BlobId]) -> None:
        """Remove blobs that cannot be trusted, then the manifests that name them.

        In this order: a crash in between leaves manifests without their blob, which the next start sees;
        the other way round it would leave a bad blob that looks like one whose download is not complete.
        """
        retired = []
        with self.lock:
            for blob in blobs:
                retired.append(self.retire(blob))
                self._drop_naming(blob)
        self.discard(retired)

    def _replace(self, blob: BlobId) -> None:
        """Forget the blob likewise, but not the journal: that is of the partial which takes its place."""
        with self.lock:
            retired = self._take_away(blob)
            self._drop_naming(blob)
        self.discard([retired])

    def _drop_naming(self, blob: BlobId) -> None:
        for key in self.index.naming(blob):
            self.drop_revision(key)

    def drop_revision(self, key: RevisionKey) -> None:
        """Remove a manifest; its blobs stay. Under the lock."""
        self.folder.remove(manifest_file(*key))
        self.index.drop(key)

    def retire(self, blob: BlobId) -> str:
        """Take a blob out of use at one instant; returns the name to be discarded. Under the lock."""
        self.folder.remove(journal_file(blob))
        return self._take_away(blob)

    def _take_away(self, blob: BlobId) -> str:
        self.index.blobs.pop(blob, None)
        return self._rename_away(blob_file(blob))

    def let_go(self, blob: BlobId) -> None:
        """Remove a blob that nothing refers to."""
        with self.lock:
            record = self.index.blobs.get(blob)
            if record is None or record.references:
                return
            retired = self.retire(blob)
        self.discard([retired])

    def retire_partial(self, blob: BlobId) -> str:
        """Take a partial download away likewise, with its journal. Under the lock."""
        self.partials.pop(blob, None)
        self.folder.remove(journal_file(blob))
        return self._rename_away(part_file(blob))

    def _rename_away(self, name: str) -> str:
        temp = temp_name()
        with suppress(FileNotFoundError):
            self.folder.rename(name, temp)
        return temp

    def discard(self, names: Iterable[str]) -> None:
        """Remove retired files, outside the lock: a large one takes its time."""
        for name in names:
            self._discard(name)

    def pin(self, blobs: Collection[BlobId]) -> list[BlobRecord]:
        """Keep the blobs from being collected until `unpin`. Raises RetryableError if one is not there."""
        with self.lock:
            missing = next((blob for blob in blobs if blob not in self.index.blobs), None)
            if missing is not None:
                raise RetryableError(
                    Reason.INTEGRITY_MISMATCH,
                    f"{self.folder.path / blob_file(missing)} is not there any more; it is fetched again",
                )
            records = [self.index.blobs[blob] for blob in blobs]
            for record in records:
                record.references += 1
            return records

    def unpin(self, records: Iterable[BlobRecord]) -> None:
        """Undo `pin`."""
        with self.lock:
            for record in records:
                record.references -= 1

    def expect(self, uri: str, blobs: Collection[BlobId]) -> None:
        """Note that a fetch of *uri* needs these: they stay while the URI is wanted."""
        with self.lock:
            if blobs:
                self.expected[uri] = frozenset(blobs)
            else:
                self.expected.pop(uri, None)

    def used_bytes(self) -> int:
        """Return what blobs and partial downloads take on the disk."""
        with self.lock:
            partials = list(self.partials)
            used = sum(record.stat.size for record in self.index.blobs.values())
        stats = (self.folder.stat(part_file(blob)) for blob in partials)
        return used + sum(stat.st_blocks * BLOCK for stat in stats if stat is not None)

    def bytes_of(self, blob: BlobId) -> int:
        """Return what the partial has on the disk, else what the blob has; looks only for what is known."""
        stat = self.folder.stat(part_file(blob)) if blob in self.partials else None
        if stat is not None and stat.st_blocks:
            return stat.st_blocks * BLOCK
        record = self.index.blobs.get(blob)
        return 0 if record is None else record.stat.size

    def partial_touched(self, blob: BlobId) -> float | None:
        """Return when a partial was last asked for or written, None once it is gone."""
        written = newest_touch(self.folder, blob)
        return None if written is None else max(written, self.partials.get(blob, 0.0))
