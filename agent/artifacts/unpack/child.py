"""The process that reads a hostile archive: no environment, few rights, little memory, dies with its parent.

Run by `run.unpack` with its order on standard input; it answers in JSON lines on standard output (`wire`).
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys

from agent.artifacts.unpack import streams
from agent.artifacts.unpack.sink import Sink, refused
from agent.artifacts.unpack.tar import unpack_tar
from agent.artifacts.unpack.wire import Done, Failed, Job, Member, Message, Refused, decode_job, encode
from agent.artifacts.unpack.zip import unpack_zip
from agent.core.archive import ArchiveKind
from agent.core.errors import TerminalError
from agent.core.reasons import Reason

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_REPORT = 1


def main() -> None:
    """Carry out the order and say how it ended; the exit code is 0 whenever it could be said."""
    _die_with_parent()
    job = decode_job(sys.stdin.buffer.read())
    _confine(job)
    try:
        members = _unpack(job)
        last: Message = Done(members)
    except TerminalError as error:
        last = Refused(error.reason, error.message)
    except BrokenPipeError:
        return  # nobody listens any more
    except OSError as error:
        last = Failed(error.errno or 0)
    except MemoryError:
        last = Refused(
            Reason.ARCHIVE_REFUSED,
            f"reading the archive takes more than {job.limits.memory_bytes} bytes of memory",
        )
    _say(last)


def _unpack(job: Job) -> int:
    counted = 0

    def say(message: Message) -> None:
        nonlocal counted
        counted += isinstance(message, Member)
        _say(message)

    size = os.fstat(job.archive).st_size
    sink = Sink(job.folder, job.identity, job.limits, job.total_bytes, size, say)
    match job.kind:
        case ArchiveKind.ZIP:
            unpack_zip(job.archive, sink, job.limits.members)
        case ArchiveKind.TAR:
            unpack_tar(streams.Stream(streams.plain(job.archive), sink.expand), sink, job.below)
        case ArchiveKind.TAR_GZ:
            unpack_tar(streams.Stream(streams.gunzipped(job.archive), sink.expand), sink, job.below)
        case ArchiveKind.TAR_ZST:
            unpack_tar(streams.Stream(streams.unzstd(job.archive), sink.expand), sink, job.below)
    if not counted and job.below is None:
        raise refused("the archive holds no file")
    return counted


def _say(message: Message) -> None:
    line = encode(message)
    while line:
        line = line[os.write(_REPORT, line) :]


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _confine(job: Job) -> None:
    """Lower the limits; those that the system will not lower stay as they are."""
    os.umask(0o022)
    seconds = max(1, int(job.limits.seconds))
    with contextlib.suppress(ValueError, OSError):  # the first is a signal with a name, the second a kill
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for limit, value in (
        (resource.RLIMIT_AS, job.limits.memory_bytes),
        (resource.RLIMIT_FSIZE, job.total_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main()
