"""The revisions that the store holds: each a manifest of blobs.

The law: a revision is there when its manifest is, and the manifest comes last, after the bytes are durable.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace

from agent.artifacts import scan
from agent.artifacts.blobs import Blobs, blob_file
from agent.artifacts.durable import SharedSync, put_in_place
from agent.artifacts.errors import disk_errors
from agent.artifacts.folder import Folder
from agent.artifacts.index import RevisionKey, RevisionRecord, stored_revision
from agent.artifacts.manifest import BlobId, Manifest, Stored, decode, encode, manifest_file
from agent.artifacts.scan import MAX_MANIFEST
from agent.core.errors import RetryableError
from agent.core.model import Revision, StoredRevision
from agent.core.reasons import Reason
from agent.core.uri import redacted


class Revisions:
    """The complete revisions in *folder*. `Store` says what a caller may rely on; it is the only one."""

    def __init__(self, folder: Folder, blobs: Blobs, clock: Callable[[], float]) -> None:
        self._folder, self._blobs, self._clock = folder, blobs, clock
        self._sync = SharedSync(folder)

    def manifest(self, uri: str, revision: Revision) -> Manifest | None:
        """Read a complete revision's manifest, None if there is none."""
        stored = self._load((uri, revision))
        return None if stored is None else stored.manifest

    def intact(self, uri: str, revision: Revision) -> bool:
        """Whether every blob still is what was verified; a revision that is not is forgotten. A stat each."""
        stored = self._load((uri, revision))
        if stored is None:
            return False
        with self._errors(f"checking the files of {redacted(uri)}"):
            return all(self._blobs.holds(blob, stat.size) for blob, stat in stored.stats.items())

    def _load(self, key: RevisionKey) -> Stored | None:
        record = self._blobs.index.get(key)
        if record is None:
            return None
        with self._errors(f"reading the manifest of {redacted(key[0])}"):
            try:
                stored = decode(self._folder.read(manifest_file(*key), MAX_MANIFEST))
            except FileNotFoundError:
                stored = None
            if stored is None:
                with self._blobs.lock:
                    self._blobs.drop_revision(key)
                return None
        manifest = replace(stored.manifest, resolved_at=record.stored.resolved_at)
        return Stored(manifest, stored.stats)

    def commit(self, manifest: Manifest) -> StoredRevision:
        """Make the revision complete and durable, and the newest of its URI."""
        blobs = tuple(dict.fromkeys(entry.blob for entry in manifest.entries if entry.link is None))
        records = self._blobs.pin(blobs)
        try:
            stats = {blob: record.stat for blob, record in zip(blobs, records, strict=True)}
            unsynced = [blob for blob, record in zip(blobs, records, strict=True) if not record.synced]
            stored = Stored(manifest, stats)
            self._write(stored, unsynced)
            for record in records:
                record.synced = True
            self._blobs.durable(unsynced)
            return self._complete(stored)
        finally:
            self._blobs.unpin(records)

    def _write(self, stored: Stored, unsynced: list[BlobId]) -> None:
        """Make the bytes durable, then show the manifest; bytes that the disk did not keep are removed."""
        manifest = stored.manifest
        with self._errors(f"storing {redacted(manifest.uri)}"):
            faults = put_in_place(
                self._folder,
                self._sync,
                manifest_file(manifest.uri, manifest.revision),
                encode(stored),
                files=[blob_file(blob) for blob in unsynced],
                mtime_ns=scan.nanoseconds(manifest.resolved_at),
            )
            self._blobs.forget(blob for blob in unsynced if blob_file(blob) in faults.lost)
            for error in faults.errors.values():
                raise error

    def _complete(self, stored: Stored) -> StoredRevision:
        """Enter a revision whose manifest is on disk. Its blobs were pinned, but may have been forgotten."""
        short = stored_revision(stored, scan.seconds(scan.nanoseconds(stored.manifest.resolved_at)))
        with self._blobs.lock:
            known = self._blobs.index.blobs
            if any(blob not in known or known[blob].stat != stat for blob, stat in stored.stats.items()):
                with self._errors("removing a manifest whose files changed"):
                    self._folder.remove(manifest_file(short.uri, short.revision))
                raise RetryableError(
                    Reason.INTEGRITY_MISMATCH,
                    f"files of {redacted(short.uri)} changed; they are fetched again",
                )
            self._blobs.index.add(RevisionRecord(short, tuple(stored.stats), self._clock()))
        return short

    def touch(self, uri: str, revision: Revision, resolved_at: float) -> StoredRevision:
        """Note that storage listed the same revision again: it is the newest of its URI from then on."""
        key = (uri, revision)
        listed_ns = scan.nanoseconds(resolved_at)
        with self._blobs.lock, self._errors(f"noting the listing of {redacted(uri)}"):
            if self._blobs.index.get(key) is not None:
                with suppress(FileNotFoundError):
                    self._folder.set_time(manifest_file(*key), listed_ns)
                    return self._blobs.index.relist(key, scan.seconds(listed_ns))
                self._blobs.index.drop(key)
        raise RetryableError(
            Reason.INTEGRITY_MISMATCH, f"the stored revision of {redacted(uri)} is gone; it is fetched again"
        )

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return disk_errors(f"{what} in {self._folder.path}", volume=self._folder.path)
