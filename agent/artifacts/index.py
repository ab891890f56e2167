"""What the store holds, in memory: our own files need no second look at the directory after the start.

Blobs by id, revisions by (URI, revision), and the newest revision of each URI. Not thread-safe by itself:
the store holds its lock around every change; the two `snapshot`s copy a dict, which is one step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from agent.artifacts.manifest import BlobId, BlobStat, Stored, integrity
from agent.core.model import Revision, StoredRevision

RevisionKey = tuple[str, Revision]


@dataclass(slots=True)
class BlobRecord:
    """A blob as adopted. `references` counts revisions, and commits under way."""

    stat: BlobStat
    touched: float
    synced: bool = False
    references: int = 0


@dataclass(slots=True)
class RevisionRecord:
    """A complete revision, in memory without its paths: those are read from its file when needed."""

    stored: StoredRevision
    blobs: tuple[BlobId, ...]
    used_at: float


def stored_revision(stored: Stored, resolved_at: float) -> StoredRevision:
    """Return the short form of a manifest."""
    manifest = stored.manifest
    size = sum(entry.size for entry in manifest.entries)
    return StoredRevision(
        manifest.uri,
        manifest.revision,
        size,
        resolved_at,
        manifest.sha256,
        manifest.checked,
        integrity(manifest.proof, (entry.checksum for entry in manifest.entries)),
    )


class Index:
    """The records, consistent with each other after every method."""

    def __init__(self) -> None:
        self.blobs: dict[BlobId, BlobRecord] = {}
        self._revisions: dict[RevisionKey, RevisionRecord] = {}
        self._by_uri: dict[str, dict[Revision, RevisionRecord]] = {}
        self._newest: dict[str, StoredRevision] = {}

    def snapshot(self) -> dict[str, StoredRevision]:
        """Return the newest revision of each URI."""
        return self._newest.copy()

    @property
    def newest(self) -> Mapping[str, StoredRevision]:
        """The same, not copied: for looking up, not for going through."""
        return MappingProxyType(self._newest)

    def get(self, key: RevisionKey) -> RevisionRecord | None:
        """Return the record of a complete revision."""
        return self._revisions.get(key)

    def listed(self) -> Iterator[tuple[RevisionKey, RevisionRecord]]:
        """Yield all revisions, those of one URI in the order in which storage last listed them."""
        for uri, revisions in self._by_uri.items():
            for revision, record in revisions.items():
                yield (uri, revision), record

    def add(self, record: RevisionRecord) -> None:
        """Make it the newest of its URI, in place of one of the same revision."""
        stored = record.stored
        self.drop((stored.uri, stored.revision))
        for blob in record.blobs:
            self.blobs[blob].references += 1
        self._revisions[stored.uri, stored.revision] = record
        self._by_uri.setdefault(stored.uri, {})[stored.revision] = record
        self._newest[stored.uri] = stored

    def relist(self, key: RevisionKey, resolved_at: float) -> StoredRevision:
        """Make a revision the newest of its URI again, listed at that time."""
        record = self._revisions[key]
        record.stored = replace(record.stored, resolved_at=resolved_at)
        record.used_at = max(record.used_at, resolved_at)
        of_uri = self._by_uri[key[0]]
        of_uri[key[1]] = of_uri.pop(key[1])
        self._newest[key[0]] = record.stored
        return record.stored

    def drop(self, key: RevisionKey) -> RevisionRecord | None:
        """Forget a revision; its blobs stay, with one reference fewer."""
        record = self._revisions.pop(key, None)
        if record is None:
            return None
        of_uri = self._by_uri[key[0]]
        del of_uri[key[1]]
        if of_uri:
            self._newest[key[0]] = next(reversed(of_uri.values())).stored
        else:
            del self._by_uri[key[0]], self._newest[key[0]]
        for blob in record.blobs:
            if blob in self.blobs:
                self.blobs[blob].references -= 1
        return record

    def naming(self, blob: BlobId) -> list[RevisionKey]:
        """Return the revisions that need this blob. Reads them all: only for what should not happen."""
        return [key for key, record in self._revisions.items() if blob in record.blobs]
