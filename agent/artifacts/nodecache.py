"""A folder that many pods of a node use at once: complete revisions that were pulled before.

Needs no lock and trusts none: a file appears whole under its final name or not at all, a record is written
after all its files, and whoever reads compares each file with the record. Two that add the same at once
both succeed. What is gone or differs is a miss.

Who may write to the folder is trusted with what other pods serve; who was only given links is not. A link
shares the file, and each link made changes its ctime, so what says that nobody wrote is the modification
time that it was given, that nobody may write to it, and that its owner is this user or root, who alone could
undo that. A file of which that cannot be said (another user's, a file system without modes) is copied and its
bytes are compared with the recorded digest.
"""

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agent.artifacts.digests import COMPUTABLE
from agent.artifacts.laying import LINK, digest_of, place
from agent.artifacts.manifest import BlobId, Entry
from agent.core.errors import TerminalError
from agent.core.model import Revision
from agent.core.paths import check_tree, relative_path

SEEN = "crc32c"  # what is recorded of bytes that no service gave a digest of
_UNFINISHED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Cached:
    """A file of a revision, and where the cache has it.

    `sealed`: nobody wrote to it since it was added; else only its digest can tell.
    """

    path: str
    size: int
    file: Path
    sealed: bool
    checksum: str | None


class NodeCache:
    """The cache in *folder*; made if it is absent. OSErrors pass."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, revision: Revision) -> tuple[Cached, ...] | None:
        """Return the files of a revision, all of them as they were added, None for a miss."""
        record = self._folder / f"revision-{revision}.json"
        try:
            entries = json.loads(record.read_bytes())["entries"]
            found = tuple(self._same(entry) for entry in entries)
            check_tree(each.path for each in found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, TerminalError):
            return None
        with suppress(OSError):
            os.utime(record)  # used now: the last to go
        return found or None

    def add(
        self,
        revision: Revision,
        entries: tuple[Entry, ...],
        blob_path: Callable[[BlobId], Path],
        how: str = LINK,
    ) -> None:
        """Take a complete revision in. Its files are synced; *how* says whether they are shared or copied."""
        told = []
        for entry in entries:
            source = blob_path(entry.blob)
            checksum = entry.checksum or digest_of(source, SEEN)
            self._take(source, replace(entry, checksum=checksum), how)
            told.append({"path": entry.path, "blob": entry.blob, "size": entry.size, "checksum": checksum})
        part = self._temporary()
        with part.open("xb") as file:
            file.write(json.dumps({"entries": told}).encode())
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._folder / f"revision-{revision}.json")

    def drop(self, file: Path) -> None:
        """Take a damaged file out; revisions that need it are misses until it is back."""
        with suppress(OSError):
            file.unlink()

    def trim(self, budget_bytes: int, keep: Revision) -> None:
        """Remove what was used least recently until files take no more than the budget; *keep* stays."""
        records = sorted(self._folder.glob("revision-*.json"), key=_age)
        held = {record: self._blobs(record) for record in records}
        gone: set[str] = set()
        for record in records:
            if sum(_merged(held).values()) <= budget_bytes:
                break
            if record.name != f"revision-{keep}.json":
                record.unlink(missing_ok=True)
                gone |= set(held.pop(record))
        wanted = _merged(held)
        old = time.time() - _UNFINISHED_SECONDS
        for file in self._folder.glob("[bt]*-*"):
            with suppress(FileNotFoundError):
                # What no record names may be of one that is being added; what one named was added whole.
                unused = file.name.startswith("temporary-") or file.name not in wanted
                if unused and (file.name in gone or file.stat().st_ctime < old):
                    file.unlink()

    def _blob(self, blob: str) -> Path:
        return self._folder / f"blob-{blob}"

    def _temporary(self) -> Path:
        return self._folder / f"temporary-{secrets.token_hex(16)}"

    def _same(self, entry: Mapping[str, object]) -> Cached:
        blob, size, checksum = str(entry["blob"]), entry["size"], entry.get("checksum")
        file = self._blob(blob)
        if not blob.isalnum() or not isinstance(size, int):
            raise ValueError("no record of ours")
        seen = file.lstat()
        known = isinstance(checksum, str) and checksum.partition(":")[0] in COMPUTABLE
        if not _good(seen, blob, size) or not (_sealed(seen) or known):
            raise ValueError("another file than was added")
        path = relative_path(str(entry["path"]))
        return Cached(path, size, file, _sealed(seen), str(checksum) if known else None)

    def _take(self, source: Path, entry: Entry, how: str) -> None:
        target = self._blob(entry.blob)
        with suppress(FileNotFoundError):
            seen = target.lstat()
            if _good(seen, entry.blob, entry.size) and _sealed(seen):
                return
        part = self._temporary()
        place(source, part, how=how, checksum=entry.checksum)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        moment = _moment(entry.blob)
        os.utime(part, (moment, moment))
        part.rename(target)

    def _blobs(self, record: Path) -> dict[str, int]:
        try:
            entries = json.loads(record.read_bytes())["entries"]
            return {f"blob-{entry['blob']}": int(entry["size"]) for entry in entries}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _good(seen: os.stat_result, blob: str, size: int) -> bool:
    """Whether a file looks as it was added: a write would change the time that it was given."""
    moment = _moment(blob) * 1_000_000_000
    return stat.S_ISREG(seen.st_mode) and (seen.st_size, seen.st_mtime_ns) == (size, moment)


def _sealed(seen: os.stat_result) -> bool:
    """Whether nobody but this user and root could have written to a file and set its time back."""
    return not seen.st_mode & 0o222 and seen.st_uid in {0, os.geteuid()}


def _moment(blob: str) -> int:
    """Return the modification time, in seconds, that every honest copy of a blob has: long ago."""
    return int.from_bytes(hashlib.sha256(blob.encode()).digest()[:4]) // 4


def _age(record: Path) -> float:
    try:
        return record.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _merged(held: Mapping[Path, Mapping[str, int]]) -> dict[str, int]:
    return {name: size for blobs in held.values() for name, size in blobs.items()}
