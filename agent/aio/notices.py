"""Notices about a folder from the kernel: something there may have changed. They wake, they never tell what.

Two implementations of one seam. `Inotify` speaks to Linux itself: it costs nothing while nothing happens
and wakes within a millisecond. `Watchfiles` is for systems without inotify; its native part looks every
`step_ms`, so that it cannot be both quick and idle (measured on Linux: 20 ms steps are 30 to 40 ms of delay
and 0.2 CPU seconds a minute).
"""

import asyncio
import collections
import ctypes
import errno
import os
import struct
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Protocol

from watchfiles import awatch

_EVENT = struct.Struct("iIII")
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x08, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x1000000
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_MASK = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_ANY_NAME = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED

BURST = 32
BURST_SECONDS = 0.8
SETTLE_SECONDS = 0.02
"""The first BURST batches of events are looked at as they come; in a storm, one look every SETTLE_SECONDS."""


class Notices(Protocol):
    """Notices about some names of one folder, until it is closed."""

    @property
    def mode(self) -> str:
        """The word for this way of noticing on /status and in metrics."""
        ...

    async def wait(self) -> bool:
        """Return True soon after one of the names may have changed, False when patience has run out.

        Also True when the watch itself may have broken: whoever waits looks for himself.
        """
        ...

    async def close(self) -> None:
        """Give back what the kernel gave."""
        ...


class Inotify:
    """Notices by inotify, read on the event loop itself: no thread, no work while nothing happens.

    The constructor raises OSError: FileNotFoundError or NotADirectoryError for the folder, EMFILE, ENFILE,
    ENOSPC or ENOMEM when the kernel has no watch left to give, ENOSYS where there is no inotify.
    """

    mode = "inotify"

    def __init__(self, folder: Path, names: Collection[str], patience_seconds: float) -> None:
        self._names = frozenset(os.fsencode(name) for name in names)
        self._patience_seconds = patience_seconds
        self._batches = collections.deque((float("-inf"),) * BURST, maxlen=BURST)
        self._descriptor = _inotify(folder)

    async def wait(self) -> bool:
        """Return True soon after one of the names may have changed, False when patience has run out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_seconds
        while loop.time() < deadline:
            if loop.time() - self._batches[0] < BURST_SECONDS:
                await asyncio.sleep(SETTLE_SECONDS)
            match self._read():
                case None:
                    await self._readable(deadline - loop.time())
                    continue
                case relevant:
                    self._batches.append(loop.time())
                    if relevant:
                        return True
        return False

    async def close(self) -> None:
        """Close the descriptor; the kernel drops its watch with it."""
        os.close(self._descriptor)

    async def _readable(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._descriptor, _set, ready)
        try:
            async with asyncio.timeout(seconds):
                await ready
        except TimeoutError:
            return
        finally:
            loop.remove_reader(self._descriptor)

    def _read(self) -> bool | None:
        """Take what is queued: None for nothing, else whether it concerns us."""
        try:
            queued = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return None
        offset, relevant = 0, False
        while offset < len(queued):
            _, mask, _, length = _EVENT.unpack_from(queued, offset)
            offset += _EVENT.size
            name = queued[offset : offset + length].rstrip(b"\0")
            relevant |= bool(mask & _ANY_NAME) or name in self._names
            offset += length
        return relevant


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _inotify(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError(errno.ENOSYS, "this system has no inotify")
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), ctypes.c_uint32(_MASK)) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, "inotify_add_watch")
    return descriptor


class Watchfiles:
    """Notices by the watchfiles package, for systems without inotify; `wait` raises its errors."""

    mode = "watchfiles"

    def __init__(
        self, folder: Path, names: Collection[str], patience_seconds: float, *, step_ms: int = 20
    ) -> None:
        wanted = frozenset(names)
        self._changes: AsyncIterator[object] = awatch(
            folder,
            watch_filter=lambda _, path: os.path.basename(path) in wanted,  # noqa: PTH119 (text, not a file)
            debounce=100,
            step=step_ms,
            rust_timeout=max(1, int(patience_seconds * 1000)),
            yield_on_timeout=True,
            recursive=False,
        )

    async def wait(self) -> bool:
        """Return True soon after one of the names may have changed, False when patience has run out."""
        try:
            return bool(await anext(self._changes))
        except RuntimeError as error:  # what its native part raises when the system gives it no watch
            raise OSError(errno.ENOSPC, "watchfiles cannot watch") from error

    async def close(self) -> None:
        """End the thread that watches."""
        await self._changes.aclose()  # type: ignore[attr-defined]  # awatch is an async generator
