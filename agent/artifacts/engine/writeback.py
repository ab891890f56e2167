"""Have the kernel write a large file out steadily, so that its fsync at the end is short.

And where a file is so large that it would push everything else out of memory, let go of what was
written already: a model server's pages stay (issue: a pull of 100 GiB beside a server).
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, cast

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h: begin to write out, do not wait
_STEP = 32 << 20
_BEHIND = 256 << 20
_SMALL = 64 << 20


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int] | None", call)


class Writeback:
    """Watches how a file is filled, from any thread; only ever hints, never fails."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._filled = [0] * (size // _STEP + 1)
        self._size = size
        self._lock = threading.Lock()
        self._drop = size > _memory_bytes() // 4
        self._begun: list[int] = []
        self._call = _sync_file_range() if size > _SMALL else None

    def wrote(self, start: int, stop: int) -> None:
        """The bytes from *start* up to *stop* were written."""
        if self._call is None:
            return
        step = start // _STEP
        with self._lock:
            self._filled[step] += stop - start  # at the edge of two steps a little early: it is a hint
            if self._filled[step] < min(_STEP, self._size - step * _STEP):
                return
            self._filled[step] = -self._size
            self._begun.append(step)
            old = self._begun.pop(0) if self._drop and len(self._begun) > _BEHIND // _STEP else None
        self._call(self._descriptor, step * _STEP, _STEP, _WRITE)
        if old is not None:
            os.posix_fadvise(self._descriptor, old * _STEP, _STEP, os.POSIX_FADV_DONTNEED)


@cache
def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
