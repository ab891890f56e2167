"""File-system errors in words an operator can act on: the one translator of the artifact layer.

The store and the fetch engine both raise through here, so that one fault has one reason. Decided by
errno alone, never by the words of a message (style §6).
"""

import errno
import os
from pathlib import Path

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


def disk_error(
    error: OSError, what: str, *, need_bytes: int | None = None, volume: Path | None = None
) -> AgentError:
    """Translate *error*, met while doing *what* ("writing the blob of …"); no secrets in *what*.

    `need_bytes` is what the step wanted to write, `volume` a directory on the file system concerned:
    both only make the message of a full disk say its numbers. Never raises.
    """
    code = error.errno or 0
    why = f"{what}: {os.strerror(code) if code else 'unknown file system error'}"
    if code in _FULL:
        return RetryableError(Reason.DISK_FULL, f"{why}; {_room(code, need_bytes, volume)}")
    if code == errno.EROFS:
        return RetryableError(
            Reason.READ_ONLY_VOLUME,
            f"{why}; what is loaded keeps serving, mount the volume read-write to go on",
        )
    if code in _EXHAUSTED:
        return RetryableError(
            Reason.RESOURCE_EXHAUSTED, f"{why}; raise the limit (ulimit -n, memory) or lower concurrency"
        )
    if code == errno.EXDEV:
        return TerminalError(
            Reason.DISK_ERROR,
            f"{why}; --model-dir and --store-dir must be on one file system and under one mount: "
            "mount the volume's root in the agent and point both below it",
        )
    if code in _REFUSED:
        return RetryableError(
            Reason.DISK_ERROR, f"{why}; the agent's user must own the volume (runAsUser, fsGroup)"
        )
    return RetryableError(Reason.DISK_ERROR, f"{why} (errno {code}); check the volume and the kernel log")


class disk_errors:  # noqa: N801 - used as `with disk_errors(...)`, thousands of times for one model
    """Raise any OSError of the block as `disk_error` tells it."""

    __slots__ = ("_need_bytes", "_volume", "_what")

    def __init__(self, what: str, *, need_bytes: int | None = None, volume: Path | None = None) -> None:
        self._what, self._need_bytes, self._volume = what, need_bytes, volume

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise disk_error(error, self._what, need_bytes=self._need_bytes, volume=self._volume) from error


def _room(code: int, need_bytes: int | None, volume: Path | None) -> str:
    """Say what is missing: inodes, bytes, or a quota that the file system's own numbers hide."""
    need = "" if need_bytes is None else f"{need_bytes} bytes are needed, "
    if code == errno.EFBIG:
        return f"{need}the file is larger than the file system or RLIMIT_FSIZE allows"
    try:
        room = os.statvfs(volume) if volume is not None else None
    except OSError:
        room = None
    advice = "enlarge the volume, remove models, or lower --disk-budget"
    if room is None:
        return f"{need}{advice}"
    if room.f_files and room.f_favail == 0:
        return f"{need}no inode is free (0 of {room.f_files}): fewer files or a volume with more inodes"
    free = room.f_bavail * room.f_frsize
    quota = " (a quota may hold less)" if code == errno.EDQUOT or free > (need_bytes or 0) else ""
    return f"{need}{free} bytes are free{quota}; {advice}"
