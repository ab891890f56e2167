"""`file://`, `pvc://` and absolute paths: files of this machine, below allowed folders only.

`pvc://<claim>/<path>` is `/mnt/pvc/<claim>/<path>`, where KServe mounts a claim. What follows the scheme
is taken literally, with no percent-decoding, as KServe takes it. Nothing outside the allowed folders is
ever opened (fault X4).
"""

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from agent.aio.threads import Daemons
from agent.core.archive import HEAD_BYTES, archive_kind
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason
from agent.core.uri import scheme_of
from agent.storage.base import FileSource, Listing, RemoteObject
from agent.storage.confined import require_plain, walk

PVC_ROOT = Path("/mnt/pvc")
CLOCK_TICK_SECONDS = 0.02  # file times advance by the kernel's tick, at most 10 ms


class FileProvider:
    """Files below *roots*; `pvc://` below *pvc_root*, which is allowed too.

    Links are followed to files below the same root. A link to a folder, a link that leads out, a fifo, a
    socket or a device refuses the whole listing. A folder that no longer exists, or a root that is not
    mounted yet, is NotFound. What is below *shared_roots* the model server sees at the same path: it may be
    linked in place of a copy, unless it is an archive.
    """

    def __init__(
        self, roots: Sequence[Path], *, pvc_root: Path = PVC_ROOT, shared_roots: Sequence[Path] = ()
    ) -> None:
        self._shared_roots = tuple(str(root) for root in shared_roots)
        self._threads = Daemons("files", limit=4)
        self._pvc_root = str(pvc_root)
        self._roots = tuple(dict.fromkeys([*(str(root) for root in roots), self._pvc_root]))

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more."""
        return self._threads.hanging

    async def resolve(self, uri: str) -> Listing:
        """List the file or folder, on a thread of its own: a network volume may hang."""
        return await self._threads.run(self._resolve, uri)

    async def source(self, obj: RemoteObject) -> FileSource:
        """Say how to open the file; opening it checks that it is still the one that was listed."""
        return FileSource(open=partial(self._open, obj))

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.close()

    def _resolve(self, uri: str) -> Listing:
        path = local_path(uri, self._pvc_root)
        with _translated(path):
            listing = self._list(path)
            newest = max(_changed_seconds(obj) for obj in listing.objects)
            if newest + CLOCK_TICK_SECONDS > time.time():
                # A second write in this tick would leave the same times: let it pass, then look again.
                time.sleep(CLOCK_TICK_SECONDS)
                listing = self._list(path)
            return self._linked(listing)

    def _linked(self, listing: Listing) -> Listing:
        """Say which objects may be linked: those that the server sees, but for a single archive."""
        if not any(PurePosixPath(listing.objects[0].key).is_relative_to(root) for root in self._shared_roots):
            return listing
        if listing.single:
            (obj,) = listing.objects
            with open(self._open(obj), "rb") as file:  # noqa: PTH123 - a descriptor
                if archive_kind(obj.path, None, file.read(HEAD_BYTES)) is not None:
                    return listing
        return replace(listing, objects=tuple(replace(obj, link=obj.key) for obj in listing.objects))

    def _list(self, path: PurePosixPath) -> Listing:
        root, relative = self._confine(path)
        with walk(root, relative) as place:
            if stat.S_ISDIR(place.status.st_mode):
                folder = place.open_folder()
                try:
                    found = tuple(_walk_folder(folder, "", (root, place.parts), path))
                finally:
                    os.close(folder)
                if not found:
                    raise TerminalError(Reason.NOT_FOUND, f"{str(path)!r} is a folder without files")
                return Listing(tuple(sorted(found, key=lambda obj: obj.path)))
            require_plain(place.status, str(path))
            name = relative_path(path.name)
            return Listing((_object(name, path, place.status),), single=True)

    def _open(self, obj: RemoteObject) -> int:
        path = PurePosixPath(obj.key)
        with _translated(path):
            root, relative = self._confine(path)
            with walk(root, relative) as place:
                descriptor = place.open_file()
        if identity_of(os.fstat(descriptor)) != obj.identity:
            os.close(descriptor)
            raise RetryableError(
                Reason.SNAPSHOT_CHANGED, f"the file {obj.key!r} was changed or replaced since it was listed"
            )
        return descriptor

    def _confine(self, path: PurePosixPath) -> tuple[str, PurePosixPath]:
        for root in sorted(self._roots, key=len, reverse=True):
            for base in (root, os.path.realpath(root)):
                if path.is_relative_to(base):
                    return root, path.relative_to(base)
        allowed = ", ".join(self._roots)
        raise TerminalError(
            Reason.FORBIDDEN_PATH, f"{str(path)!r} is not below an allowed folder; allowed are: {allowed}"
        )


def local_path(uri: str, pvc_root: str = str(PVC_ROOT)) -> PurePosixPath:
    """Return the absolute path that *uri* names, with `.` and doubled slashes removed.

    Raises TerminalError: InvalidStorageUri for what is no such URI, ForbiddenPath for `..`.
    """
    scheme = scheme_of(uri)
    rest = uri if uri.startswith("/") else uri.partition("://")[2]
    if scheme == "pvc":
        claim, _, below = rest.partition("/")
        if claim in {"", ".", ".."}:
            raise TerminalError(Reason.INVALID_STORAGE_URI, "pvc:// needs a claim: pvc://<claim>/<path>")
        rest = f"{pvc_root}/{claim}/{below}"
    elif scheme != "file":
        raise TerminalError(Reason.INVALID_STORAGE_URI, f"{scheme or 'no scheme'}: not a local path")
    if rest.startswith("localhost/"):
        rest = rest.removeprefix("localhost")
    if not rest.startswith("/"):
        raise TerminalError(Reason.INVALID_STORAGE_URI, "file:// needs an absolute path: file:///<path>")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in rest):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI, "the path has a control character or is not valid Unicode"
        )
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise TerminalError(Reason.FORBIDDEN_PATH, f"{rest!r} has a '..'")
    return PurePosixPath("/", *parts)


def identity_of(status: os.stat_result) -> str:
    """Name the bytes of a file: any write, replacement or change of its times is another identity."""
    return f"file:{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _changed_seconds(obj: RemoteObject) -> float:
    mtime, ctime = obj.identity.split(":")[-2:]
    return max(int(mtime), int(ctime)) / 1e9


def _object(path: str, key: PurePosixPath, status: os.stat_result) -> RemoteObject:
    return RemoteObject(path=path, key=str(key), size=status.st_size, identity=identity_of(status))


def _walk_folder(
    folder: int, prefix: str, real: tuple[str, tuple[str, ...]], base: PurePosixPath
) -> Iterator[RemoteObject]:
    """Yield the files below an open folder; depth is bounded by `relative_path`, so descriptors are too."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    root, parts = real
    for name in names:
        path = relative_path(prefix + name)
        status = _status_of(name, folder, base / path)
        if stat.S_ISDIR(status.st_mode):
            if path == "lost+found":  # fsck's own folder at the top of a volume, readable by root only
                continue
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield from _walk_folder(inner, f"{path}/", (root, (*parts, name)), base)
            finally:
                os.close(inner)
            continue
        if stat.S_ISLNK(status.st_mode):
            with walk(root, PurePosixPath(*parts, name)) as place:
                status = place.status
        require_plain(status, str(base / path))
        yield _object(path, base / path, status)


