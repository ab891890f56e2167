"""The one reading of the store at start: sweep what a crash left, then find what is complete.

Only names of our own form are ever removed. What remains is consistent: each revision has all its blobs,
unchanged since they were adopted, and nothing lies about that no one will ask for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.artifacts import told as told_files
from agent.artifacts.folder import TEMP_PREFIX, Folder
from agent.artifacts.index import BlobRecord, Index, RevisionRecord
from agent.artifacts.manifest import BlobId, BlobStat, Summary, manifest_file, summarize
from agent.artifacts.told import ToldRecord
from agent.core.model import ModelName, StoredRevision

LOCK_FILE = ".agent-lock-0"
DOCUMENT_FILE = ".agent-document-0"
OLDEST_LOOSE_SECONDS = 7 * 86400.0  # whoever wanted this does not come back
MAX_FOREIGN = 1000  # names kept for the report; a folder full of strangers costs no more
MAX_MANIFEST = 1 << 30
_MAX_TOLD = 1 << 20
_OURS = re.compile(r"\.agent-([a-z]+)-([0-9a-f]+)\Z")
_TEMP = re.compile(rf"{re.escape(TEMP_PREFIX)}[0-9a-f]+\Z")
_MODEL = re.compile(r"(?!\.|SUCCESS\.)[A-Za-z0-9_.-]{1,253}\Z")
_KINDS = frozenset({"blob", "part", "journal", "manifest", "told", "document", "lock", "boot", "tmp"})


@dataclass(slots=True)
class Found:
    """What a listing of the folders shows, sorted by kind; `astray`: temporary names beside the models."""

    ours: dict[str, set[str]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    astray: list[str] = field(default_factory=list)

    def of(self, kind: str) -> set[str]:
        """Return the hex parts of our files of a kind."""
        return self.ours.setdefault(kind, set())


def look(model: Folder, store: Folder) -> Found:
    """List both folders once, or the one if they are the same."""
    found = Found()
    same = model is store
    for entry in model.entries():
        if entry.is_dir(follow_symlinks=False) and _MODEL.match(entry.name):
            found.models.add(entry.name)
        elif not same and _TEMP.match(entry.name):
            found.astray.append(entry.name)
        elif not same or not _sort(found, entry.name):
            _stranger(found, entry.name)
    if not same:
        for entry in store.entries():
            if not _sort(found, entry.name):
                _stranger(found, entry.name)
    return found


def is_model_name(name: str) -> bool:
    """Whether a directory of this name may be a model's (design §8.2)."""
    return _MODEL.match(name) is not None


def _sort(found: Found, name: str) -> bool:
    match = _OURS.match(name)
    if match is None or match[1] not in _KINDS:
        return False
    found.of(match[1]).add(match[2])
    return True


def _stranger(found: Found, name: str) -> None:
    if len(found.foreign) < MAX_FOREIGN:
        found.foreign.append(name)


