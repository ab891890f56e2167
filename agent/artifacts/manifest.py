"""What a stored revision consists of, and its file. Complete means that this file exists (design §5).

The file is one JSON object. Its head carries the format version and the digest of the rest, so that an
unknown version, a torn write or a flipped bit reads as "no manifest", never as a wrong one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, NamedTuple, NewType, TypeVar

from agent.core.model import Integrity, Revision

BlobId = NewType("BlobId", str)
"""Names the bytes of one object: 40 lower-case hex digits."""

Result = TypeVar("Result")
FORMAT = 1
_SPLIT = b',"manifest":'


def blob_id(identity: str) -> BlobId:
    """Return the blob that an object of this identity is: the first 160 bits of its sha256."""
    return BlobId(intern(hashlib.sha256(identity.encode()).hexdigest()[:40]))  # asked for again and again


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a revision.

    `path`      relative, checked by `agent.core.paths`.
    `checksum`  "sha256:<hex>", "crc32c:<hex>" or "crc64nvme:<hex>" of the bytes on disk, None if unknown.
    `link`      a symlink's target in place of a blob, only with --shared-root; `blob` is then not looked at.
    """

    path: str
    size: int
    blob: BlobId
    checksum: str | None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A revision of a URI: its files, and how their bytes were proved.

    `uri`            the storage URI exactly as in the spec, secrets and all: the file is 0600, never logged.
    `resolved_at`    Unix seconds of the listing.
    `proof`          "signed", "declared", "provider" or "seen-first" (design §6).
    `unpacked_from`  identity of the archive whose members these are.
    `sha256`         lower-case hex of the one object that the URI names, archive or not; None if unknown.
    `checked`        what was declared of the files together and found true, see `StoredRevision`.
    """

    uri: str
    revision: Revision
    resolved_at: float
    entries: tuple[Entry, ...]
    proof: str
    unpacked_from: str | None = None
    sha256: str | None = None
    checked: frozenset[str] = frozenset()


class BlobStat(NamedTuple):
    """What is remembered of a blob when it is adopted, and compared before each reuse.

    Size and mtime only. ctime (and nlink) change with every hard link that publish makes or removes, so
    a recorded ctime would differ from the true one after the first load; the inode number changes when a
    volume is restored from a backup. A writer who also resets mtime is found by digest alone.
    """

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest with the stat of each of its blobs, as its file holds them."""

    manifest: Manifest
    stats: Mapping[BlobId, BlobStat]


@dataclass(frozen=True, slots=True)
class Summary:
    """What of a manifest is kept in memory: enough to find it, to count its bytes and to check its blobs."""

    uri: str
    revision: Revision
    size_bytes: int
    stats: Mapping[BlobId, BlobStat]
    sha256: str | None = None
    checked: frozenset[str] = frozenset()
    integrity: Integrity | None = None


def manifest_file(uri: str, revision: Revision) -> str:
    """Return the flat file name of a revision's manifest."""
    digest = hashlib.sha256(f"{uri}\n{revision}".encode()).hexdigest()
    return f".agent-manifest-{digest[:40]}"


def encode(stored: Stored) -> bytes:
    """Return the file's content. `decode` gives the same value back."""
    manifest = stored.manifest
    body = {
        "uri": manifest.uri,
        "revision": manifest.revision,
        "resolvedAt": manifest.resolved_at,
        "proof": manifest.proof,
        "unpackedFrom": manifest.unpacked_from,
        "sha256": manifest.sha256,
        "checked": sorted(manifest.checked),
        "entries": [_entry_fields(entry, stored.stats) for entry in manifest.entries],
    }
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode()
    return b'{"format":%d,"sha256":"%s"' % (FORMAT, _digest(text)) + _SPLIT + text + b"}"


def decode(raw: bytes) -> Stored | None:
    """Return what *raw* says, None where it is torn, damaged or of another format version."""
    return _decoded(raw, _from_fields)


def summarize(raw: bytes) -> Summary | None:
    """Return the short form of what *raw* says, None as `decode` does; a third of its cost."""
    return _decoded(raw, _summary)


def _decoded(raw: bytes, read: Callable[[Any], Result]) -> Result | None:
    head, found, rest = raw.partition(_SPLIT)
    text = rest[:-1]
    if not found or head != b'{"format":%d,"sha256":"%s"' % (FORMAT, _digest(text)):
        return None
    try:
        return read(json.loads(text))
    except (ValueError, LookupError, TypeError):
        return None


def _summary(body: Any) -> Summary:
    entries = body["entries"]
    stats = {each[2]: BlobStat(each[1], each[3]) for each in entries if each[5] is None}
    size = sum(each[1] for each in entries)
    checked = frozenset(body.get("checked", ()))
    proved = integrity(body["proof"], (each[4] for each in entries))
    return Summary(body["uri"], body["revision"], size, stats, body.get("sha256"), checked, proved)


def integrity(proof: str, checksums: Iterable[str | None]) -> Integrity:
    """Return what is told of a revision's proof; *checksums* as in `Entry`."""
    return Integrity(proof, tuple(sorted({each.partition(":")[0] for each in checksums if each})))


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _entry_fields(entry: Entry, stats: Mapping[BlobId, BlobStat]) -> list[Any]:
    """One list a file, not an object: a manifest of 10,000 files is a third smaller."""
    mtime_ns = stats[entry.blob].mtime_ns if entry.link is None else 0
    return [entry.path, entry.size, entry.blob, mtime_ns, entry.checksum, entry.link]


def _from_fields(body: Any) -> Stored:
    stats: dict[BlobId, BlobStat] = {}
    entries = []
    for path, size, blob, mtime_ns, checksum, link in body["entries"]:
        if link is None:
            stats[blob] = BlobStat(size, mtime_ns)
        entries.append(Entry(path, size, blob, checksum, link))
    manifest = Manifest(
        uri=body["uri"],
        revision=body["revision"],
        resolved_at=body["resolvedAt"],
        entries=tuple(entries),
        proof=body["proof"],
        unpacked_from=body["unpackedFrom"],
        sha256=body.get("sha256"),
        checked=frozenset(body.get("checked", ())),
    )
    return Stored(manifest, stats)
