"""Have the kernel write a large file out steadily, so that its fsync at the end is short.

And where all that is being pulled is so large that it would push everything else out of memory, let go of
what was written already: a model server's pages stay beside a pull of 100 GiB, be it one file or twenty.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h: begin to write out, do not wait
_STEP = 32 << 20
_BEHIND = 128 << 20
_SMALL = 64 << 20


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int] | None", call)


def write_out(descriptor: int, at: int, count: int) -> None:
    """Have the kernel begin to write these bytes out."""
    if (call := _sync_file_range()) is not None:
        call(descriptor, at, count, _WRITE)


def let_go(descriptor: int, at: int, count: int) -> None:
    """Have the kernel forget these bytes where they are on the disk."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, at, count, os.POSIX_FADV_DONTNEED)


Hint = Callable[[int, int, int], None]


class Writeback:
    """Watches how a file is filled, from any thread; only ever hints, never fails."""

    def __init__(
        self,
        descriptor: int,
        size: int,
        *,
        keep_cached: bool,
        write_out: Hint = write_out,
        let_go: Hint = let_go,
    ) -> None:
        self._descriptor = descriptor
        self._filled = [0] * (size // _STEP + 1)
        self._size = size
        self._lock = threading.Lock()
        self._drop = not keep_cached
        self._begun: list[int] = []
        self._large = size > _SMALL
        self._write_out, self._let_go = write_out, let_go

    def wrote(self, start: int, stop: int) -> None:
        """The bytes from *start* up to *stop* were written."""
        if not self._large:
            return
        step = start // _STEP
        with self._lock:
            self._filled[step] += stop - start  # at the edge of two steps a little early: it is a hint
            if self._filled[step] < min(_STEP, self._size - step * _STEP):
                return
            self._filled[step] = -self._size
            self._begun.append(step)
            old = self._begun.pop(0) if self._drop and len(self._begun) > _BEHIND // _STEP else None
        self._write_out(self._descriptor, step * _STEP, _STEP)
        if old is not None:
            self._let_go(self._descriptor, old * _STEP, _STEP)


@cache
def cacheable_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes of downloads may stay in memory: a quarter of what this container may have.

    cgroup v2's memory.max, v1's limit_in_bytes, else all of the machine.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max": no limit
            memory = min(memory, int((cgroup / name).read_text(encoding="ascii")))
    return memory // 4
