"""A store to hand, and the few words that tests of it speak."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.artifacts.manifest import BlobId, Entry, Manifest, blob_id
from agent.artifacts.store import Store
from agent.core.model import ModelName, Revision, StoredRevision, Told

BOOT = "b007" * 8


@dataclass(slots=True)
class Clock:
    """A clock that the test sets."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Shelf:
    """Opens one place again and again, as agents that follow each other do."""

    model_dir: Path
    store_dir: Path | None
    clock: Clock

    def open(self, boot: str = BOOT) -> Store:
        return Store.open(self.model_dir, self.store_dir, clock=self.clock, boot_id=boot)

    @property
    def flat(self) -> Path:
        return self.store_dir or self.model_dir

    def names(self, kind: str = "") -> set[str]:
        """Our own names of a kind, on the disk."""
        return {path.name for path in self.flat.glob(f".agent-{kind}*")}


def fetch(store: Store, content: bytes, identity: str | None = None) -> BlobId:
    """Bring bytes into the store the way the fetch engine does."""
    blob = blob_id(identity or content.hex())
    if not store.holds(blob, len(content)):
        store.journal_path(blob).write_bytes(b"journal")
        store.partial_path(blob).write_bytes(content)
        store.adopt(blob)
    return blob


def manifest_of(store: Store, uri: str, files: Mapping[str, bytes], at: float = 1.0) -> Manifest:
    """A revision of these files, its bytes in the store."""
    entries = tuple(
        Entry(path, len(content), fetch(store, content), None) for path, content in sorted(files.items())
    )
    revision = Revision(blob_id(repr(sorted(files.items()))))
    return Manifest(uri, revision, at, entries, "seen-first")


def stored(store: Store, uri: str, files: Mapping[str, bytes], at: float = 1.0) -> Manifest:
    """The same, committed."""
    manifest = manifest_of(store, uri, files, at)
    store.commit(manifest)
    return manifest


def plain(manifest: Manifest) -> dict[str, str | bytes]:
    """The layout that shows the revision as it is."""
    return {entry.path: entry.path for entry in manifest.entries}


def tree(folder: Path) -> dict[str, bytes] | None:
    """All files below the folder, None if there is none."""
    if not folder.is_dir():
        return None
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def told(uri: str, revision: str, *, confirmed: bool = True) -> Told:
    """What the server was told of a revision."""
    return Told(Revision(revision), uri, "sklearn", 0, confirmed)


def short(manifest: Manifest) -> StoredRevision:
    """What `commit` returns for it."""
    size = sum(entry.size for entry in manifest.entries)
    return StoredRevision(manifest.uri, manifest.revision, size, manifest.resolved_at)


M = ModelName("m")
