"""What the model server sees: one directory a model, whole or absent at every instant (law 1).

A tree is filled under a temporary name with hard links of verified blobs, then takes the model's name in
one step. Only the filling and the removal of the old tree, milliseconds both, happen under a temporary
name; bytes that are new are written and synced as flat files before. The directories themselves are not
synced: journalling file systems persist links and renames in the order they were made, and in the drop-in
layout a sync here would keep the temporary directory in the server's sight while downloads are flushed.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from stat import S_ISREG
from typing import Any

from agent.artifacts.durable import sync_files
from agent.artifacts.folder import Folder, temp_name
from agent.artifacts.manifest import BlobId, BlobStat

_COPY_STEP = 1 << 26
_NO_LINKS = frozenset({errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Linked:
    """A published file that is a blob of the store, as it was when adopted."""

    blob: BlobId
    file: str
    stat: BlobStat


@dataclass(frozen=True, slots=True)
class Fresh:
    """A published file of our own making (an overlay), never linked to a blob."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Pointer:
    """A published symlink to a shared root's file."""

    target: str


Item = Linked | Fresh | Pointer
Tree = Mapping[str, "Item | Tree"]


class BlobChangedError(Exception):
    """A blob is not any more what was verified; `blob` tells which."""

    def __init__(self, blob: BlobId) -> None:
        super().__init__(blob)
        self.blob = blob


class _LinkRefusedError(Exception):
    """The file system or the kernel refuses one more hard link of a blob."""