def _status_of(name: str, folder: int, shown: PurePosixPath) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        raise RetryableError(
            Reason.SNAPSHOT_CHANGED, f"{str(shown)!r} went away while the folder was listed"
        ) from error


@contextmanager
def _translated(path: PurePosixPath) -> Iterator[None]:
    """Turn what the system calls say into our two kinds of error."""
    try:
        yield
    except OSError as error:
        raise _error(error, str(path)) from error


def _error(error: OSError, path: str) -> AgentError:
    at = error.filename if isinstance(error.filename, str) else None
    where = f"{path!r}, at {at!r} ({error.strerror})" if at else f"{path!r} ({error.strerror})"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return TerminalError(Reason.NOT_FOUND, f"nothing is at {where}")
        case errno.EACCES | errno.EPERM:
            return TerminalError(
                Reason.ACCESS_DENIED, f"user {os.geteuid()} may not read {where}; check owner and mode"
            )
        case errno.ELOOP:
            return TerminalError(Reason.FORBIDDEN_PATH, f"a link was put in the way of {where}")
        case errno.ENAMETOOLONG:
            return TerminalError(Reason.INVALID_STORAGE_URI, f"the path is too long: {path[:200]!r}…")
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            return RetryableError(Reason.RESOURCE_EXHAUSTED, f"no descriptor or memory to open {where}")
        case _:
            return RetryableError(Reason.DISK_ERROR, f"cannot read {where}")
