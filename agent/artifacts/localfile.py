"""Objects that are files of this machine: reflinked where the file system can, else copied by the kernel.

The source is looked at before and after: what changed in between is never taken for a version of it.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

from agent.artifacts.digests import Digests
from agent.artifacts.errors import disk_errors
from agent.artifacts.orders import Moved
from agent.artifacts.progress import Meter
from agent.artifacts.reserve import reserve
from agent.core.errors import RetryableError
from agent.core.reasons import Reason

FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file
_PIECE_BYTES = 8 << 20  # often enough to count and to be cancelled, seldom enough to cost nothing
_CANNOT = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM})


def copy_file(
    source: Callable[[], int],
    partial: Path,
    meter: Meter,
    cancelled: threading.Event,
    want: frozenset[str],
    pay: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Put the bytes of the file that *source* opens into *partial*; blocks.

    *pay* is called with the size of each piece that was read and may wait; sharing blocks reads none.
    Raises RetryableError(SnapshotChanged) if the file changed meanwhile.
    """
    folder = partial.parent
    with disk_errors("opening the file that the model names"):
        reading = source()
    try:
        with disk_errors("copying a file of the model", volume=folder):
            before = _state(reading)
            writing = open_fresh(partial)
            try:
                size = _copy(reading, writing, before[0], meter, cancelled, pay)
                if _state(reading) != before or size != before[0]:
                    raise RetryableError(Reason.SNAPSHOT_CHANGED, "the file changed while it was copied")
                digests = _digests(writing, size, want)
            finally:
                os.close(writing)
    finally:
        os.close(reading)
    return Moved(size, digests)


def open_fresh(partial: Path) -> int:
    """Open a partial of our own, empty: what an earlier try that hangs still writes goes nowhere."""
    partial.unlink(missing_ok=True)
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _state(descriptor: int) -> tuple[int, int, int, int]:
    stat = os.fstat(descriptor)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _copy(
    reading: int,
    writing: int,
    size: int,
    meter: Meter,
    cancelled: threading.Event,
    pay: Callable[[int], None],
) -> int:
    try:
        fcntl.ioctl(writing, FICLONE, reading)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        meter.add(size)
        return size
    reserve(writing, size)
    move = _copy_range
    done = 0
    while done < size and not cancelled.is_set():
        try:
            count = move(reading, writing, done, min(_PIECE_BYTES, size - done))
        except OSError as error:
            if move is _send or error.errno not in _CANNOT:
                raise
            move = _send  # another file system than the store's
            continue
        if not count:
            break
        done += count
        meter.add(count)
        pay(count)
    return done


def _copy_range(reading: int, writing: int, at: int, count: int) -> int:
    return os.copy_file_range(reading, writing, count, at, at)


def _send(reading: int, writing: int, at: int, count: int) -> int:
    os.lseek(writing, at, os.SEEK_SET)
    return os.sendfile(writing, reading, at, count)


def _digests(descriptor: int, size: int, want: frozenset[str]) -> dict[str, str]:
    if not want:
        return {}
    digests = Digests(want)
    buffer = memoryview(bytearray(min(max(size, 1), 1 << 20)))
    at = 0
    while count := os.preadv(descriptor, [buffer], at):
        digests.update(buffer[:count])
        at += count
    return digests.result()
