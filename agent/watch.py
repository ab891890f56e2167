"""The mounted document: read it whole, and ring the bell when it may have changed (law 3).

The kubelet lays a ConfigMap down as `models.json -> ..data/models.json` with `..data -> ..<timestamp>`, and
changes it by renaming a new `..data` over the old one (kserve-contract §1.1). A plain folder works as well.
No notice is trusted: a look at the folder every few seconds bounds how stale the agent can be.
"""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.aio.notices import Notices, Watchfiles
from agent.core.document import MAX_DOCUMENT_BYTES
from agent.core.reasons import Reason

_LOG = logging.getLogger(__name__)

FILE_NAME = "models.json"
MAX_BYTES = 8 * MAX_DOCUMENT_BYTES
"""Up to here what is too large is read all the same, so that its digest can be told on /status."""
POLL_SECONDS = 1.0
RETRY_INOTIFY_SECONDS = 600.0
_LOOKS_AFTER_SECONDS = (0.0, 0.0, 0.01, 0.05)
"""A file that is not there is looked for again, at once and a little later: a swap takes microseconds."""
_SWAPPED = frozenset({errno.ENOENT, errno.ESTALE})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ENOSYS, errno.EAGAIN})

Fingerprint = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The bytes of one version of the file, and their sha256 in hex."""

    raw: bytes = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why there is no document now: ConfigMissing, ConfigUnreadable or ConfigTooLarge.

    It never means that no model is wanted.
    """

    reason: Reason
    message: str


class OpenNotices(Protocol):
    """How to watch a folder; raises OSError, at once or when first waited for."""

    def __call__(self, folder: Path, names: Collection[str], patience_seconds: float) -> Notices:
        """Watch *names* of *folder*; each wait ends after *patience_seconds*."""
        ...


