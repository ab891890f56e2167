"""A directory held open, and the few things done to the entries right in it.

Every name is one component and the last one is never followed, so that a link planted by another
container leads nowhere (law 11, fault D12). Errors are plain OSErrors; the store translates them.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from agent.artifacts.manifest import BlobStat

BLOCK = 512
"""st_blocks counts these, whatever the file system's own are (stat(2))."""

TEMP_PREFIX = ".agent-tmp-"
_RENAME_EXCHANGE = 2  # linux/fs.h
_MAX_DEPTH = 128  # ours are at most 32 deep; a descriptor is held open a level
_OF_ONE_ENTRY = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY, errno.ELOOP, errno.ENOTEMPTY})
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def temp_name() -> str:
    """Return a flat name that nobody else uses, swept at the next start if it is left behind."""
    return f"{TEMP_PREFIX}{os.urandom(8).hex()}"


class Folder:
    """An open directory. Names given to its methods are entries of it; `close` gives the descriptor back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def close(self) -> None:
        """Close the descriptor; further calls fail."""
        os.close(self.fd)

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """Yield what is here, one listing of the directory."""
        with os.scandir(self.fd) as listing:
            yield from listing

    def stat(self, name: str) -> os.stat_result | None:
        """Return the entry's own stat (a link is not followed), None if it is absent."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def blob_stat(self, name: str) -> BlobStat | None:
        """Return size and mtime of a regular file, None if there is no such file."""
        found = self.stat(name)
        if found is None or not S_ISREG(found.st_mode):
            return None
        return BlobStat(found.st_size, found.st_mtime_ns)

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open an entry itself, never what a link points to."""
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=self.fd)

    def read(self, name: str, limit: int) -> bytes:
        """Return at most *limit* bytes of the file."""
        return self.read_with_time(name, limit)[0]

    def read_with_time(self, name: str, limit: int) -> tuple[bytes, int]:
        """Return at most *limit* bytes of the file, and its mtime in nanoseconds."""
        fd = self.open(name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            limit = min(limit, found.st_size)  # a buffer of the file's size, not of the limit's
            content = os.read(fd, limit)
            while len(content) < limit and (more := os.read(fd, limit - len(content))):
                content += more
            return content, found.st_mtime_ns
        finally:
            os.close(fd)

    def write_new(
        self, name: str, content: bytes, *, mode: int, sync: bool, mtime_ns: int | None = None
    ) -> None:
        """Create the file with exactly this mode and content; it goes again if that fails."""
        fd = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(fd, content)
            os.fchmod(fd, mode)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            if sync:
                os.fsync(fd)
        except OSError:
            self.remove(name)
            raise
        finally:
            os.close(fd)

    def replace(self, name: str, content: bytes, *, sync: bool) -> None:
        """Put a private file in place whole: a reader sees the old content or the new."""
        temp = temp_name()
        self.write_new(temp, content, mode=0o600, sync=sync)
        try:
            self.rename(temp, name)
        except OSError:
            self.remove(temp)
            raise
        if sync:
            self.sync()

    def rename(self, old: str, new: str) -> None:
        """Rename within the directory, over what stands there."""
        os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def exchange(self, name: str, other: "Folder", other_name: str) -> bool:
        """Swap two entries at one instant; false where the file system cannot."""
        call = getattr(self._libc, "renameat2", None)
        if call is None:
            return False
        if call(self.fd, os.fsencode(name), other.fd, os.fsencode(other_name), _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
        if code in _NO_EXCHANGE:
            return False
        raise OSError(code, os.strerror(code), name)

    def change_mode(self, name: str, mode: int) -> None:
        """Set a file's mode, never that of what a link points to."""
        fd = self.open(name)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def set_time(self, name: str, mtime_ns: int) -> None:
        """Set an entry's own times."""
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=self.fd, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Unlink a file or a link; absent is fine."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return

    def remove_tree(self, name: str) -> None:
        """Remove whatever the name is, with all below it, following no link; absent is fine.

        What can be removed goes even where an entry beside it cannot; raises the first OSError.
        """
        _remove(self.fd, name, 0)

    def only_bytes(self, name: str) -> int:
        """Return what the disk would give back with the tree: of files that have no other name."""
        return sum(_only_bytes(self.fd, name, 0))

    def sync(self) -> None:
        """Make the names in this directory durable."""
        os.fsync(self.fd)


def _write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _remove(parent: int, name: str, depth: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # POSIX lets unlink answer EPERM for a directory
        _remove_directory(parent, name, depth)


def _remove_directory(parent: int, name: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise OSError(errno.ELOOP, f"more than {_MAX_DEPTH} folders deep", name)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError as error:  # a file that may not be unlinked
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name) from error
    try:
        failed: OSError | None = None
        for each in _names(fd):
            try:
                _remove(fd, each, depth + 1)
            except OSError as error:
                if error.errno not in _OF_ONE_ENTRY:
                    raise  # of the volume: each of a million others would fail likewise
                failed = failed or error
        if failed is not None:
            raise failed
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _only_bytes(parent: int, name: str, depth: int) -> Iterator[int]:
    """Yield the bytes of each file below that has one name only; what cannot be looked at counts nothing."""
    with suppress(OSError):
        stat = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if S_ISREG(stat.st_mode) and stat.st_nlink == 1:
            yield stat.st_blocks * BLOCK
        if not S_ISDIR(stat.st_mode) or depth > _MAX_DEPTH:
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            for each in _names(fd):
                yield from _only_bytes(fd, each, depth + 1)
        finally:
            os.close(fd)


def _names(fd: int) -> list[str]:
    with os.scandir(fd) as listing:
        return [entry.name for entry in listing]
