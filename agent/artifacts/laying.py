"""Files put into a folder that is theirs alone: each appears whole, with one rename.

What was copied, not linked, is compared with its digest where one is known: then whoever could write to the
source did not choose the bytes.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.artifacts.digests import Digests
from agent.usage import UsageError

FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file
STORE = ".agent-pull"
PART = ".agent-part-"
NOT_OURS = frozenset({STORE, "lost+found"})
LINK, COPY, SYMLINK = "link", "copy", "symlink"
_ELSEWHERE = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP})


class DamagedError(OSError):
    """A file holds other bytes than were verified; `filename` is it."""


@dataclass(frozen=True, slots=True)
class Laid:
    """Where a file's bytes are, how they come from there, and their digest ("sha256:<hex>") if known."""

    file: Path
    how: str = LINK
    checksum: str | None = None


def check(folder: Path, wanted: Iterable[str], others: Iterable[Path] = ()) -> None:
    """Refuse a folder that holds other files than those, which a pull would then serve as its own.

    *others* are folders that belong to somebody else, below this one too.
    """
    apart = [other.relative_to(folder) for other in others if folder in other.parents]
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and path.relative_to(folder).parts[0] not in NOT_OURS
        and not any(path.relative_to(folder).is_relative_to(other) for other in apart)
        and not path.name.startswith(PART)
    }
    if foreign := sorted(there - set(wanted)):
        raise UsageError(
            f"model-agent pull: {folder} is not an empty folder, it holds {foreign[0][:200]!r}; name one that"
            " is, or a new one"
        )


def lay_out(files: Mapping[str, Laid], folder: Path, others: Iterable[Path] = ()) -> None:
    """Put the files in place. Raises UsageError as `check`, OSError, DamagedError."""
    check(folder, files, others)
    for left in folder.rglob(f"{PART}*"):
        left.unlink()
    for path, each in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.parent / f"{PART}{secrets.token_hex(8)}"
        try:
            place(each.file, part, how=each.how, checksum=each.checksum)
            part.rename(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def place(source: Path, target: Path, *, how: str = LINK, checksum: str | None = None) -> None:
    """Put a file's bytes at *target*, which is absent: by link, by shared blocks, at last by copy."""
    if how == SYMLINK:
        target.symlink_to(source.absolute())
        return
    if how == LINK and _linked(source, target):
        return
    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing, FICLONE, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, 1 << 20)
        os.fchmod(writing.fileno(), 0o444)
    if checksum is not None and digest_of(target, checksum.partition(":")[0]) != checksum:
        raise DamagedError(errno.EIO, "holds other bytes than were verified", str(source))


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        return False
    return True


def digest_of(file: Path, algorithm: str) -> str:
    """Read a file and return its checksum as manifests write it."""
    digests, buffer = Digests([algorithm]), memoryview(bytearray(1 << 20))
    with file.open("rb", buffering=0) as reading:
        while size := reading.readinto(buffer):
            digests.update(buffer[:size])
    return f"{algorithm}:{digests.result()[algorithm]}"
