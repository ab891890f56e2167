"""The store: verified bytes on disk, revisions made of them, and what the server sees of both.

The law: a revision is there when its manifest is, and the manifest comes last. Every method blocks on the
disk unless it says "in memory"; those never wait for a lock either. Methods may be called from several
threads at once, as long as one name, and one partial, is worked on by one of them at a time. What is raised
is a RetryableError or a TerminalError.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Self

from agent.artifacts import opening, scan
from agent.artifacts import told as told_files
from agent.artifacts.blobs import Blobs, blob_file, journal_file
from agent.artifacts.collect import Collected, collect
from agent.artifacts.errors import disk_errors
from agent.artifacts.layout import arrange
from agent.artifacts.manifest import BlobId, Manifest
from agent.artifacts.publish import BlobChangedError, Item, Linked, Publisher
from agent.artifacts.revisions import Revisions
from agent.artifacts.scan import DOCUMENT_FILE, Found, Scan
from agent.artifacts.told import ToldRecord, told_file
from agent.core.disk import DiskPolicy
from agent.core.errors import RetryableError, TerminalError
from agent.core.model import ModelName, Revision, StoredRevision, Told
from agent.core.reasons import Reason
from agent.core.uri import redacted

MAX_READ = 1 << 20
MAX_DOCUMENT = 1 << 26


class Store:
    """One model dir and its store. Made by `open`, given back by `close`."""

    def __init__(self, opened: opening.Opened, clock: Callable[[], float]) -> None:
        self._model = opened.model
        self._folder = opened.store
        self._resources: ExitStack = opened.resources
        self._clock = clock
        self._publisher = Publisher(opened.model, opened.store)
        self._found = Found()
        self._blobs: Blobs
        self._revisions: Revisions
        self._records: dict[ModelName, ToldRecord] = {}
        self._told: dict[ModelName, Told] = {}

    @classmethod
    def open(
        cls,
        model_dir: Path,
        store_dir: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        boot_id: str | None = None,
    ) -> Self:
        """Make what is missing, sweep what a crash left (names of our own only), read what is complete.

        Raises RetryableError(StoreInUse) while another agent works there, ReadOnlyVolume, DiskFull; and
        TerminalError(DiskError) if a file cannot be renamed from one directory to the other.
        """
        opened = opening.open_folders(model_dir, store_dir)
        store = cls(opened, clock)
        try:
            store._read(boot_id or opening.boot_id())
        except BaseException:
            store.close()
            raise
        return store

    def _read(self, boot_id: str) -> None:
        with disk_errors(f"reading the store in {self.store_dir}", volume=self.store_dir):
            self._found = scan.look(self._model, self._folder)
            reading = Scan(
                self._model, self._folder, self._found, self._publisher.discard, boot_id, self._clock()
            )
            reading.run()
        self._blobs = Blobs(
            self._folder, reading.index, reading.partials, self._publisher.discard, self._clock
        )
        self._revisions = Revisions(self._folder, self._blobs, self._clock)
        self._records = reading.told
        self._told = {name: record.told for name, record in reading.told.items()}

    def close(self) -> None:
        """Give up the lock and the descriptors. Nothing is written; a kill does as well."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model_dir(self) -> Path:
        """Where the server finds its models."""
        return self._model.path

    @property
    def store_dir(self) -> Path:
        """Where the flat files are; the model dir itself in the drop-in layout."""
        return self._folder.path

    def revisions(self) -> Mapping[str, StoredRevision]:
        """Return the newest complete revision of each URI. In memory."""
        return self._blobs.index.snapshot()

    def manifest(self, uri: str, revision: Revision) -> Manifest | None:
        """Read a complete revision's manifest, None if there is none."""
        return self._revisions.manifest(uri, revision)

    def has(self, uri: str, revision: Revision) -> bool:
        """Whether a complete revision of that URI is known. In memory."""
        return self._blobs.index.get((uri, revision)) is not None

    def intact(self, uri: str, revision: Revision) -> bool:
        """Whether every blob still is what was verified; a revision that is not is forgotten. A stat each."""
        return self._revisions.intact(uri, revision)

    def commit(self, manifest: Manifest) -> StoredRevision:
        """Make the revision complete and durable: its blobs, the folder, then the manifest, last.

        It becomes the newest of its URI. Concurrent callers share the waits for the disk. A blob that the
        disk did not keep is removed (DiskError), one that is not there any more is IntegrityMismatch; both
        are fetched again by a retry.
        """
        return self._revisions.commit(manifest)

    def touch(self, uri: str, revision: Revision, resolved_at: float) -> StoredRevision:
        """Note that storage listed the same revision again: it is the newest of its URI from then on."""
        return self._revisions.touch(uri, revision, resolved_at)

    def blob_path(self, blob: BlobId) -> Path:
        """Return where verified bytes are, read-only."""
        return self.store_dir / blob_file(blob)

    def partial_path(self, blob: BlobId) -> Path:
        """Return where a download of the blob goes; asking keeps it from being collected for an hour."""
        return self._blobs.path_of_part(blob)

    def journal_path(self, blob: BlobId) -> Path:
        """Return where the download's journal goes; it is removed with the partial."""
        return self.store_dir / journal_file(blob)

    def expect(self, uri: str, blobs: Collection[BlobId]) -> None:
        """Say which blobs a fetch of *uri* is about: they are not collected while the URI is wanted."""
        self._blobs.expect(uri, blobs)

    def holds(self, blob: BlobId, size: int | None) -> bool:
        """Whether the blob is there, of that size, and its stat is what was recorded.

        One that changed is removed, with every revision that needs it. `size` None: whatever it is.
        """
        with self._errors("checking a stored file"):
            return self._blobs.holds(blob, size)

    def adopt(self, blob: BlobId) -> None:
        """Make the verified partial the blob: 0444, renamed. `commit` makes it durable, its journal goes."""
        with self._errors("taking a download into the store"):
            self._blobs.adopt(blob)

    def discard(self, blob: BlobId) -> None:
        """Remove a blob unless a revision needs it: an archive's, once its members are there."""
        with self._errors("removing a stored file"):
            self._blobs.let_go(blob)

    def distrust(self, blob: BlobId) -> None:
        """Take a blob out of use, and all revisions of it."""
        with self._errors("removing a damaged file"):
            self._blobs.forget((blob,))

    def free_bytes(self) -> int:
        """Return what an unprivileged writer may still write."""
        with self._errors("asking for free space"):
            room = os.statvfs(self._folder.fd)
        return room.f_bavail * room.f_frsize

    def bytes_of(self, blob: BlobId) -> int:
        """Return what the disk has of a blob, or of its download so far."""
        with self._errors("looking at a download"):
            return self._blobs.bytes_of(blob)

    def used_bytes(self) -> int:
        """Return what blobs and partial downloads take, and retired trees that cannot be removed."""
        return self._blobs.used_bytes() + self._publisher.stuck_bytes()

    def read(self, manifest: Manifest, path: str) -> bytes:
        """Return a small file of the revision (at most 1 MiB; TerminalError LoadRejected above).

        TerminalError(NotFound) if the revision has no such file.
        """
        entry = next((each for each in manifest.entries if each.path == path), None)
        if entry is None:
            raise TerminalError(Reason.NOT_FOUND, f"{redacted(manifest.uri)} has no file {path[:200]!r}")
        if entry.size > MAX_READ:
            raise TerminalError(
                Reason.LOAD_REJECTED,
                f"{path[:200]!r} has {entry.size} bytes, a settings file may have {MAX_READ}",
            )
        with self._errors(f"reading {path[:200]!r} of {redacted(manifest.uri)}"):
            if entry.link is not None:
                with Path(entry.link).open("rb") as shared:
                    return shared.read(MAX_READ)
            if not self._blobs.holds(entry.blob, entry.size):
                raise self._changed(manifest)
            return self._folder.read(blob_file(entry.blob), MAX_READ)

    def publish(self, name: ModelName, manifest: Manifest, layout: Mapping[str, str | bytes]) -> None:
        """Make `<model-dir>/<name>` exactly the layout, whole, in place of what stands there.

        *layout*: published path to a path of the revision (a hard link of its blob) or to bytes (a fresh
        file). All is verified by stat; on any error the name still is what it was.
        """
        items = self._items(name, manifest, layout)
        records = self._blobs.pin({item.blob for item in items.values() if isinstance(item, Linked)})
        try:
            with self._errors(f"publishing {name}"):
                self._publisher.publish(name, items)
        except BlobChangedError as changed:
            with self._errors(f"publishing {name}"):
                self._blobs.forget((changed.blob,))
            raise self._changed(manifest) from changed
        finally:
            self._blobs.unpin(records)
        self._found.models.add(name)
        record = self._blobs.index.get((manifest.uri, manifest.revision))
        if record is not None:
            record.used_at = self._clock()

    def stands(self, name: ModelName, manifest: Manifest, layout: Mapping[str, str | bytes]) -> bool:
        """Whether `<model-dir>/<name>` still is what `publish` made of these, a stat a file.

        Files that the server left beside them do not count.
        """
        try:
            return self._publisher.stands(name, self._items(name, manifest, layout))
        except RetryableError:
            return False

    def withdraw(self, name: ModelName) -> None:
        """Take the directory away at one instant, then remove it; absent is fine."""
        _check_name(name)
        with self._errors(f"removing {name}"):
            self._publisher.withdraw(name)
        self._found.models.discard(name)

    def published(self) -> frozenset[str]:
        """Return the model directories, as last read and as changed by us since. In memory."""
        return frozenset(self._found.models.copy())

    def foreign(self) -> frozenset[str]:
        """Return names in the directories that are neither ours nor a model's, as last read. In memory."""
        return frozenset(self._found.foreign)

    def rescan(self) -> None:
        """List the directories again, for `published` and `foreign`: one listing, not for each action."""
        with self._errors("listing the model dir"):
            self._found = scan.look(self._model, self._folder)

    def cannot_remove(self) -> Mapping[str, str]:
        """Return retired trees that could not be removed: path to the system's word. In memory."""
        return self._publisher.cannot_remove()

    # what the server was told, and the document

    def told(self) -> Mapping[ModelName, Told]:
        """Return what the server was last told, a name. In memory."""
        return self._told.copy()

    def live(self) -> tuple[Mapping[str, StoredRevision], Mapping[ModelName, Told]]:
        """Return `revisions` and `told` uncopied, to look names up at once: they may change. In memory."""
        return self._blobs.index.newest, MappingProxyType(self._told)

    def previous(self) -> Mapping[ModelName, Told]:
        """Return, where `told` is not confirmed, what was last confirmed before it. In memory."""
        records = self._records.copy().items()
        return {name: record.previous for name, record in records if record.previous is not None}

    def record(self, name: ModelName, told: Told | None) -> None:
        """Write down what the server is told, before and after; None forgets. Atomic, not synced."""
        _check_name(name)
        with self._errors(f"noting what the server was told of {name}"):
            if told is None:
                self._folder.remove(told_file(name))
                self._told.pop(name, None)
                self._records.pop(name, None)
            else:
                record = told_files.succeed(name, told, self._records.get(name))
                self._folder.replace(told_file(name), told_files.encode(record), sync=False)
                self._told[name] = told
                self._records[name] = record

    def accepted_document(self) -> bytes | None:
        """Return the last accepted models.json, None if there was none."""
        with self._errors("reading the last accepted document"):
            try:
                return self._folder.read(DOCUMENT_FILE, MAX_DOCUMENT)
            except FileNotFoundError:
                return None

    def remember_document(self, raw: bytes) -> None:
        """Keep the accepted models.json for a start with a bad one; durable when this returns."""
        with self._errors("keeping the accepted document"):
            self._folder.replace(DOCUMENT_FILE, raw, sync=True)

    # disk policy

    def collect(self, wanted: Collection[str], now: float, policy: DiskPolicy) -> Collected:
        """Remove what nobody needs and room asks for (design §8.9); *wanted* are URIs.

        The newest revision of a wanted URI, and what a server was told, never goes. Also tries again to
        remove the trees of `cannot_remove`.
        """
        records = tuple(self._records.copy().values())
        kept = [each for record in records for each in (record.told, record.previous) if each is not None]
        with self._errors("making room"):
            self._publisher.retry_removals()
            told = {(each.uri, each.revision) for each in kept}
            return collect(self._blobs, wanted, told, policy, now, stuck=self._publisher.stuck_bytes())

    def _items(
        self, name: ModelName, manifest: Manifest, layout: Mapping[str, str | bytes]
    ) -> Mapping[str, Item]:
        _check_name(name)
        return arrange(manifest, layout, self._blobs.index.blobs)

    def _changed(self, manifest: Manifest) -> RetryableError:
        return RetryableError(
            Reason.INTEGRITY_MISMATCH,
            f"a stored file of {redacted(manifest.uri)} was changed or removed; it is fetched again",
        )

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return disk_errors(f"{what} in {self.store_dir}", volume=self.store_dir)


def _check_name(name: str) -> None:
    if not scan.is_model_name(name):
        raise TerminalError(Reason.INVALID_NAME, f"{name[:253]!r} cannot be the name of a model's directory")