class ConfigSource:
    """The document in a mounted folder. Everything it says is what the disk says now; nothing is remembered.

    `folder` need not exist yet. A file over `max_bytes` is refused.
    """

    def __init__(
        self,
        folder: Path,
        *,
        file_name: str = FILE_NAME,
        poll_seconds: float = POLL_SECONDS,
        max_bytes: int = MAX_BYTES,
        retry_seconds: float = RETRY_INOTIFY_SECONDS,
        open_notices: OpenNotices = Watchfiles,
    ) -> None:
        self._folder = folder
        self._path = folder / file_name
        self._poll_seconds = poll_seconds
        self._max_bytes = max_bytes
        self._retry_seconds = retry_seconds
        self._open_notices = open_notices
        self._mode = "poll"
        self._said_exhausted = False

    @property
    def mode(self) -> str:
        """How changes are noticed now: `watchfiles` (within 50 ms), or `poll` (within seconds)."""
        return self._mode

    def read(self) -> Document | Unreadable:
        """Read the file whole, or say why not. Blocks (a few ms; 60 ms where it is missing), raises nothing.

        A version is never mixed with another, and a swap in progress is never taken for a missing file.
        """
        error: OSError | None = None
        for pause in _LOOKS_AFTER_SECONDS:
            time.sleep(pause)
            try:
                found = self._read_once()
            except OSError as caught:
                error = caught
                if caught.errno not in _SWAPPED:
                    break
            else:
                if found is not None:
                    return found
        return self._explain(error)

    def is_static(self) -> bool:
        """Tell whether the file is mounted by `subPath`, so that the kubelet never changes it."""
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return False
        wanted = str(self._path.absolute())
        return any(_unescaped(line.split(" ")[4]) == wanted for line in mounts.splitlines())

    async def watch(self, ring: Callable[[], None]) -> None:
        """Ring now, and whenever the document may have changed; runs for ever and raises nothing.

        Falls back to looking every `poll_seconds` where the kernel has no watch to give, says so once, and
        tries for one again every ten minutes. A folder that is missing, replaced or mounted over is found.
        """
        if await asyncio.to_thread(self.is_static):
            _LOG.warning(
                "the document is mounted with subPath and will never be updated; mount the whole ConfigMap",
                extra={"reason": Reason.CONFIG_MOUNT_STATIC, "path": str(self._path)},
            )
        loop = asyncio.get_running_loop()
        seen: Fingerprint | None = None
        retry_at = loop.time()
        while True:
            if loop.time() >= retry_at:
                try:
                    seen = await self._watch_folder(ring, seen)
                    continue
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        self._say_exhausted(error)
                        retry_at = loop.time() + self._retry_seconds
            seen = await self._look(ring, seen)
            await asyncio.sleep(self._poll_seconds)

    async def _watch_folder(self, ring: Callable[[], None], seen: Fingerprint | None) -> Fingerprint:
        """Ring for the changes of the folder that is there now, until another one (or none) is."""
        folder = await asyncio.to_thread(_identity, self._folder)
        notices = self._open_notices(self._folder, (self._path.name, "..data"), self._poll_seconds)
        try:
            self._mode = notices.mode
            seen = await self._look(ring, seen)
            while seen[0] == folder:
                await notices.wait()
                self._said_exhausted = False
                seen = await self._look(ring, seen)
            return seen
        finally:
            self._mode = "poll"
            await notices.close()

    async def _look(self, ring: Callable[[], None], seen: Fingerprint | None) -> Fingerprint:
        found = await asyncio.to_thread(self._fingerprint)
        if found != seen:
            ring()
        return found

    def _fingerprint(self) -> Fingerprint:
        """Return what differs whenever the bytes do: the folder, `..data`, the file's inode and times."""
        return (_identity(self._folder), _target(self._folder / "..data"), _identity(self._path, times=True))

    def _read_once(self) -> Document | Unreadable | None:
        """Read the file; None where it was edited in place meanwhile. Raises OSError."""
        with _opened(self._path) as descriptor:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                kind = stat.filemode(before.st_mode)[0]
                return Unreadable(
                    Reason.CONFIG_UNREADABLE,
                    f"{self._path} is no regular file (kind {kind}); put the JSON document there",
                )
            raw = _read_up_to(descriptor, self._max_bytes + 1)
            after = os.fstat(descriptor)
        if len(raw) > self._max_bytes:
            return Unreadable(
                Reason.CONFIG_TOO_LARGE,
                f"{self._path} is larger than {self._max_bytes} bytes; give it fewer models",
            )
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(
            raw
        ) != after.st_size:
            return None
        return Document(raw, hashlib.sha256(raw).hexdigest())

    def _explain(self, error: OSError | None) -> Unreadable:
        if error is None:
            return Unreadable(
                Reason.CONFIG_UNREADABLE,
                f"{self._path} is being written again and again; rename a whole file over it",
            )
        if error.errno not in _SWAPPED:
            return Unreadable(Reason.CONFIG_UNREADABLE, f"{self._path} cannot be read: {error.strerror}")
        what = "has no such key" if self._folder.is_dir() else "is not mounted"
        return Unreadable(
            Reason.CONFIG_MISSING,
            f"there is no {self._path}: the ConfigMap {what}; mount the one that holds {self._path.name}",
        )

    def _say_exhausted(self, error: OSError) -> None:
        if self._said_exhausted:
            return
        self._said_exhausted = True
        inotify = "raise fs.inotify.max_user_instances and max_user_watches on the node"
        threads = "raise pids.max of the container or ulimit -u"
        _LOG.warning(
            "the kernel has no file watch left; looking at the document every few seconds instead",
            extra={
                "error": os.strerror(error.errno or 0),
                "poll_seconds": self._poll_seconds,
                "advice": threads if error.errno == errno.EAGAIN else inotify,
            },
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open for reading without ever waiting for a writer of a fifo."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := os.read(descriptor, min(limit, 1 << 20))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _identity(path: Path, *, times: bool = False) -> Fingerprint | None:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno,)
    if not times:
        return (found.st_dev, found.st_ino)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 (Path.readlink builds a path of a text that is only compared)
    except OSError:
        return None


def _unescaped(mount_point: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount_point)