@dataclass(slots=True)
class Scan:
    """Reads and sweeps one store. The steps are in the order of `run`."""

    model: Folder
    store: Folder
    found: Found
    discard: Callable[[str], None]
    boot_id: str
    now: float
    index: Index = field(default_factory=Index)
    told: dict[ModelName, ToldRecord] = field(default_factory=dict)
    partials: dict[BlobId, float] = field(default_factory=dict)

    def run(self) -> None:
        """Sweep and read; afterwards index, told and partials say what is there."""
        for digits in self.found.of("tmp"):
            self.discard(f"{TEMP_PREFIX}{digits}")
        for name in self.found.astray:
            self.model.remove_tree(name)
        self._read_manifests()
        self._keep_loose_blobs()
        self._keep_partials()
        self._read_told()

    def _read_manifests(self) -> None:
        """Take the revisions whose every blob is as recorded; the others are not there any more."""
        read: list[tuple[float, Summary]] = []
        bad: set[BlobId] = set()
        stats: dict[BlobId, BlobStat | None] = {}
        for digits in self.found.of("manifest"):
            found = self._read_manifest(f".agent-manifest-{digits}")
            if found is None:
                continue
            read.append(found)
            for blob, recorded in found[1].stats.items():
                if blob not in stats:
                    stats[blob] = self.store.blob_stat(f".agent-blob-{blob}")
                if stats[blob] != recorded:
                    bad.add(blob)
        for blob in bad:  # before the manifests: a bad blob that none names would pass for a loose one
            self._remove(f".agent-blob-{blob}")
        for resolved_at, summary in sorted(read, key=lambda each: each[0]):
            if bad.isdisjoint(summary.stats):
                self._add(summary, resolved_at)
            else:
                self.store.remove(manifest_file(summary.uri, summary.revision))

    def _read_manifest(self, name: str) -> tuple[float, Summary] | None:
        """Return the time of its last listing, which is the file's mtime, and what it says."""
        try:
            raw, listed_ns = self.store.read_with_time(name, MAX_MANIFEST)
            summary = summarize(raw)
        except OSError:
            summary = None
        if summary is None or name != manifest_file(summary.uri, summary.revision):
            self._remove(name)
            return None
        return seconds(listed_ns), summary

    def _add(self, summary: Summary, resolved_at: float) -> None:
        for blob, stat in summary.stats.items():
            if blob not in self.index.blobs:
                self.index.blobs[blob] = BlobRecord(stat, self.now, synced=True)
        short = StoredRevision(
            summary.uri,
            summary.revision,
            summary.size_bytes,
            resolved_at,
            summary.sha256,
            summary.checked,
            summary.integrity,
        )
        self.index.add(RevisionRecord(short, tuple(summary.stats), resolved_at))

    def _keep_loose_blobs(self) -> None:
        """Keep verified blobs of a download that a crash broke off; the disk policy lets them go later.

        They were never synced: after a reboot they are partials again, of which a journal proves what is
        good, or nothing. The boot id is a file's name.
        """
        same_boot = self.boot_id in self.found.of("boot")
        for digits in self.found.of("blob") - self.index.blobs.keys():
            name = f".agent-blob-{digits}"
            stat = self.store.blob_stat(name)
            if stat is None or self.now - seconds(stat.mtime_ns) > OLDEST_LOOSE_SECONDS:
                self._remove(name)
            elif same_boot:
                self.index.blobs[BlobId(digits)] = BlobRecord(stat, self.now)
            elif digits in self.found.of("journal") - self.found.of("part"):
                self.store.rename(name, f".agent-part-{digits}")
                self.found.of("part").add(digits)
            else:
                self._remove(name)
        if not same_boot:
            self.store.write_new(f".agent-boot-{self.boot_id}", b"", mode=0o600, sync=False)
        for digits in self.found.of("boot") - {self.boot_id}:
            self._remove(f".agent-boot-{digits}")

    def _keep_partials(self) -> None:
        """Keep partial downloads with their journals, ready to be written on, an hour from now at least.

        Nobody knows yet which are wanted.
        """
        kept: set[str] = set()
        for digits in self.found.of("part") - self.index.blobs.keys():
            touched = newest_touch(self.store, BlobId(digits))
            if touched is not None and self.now - touched <= OLDEST_LOOSE_SECONDS:
                kept.add(digits)
                self.partials[BlobId(digits)] = self.now
                self._make_writable(f".agent-part-{digits}")
        for digits in self.found.of("part") - kept:
            self._remove(f".agent-part-{digits}")
        loose = {blob for blob, record in self.index.blobs.items() if not record.synced}
        for digits in self.found.of("journal") - kept - loose:
            self._remove(f".agent-journal-{digits}")

    def _make_writable(self, name: str) -> None:
        """A crash inside `adopt` leaves a finished partial read-only."""
        stat = self.store.stat(name)
        if stat is not None and not stat.st_mode & 0o200:
            self.store.change_mode(name, 0o600)

    def _read_told(self) -> None:
        for digits in self.found.of("told"):
            name = f".agent-told-{digits}"
            try:
                record = told_files.decode(self.store.read(name, _MAX_TOLD))
            except OSError:
                record = None
            if record is None or told_files.told_file(record.name) != name:
                self._remove(name)
            else:
                self.told[record.name] = record

    def _remove(self, name: str) -> None:
        """Remove a file of ours; whatever else bears its name goes by the way of trees."""
        try:
            self.store.remove(name)
        except OSError:
            self.discard(name)


def newest_touch(store: Folder, blob: BlobId) -> float | None:
    """Return when a partial download or its journal was last written, None without a partial."""
    part = store.blob_stat(f".agent-part-{blob}")
    if part is None:
        return None
    journal = store.blob_stat(f".agent-journal-{blob}")
    return seconds(max(part.mtime_ns, journal.mtime_ns if journal else 0))


def seconds(nanoseconds: int) -> float:
    """Return Unix seconds, to the microsecond: what a float holds exactly enough to come back the same."""
    return round(nanoseconds / 1e9, 6)


def nanoseconds(unix_seconds: float) -> int:
    """Return what a file's mtime is set to, so that `seconds` gives the same time back."""
    return round(unix_seconds * 1e6) * 1000