class Publisher:
    """Puts trees in the model dir and takes them away. Both folders are on one file system."""

    def __init__(self, model: Folder, staging: Folder) -> None:
        self._model = model
        self._staging = staging
        self._last_ns = 0
        self._stuck: dict[str, tuple[str, int]] = {}

    def publish(self, name: str, items: Mapping[str, Item]) -> None:
        """Make `<model-dir>/<name>` exactly *items*, in place of whatever stands there.

        Blobs that cannot be linked (too many links, another owner) are copied. Raises OSError, or
        BlobChangedError; the name then still is what it was.
        """
        try:
            self._publish(name, items, copy=False)
        except _LinkRefusedError:
            self._publish(name, items, copy=True)

    def withdraw(self, name: str) -> None:
        """Take the name away at one instant, then remove the tree; absent is fine."""
        temp = temp_name()
        with suppress(FileNotFoundError):
            os.rename(name, temp, src_dir_fd=self._model.fd, dst_dir_fd=self._staging.fd)
            self.discard(temp)

    def stands(self, name: str, items: Mapping[str, Item]) -> bool:
        """Whether the published tree holds *items*, unchanged. Files beside them are the server's own."""
        try:
            top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._model.fd)
        except OSError:
            return False
        try:
            return _same(top, nested(items))
        finally:
            os.close(top)

    def cannot_remove(self) -> Mapping[str, str]:
        """Return the retired trees that are still there, path to the system's word."""
        return {str(self._staging.path / name): why for name, (why, _) in self._stuck.copy().items()}

    def stuck_bytes(self) -> int:
        """Return what the disk still has of them and of nothing else."""
        return sum(held for _, held in self._stuck.copy().values())

    def retry_removals(self) -> None:
        """Try once more to remove what could not be removed."""
        for name in tuple(self._stuck):
            self.discard(name)

    def discard(self, name: str) -> None:
        """Remove a temporary entry of the staging folder; remember it if that cannot be done."""
        try:
            self._staging.remove_tree(name)
        except OSError as error:
            self._stuck[name] = (os.strerror(error.errno or 0), self._staging.only_bytes(name))
        else:
            self._stuck.pop(name, None)

    def _publish(self, name: str, items: Mapping[str, Item], *, copy: bool) -> None:
        flat: dict[str, str] = {}
        temp = temp_name()
        try:
            self._prepare(items, flat, copy=copy)
            stamp = self._fresh_time(name)
            with _made_directory(self._staging.fd, temp, stamp) as top:
                self._fill(top, "", nested(items), flat, stamp)
            self._swap(temp, name)
        finally:
            for left in flat.values():
                self._staging.remove(left)
            self.discard(temp)

    def _prepare(self, items: Mapping[str, Item], flat: dict[str, str], *, copy: bool) -> None:
        """Write and sync what is new as flat files, before any directory of ours can be seen."""
        for path, item in items.items():
            temp = temp_name()
            match item:
                case Fresh(content):
                    flat[path] = temp
                    self._staging.write_new(temp, content, mode=0o644, sync=False)
                case Linked() if copy:
                    flat[path] = temp
                    self._copy(item, temp)
                case _:
                    pass
        for error in sync_files(self._staging, flat.values()).errors.values():
            raise error

    def _copy(self, item: Linked, temp: str) -> None:
        source = self._staging.open(item.file)
        try:
            target = self._staging.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                while os.copy_file_range(source, target, _COPY_STEP):
                    pass
                os.fchmod(target, 0o444)
                os.utime(target, ns=(item.stat.mtime_ns, item.stat.mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)
        if self._staging.blob_stat(temp) != item.stat:
            raise BlobChangedError(item.blob)

    def _fresh_time(self, name: str) -> int:
        """Return a time later than any tree of ours and than what stands, whatever the clock says.

        Triton compares times to find out whether there is anything to do (model-servers.md).
        """
        standing = self._model.stat(name)
        after = max(self._last_ns, standing.st_mtime_ns if standing else 0)
        self._last_ns = max(time.time_ns(), after + 1)
        return self._last_ns

    def _fill(self, fd: int, prefix: str, tree: Tree, flat: Mapping[str, str], stamp: int) -> None:
        for name, item in tree.items():
            path = prefix + name
            match item:
                case Pointer(target):
                    os.symlink(target, name, dir_fd=fd)
                case Linked() if path not in flat:
                    self._link(fd, name, item)
                case Linked() | Fresh():
                    os.rename(flat[path], name, src_dir_fd=self._staging.fd, dst_dir_fd=fd)
                case _:
                    with _made_directory(fd, name, stamp) as below:
                        self._fill(below, path + "/", item, flat, stamp)

    def _link(self, fd: int, name: str, item: Linked) -> None:
        try:
            os.link(item.file, name, src_dir_fd=self._staging.fd, dst_dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise BlobChangedError(item.blob) from error
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise _LinkRefusedError from error
            raise
        if not _unchanged(fd, name, item.stat):
            raise BlobChangedError(item.blob)

    def _swap(self, temp: str, name: str) -> None:
        """Give *temp* the name; what stood there is then under *temp*. A link there is not followed.

        Where the file system cannot exchange two names (some FUSE and network ones), the name is absent
        between two renames: a crash there leaves no model of that name, and the next start loads it again.
        """
        if self._model.stat(name) is None:
            os.rename(temp, name, src_dir_fd=self._staging.fd, dst_dir_fd=self._model.fd)
        elif not self._staging.exchange(temp, self._model, name):
            aside = temp_name()
            os.rename(name, aside, src_dir_fd=self._model.fd, dst_dir_fd=self._staging.fd)
            try:
                os.rename(temp, name, src_dir_fd=self._staging.fd, dst_dir_fd=self._model.fd)
            except OSError:
                os.rename(aside, name, src_dir_fd=self._staging.fd, dst_dir_fd=self._model.fd)
                raise
            self.discard(aside)


def nested(items: Mapping[str, Item]) -> Tree:
    """Return the paths as a tree of folders."""
    top: dict[str, Any] = {}
    for path, item in items.items():
        *folders, name = path.split("/")
        place = top
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = item
    return top


@contextmanager
def _made_directory(parent: int, name: str, stamp: int) -> Iterator[int]:
    """Make a directory, readable by every user id, and give it its time once it is filled."""
    os.mkdir(name, 0o755, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.fchmod(fd, 0o755)  # whatever the umask
        yield fd
        os.utime(fd, ns=(stamp, stamp))
    finally:
        os.close(fd)


def _unchanged(fd: int, name: str, stat: BlobStat) -> bool:
    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return S_ISREG(found.st_mode) and BlobStat(found.st_size, found.st_mtime_ns) == stat


def _same(fd: int, tree: Tree) -> bool:
    """Whether the folder holds all of *tree*; an OSError on the way means that it does not."""
    try:
        return all(_same_item(fd, name, item) for name, item in tree.items())
    except OSError:
        return False


def _same_item(fd: int, name: str, item: "Item | Tree") -> bool:
    match item:
        case Linked(stat=stat):
            return _unchanged(fd, name, stat)
        case Pointer(target):
            return os.readlink(name, dir_fd=fd) == target
        case Fresh(content):
            return _reads(fd, name, content)
        case _:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                return _same(below, item)
            finally:
                os.close(below)


def _reads(fd: int, name: str, content: bytes) -> bool:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    with os.fdopen(file, "rb") as reading:
        return reading.read(len(content) + 1) == content
