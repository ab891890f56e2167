"""A folder that many pods of a node use at once: complete revisions that were pulled before.

Needs no lock and trusts none: a file appears whole under its final name or not at all, a record is written
after all its files, and whoever reads compares each file with the record. Two that add the same at once
both succeed. What is gone or differs is a miss.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.artifacts.manifest import BlobId, Entry
from agent.core.model import Revision

FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file
_ELSEWHERE = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP})
_UNFINISHED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Cached:
    """A file of a revision, and where the cache has it."""

    path: str
    size: int
    file: Path


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
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with suppress(OSError):
            os.utime(record)  # used now: the last to go
        return found or None

    def add(
        self, revision: Revision, entries: tuple[Entry, ...], blob_path: Callable[[BlobId], Path]
    ) -> None:
        """Take a complete revision in. Its files are synced; they are shared where the file system can."""
        told = []
        for entry in entries:
            self._take(blob_path(entry.blob), entry)
            told.append({"path": entry.path, "blob": entry.blob, "size": entry.size})
        part = self._temporary()
        with part.open("xb") as file:
            file.write(json.dumps({"entries": told}).encode())
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._folder / f"revision-{revision}.json")

    def trim(self, budget_bytes: int, keep: Revision) -> None:
        """Remove what was used least recently until files take no more than the budget; *keep* stays."""
        records = sorted(self._folder.glob("revision-*.json"), key=_age)
        held = {record: self._blobs(record) for record in records}
        for record in records:
            if sum(_merged(held).values()) <= budget_bytes:
                break
            if record.name != f"revision-{keep}.json":
                record.unlink(missing_ok=True)
                del held[record]
        wanted = _merged(held)
        old = time.time() - _UNFINISHED_SECONDS
        for file in self._folder.glob("[bt]*-*"):
            with suppress(FileNotFoundError):
                unused = file.name.startswith("temporary-") or file.name not in wanted
                if unused and file.stat().st_ctime < old:
                    file.unlink()

    def _blob(self, blob: str) -> Path:
        return self._folder / f"blob-{blob}"

    def _temporary(self) -> Path:
        return self._folder / f"temporary-{secrets.token_hex(16)}"

    def _same(self, entry: Mapping[str, object]) -> Cached:
        blob, size = str(entry["blob"]), entry["size"]
        file = self._blob(blob)
        if not blob.isalnum() or not isinstance(size, int) or not _good(file, blob, size):
            raise ValueError("another file than was added")
        return Cached(str(entry["path"]), size, file)

    def _take(self, source: Path, entry: Entry) -> None:
        target = self._blob(entry.blob)
        with suppress(FileNotFoundError):
            if _good(target, entry.blob, entry.size):
                return
        part = self._temporary()
        place(source, part)
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


def place(source: Path, target: Path, *, symlink: bool = False) -> None:
    """Put a file's bytes at *target*, which is absent: by link, by shared blocks, at last by copy."""
    if symlink:
        target.symlink_to(source.absolute())
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
    else:
        return
    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing, FICLONE, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, 1 << 20)
        os.fchmod(writing.fileno(), 0o644)


def _good(file: Path, blob: str, size: int) -> bool:
    """Whether nobody wrote to a file since it was added: a write would change the time that it was given."""
    seen = file.lstat()
    moment = _moment(blob) * 1_000_000_000
    return stat.S_ISREG(seen.st_mode) and (seen.st_size, seen.st_mtime_ns) == (size, moment)


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
