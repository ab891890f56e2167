"""Unpack an archive of the store: bound the child, believe what can be checked, leave nothing behind."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.artifacts.blobs import part_file
from agent.artifacts.errors import disk_errors
from agent.artifacts.unpack.sink import Tree, member_blob
from agent.artifacts.unpack.wire import (
    MAX_LINE,
    Begin,
    Done,
    Failed,
    Hidden,
    Job,
    Limits,
    Member,
    Message,
    Refused,
    Written,
    decode,
    encode_job,
)
from agent.core.archive import ArchiveKind
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.layers import Hides, Layer
from agent.core.paths import relative_path
from agent.core.reasons import Reason

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).parents[3]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from agent.artifacts.unpack.child import main; main()"
_MAX_WORDS = 2000
DEFAULT_LIMITS = Limits()
CHILD = (sys.executable, "-I", "-c", _START, str(_ROOT))
"""How the child is started: isolated, and able to import the agent from wherever the parent did."""


async def unpack(
    archive: Path,
    kind: ArchiveKind,
    folder: Path,
    identity: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    child: Sequence[str] = CHILD,
) -> tuple[Member, ...]:
    """Lay down every file of *archive* in *folder* as `.agent-part-<blob>`, and say what each is.

    `blob` is `member_blob(identity, path)`. All or nothing: on any error, and when cancelled, what was
    written is removed. At most one unpacking of an *identity* may run at a time. Not synced.
    Raises TerminalError(ArchiveRefused, ArchiveTooLarge) for what the archive is: a retry would read the
    same bytes. Raises RetryableError for what the disk, memory or process limits refuse.
    """
    return tuple((await _unpacked(archive, kind, folder, identity, limits, child, None)).members)


async def unpack_layer(
    archive: Path,
    kind: ArchiveKind,
    folder: Path,
    identity: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    below: str,
) -> Layer[Member]:
    """Lay down what a layer of an image has below a folder, as `unpack` does; there may be nothing."""
    ledger = await _unpacked(archive, kind, folder, identity, limits, CHILD, below)
    return Layer({each.path: each for each in ledger.members}, tuple(ledger.hidden))


async def _unpacked(
    archive: Path,
    kind: ArchiveKind,
    folder: Path,
    identity: str,
    limits: Limits,
    child: Sequence[str],
    below: str | None,
) -> "_Ledger":
    ledger = _Ledger(identity, limits, layered=below is not None)
    unpacked = False
    try:
        with disk_errors("unpacking an archive", volume=folder):
            source, target = await asyncio.to_thread(_open, archive, folder)
            try:
                job = await asyncio.to_thread(_job, source, target, kind, identity, limits)
                job = replace(job, below=below)
                await _run(child, job, ledger)
                await asyncio.to_thread(_check, target, ledger.members)
            finally:
                os.close(source)
                os.close(target)
        unpacked = True
        return ledger
    finally:
        if not unpacked:
            await asyncio.to_thread(_remove, folder, identity, ledger.begun)


class _Ledger:
    """What the child said so far, checked as far as a parent can."""

    def __init__(self, identity: str, limits: Limits, *, layered: bool) -> None:
        self.hidden: list[tuple[str, Hides]] = []
        self._layered, self._most = layered, limits.members
        self.begun: set[str] = set()
        self.members: list[Member] = []
        self.done = False
        self._identity = identity
        self._tree = Tree(limits.members)

    def take(self, message: Message) -> None:
        """Note one message. Raises what it tells of, ValueError where it cannot be true."""
        match message:
            case Begin(path):
                self.begun.add(path)
            case Member(path, _, _, blob):
                self._tree.add(relative_path(path), is_file=True)
                if blob != member_blob(self._identity, path) or path not in self.begun:
                    raise ValueError(f"a member under another name: {path[:200]!r}")
                self.members.append(message)
            case Hidden(path, how):
                self._hide(path, how)
            case Refused(reason, words):
                raise TerminalError(Reason(reason), words[:_MAX_WORDS])
            case Failed(number):
                raise OSError(number, "the unpacking child failed")
            case Done(members):
                if members != len(self.members) or not (members or self._layered):
                    raise ValueError("not all members were told")
                self.done = True
            case Written():
                pass

    def _hide(self, path: str, how: str) -> None:
        if not self._layered or len(self.hidden) >= self._most:
            raise ValueError("it hides more than it may")
        self.hidden.append((relative_path(path) if path else path, Hides(how)))

    def take_rest(self, lines: Iterable[bytes]) -> None:
        """Note which files a child that was stopped may have made besides."""
        for line in lines:
            with contextlib.suppress(ValueError):
                if isinstance(message := decode(line), Begin):
                    self.begun.add(message.path)


async def _run(command: Sequence[str], job: Job, ledger: _Ledger) -> None:
    """Run the child to its end. Raises AgentError or OSError for any end but a good one."""
    limits = job.limits
    try:
        async with asyncio.timeout(limits.seconds), _child(command, job, ledger) as child:
            while not ledger.done and (line := await _line(child, limits.stall_seconds)):
                ledger.take(decode(line))
            if not ledger.done:
                raise await _death(child)
    except TimeoutError as error:
        raise TerminalError(
            Reason.ARCHIVE_TOO_LARGE,
            f"unpacking the archive takes more than {limits.seconds:.0f} s; store it unpacked",
        ) from error
    except ValueError as error:
        raise TerminalError(
            Reason.ARCHIVE_REFUSED, "the archive confused its reader; store it unpacked"
        ) from error


async def _line(child: Process, seconds: float) -> bytes:
    assert child.stdout  # noqa: S101 (it was asked for)
    try:
        async with asyncio.timeout(seconds):
            return await child.stdout.readline()
    except TimeoutError as error:
        raise RetryableError(
            Reason.RESOURCE_EXHAUSTED,
            f"unpacking made no progress for {seconds:.0f} s; check the volume and the CPU limit",
        ) from error


@contextlib.asynccontextmanager
async def _child(command: Sequence[str], job: Job, ledger: _Ledger) -> AsyncIterator[Process]:
    """Start the child and give it its order; at the end it is dead, reaped and drained, whatever happened."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(job.archive, job.folder),
            env={},
            cwd="/",
            start_new_session=True,
            limit=MAX_LINE,
        )
    except OSError as error:
        raise RetryableError(
            Reason.RESOURCE_EXHAUSTED,
            f"no process to unpack an archive could be started: {os.strerror(error.errno or errno.EAGAIN)}; "
            "raise the limit of processes (pids) or of memory",
        ) from error
    assert child.stdin and child.stdout and child.stderr  # noqa: S101, PT018 (they were asked for)
    try:
        child.stdin.write(encode_job(job))
        child.stdin.close()
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        ledger.take_rest((await child.stdout.read()).splitlines())
        await child.stderr.read()
        await child.wait()


async def _death(child: Process) -> AgentError:
    """Say why the child ended without a last word."""
    assert child.stderr  # noqa: S101 (it was asked for)
    last_words = (await child.stderr.read())[-_MAX_WORDS:]
    code = await child.wait()
    if code == -signal.SIGKILL:
        return RetryableError(
            Reason.RESOURCE_EXHAUSTED,
            "the process that unpacks the archive was killed, as the kernel does when the container's memory "
            "is used up; raise its memory limit",
        )
    if code == -signal.SIGXCPU:
        return TerminalError(Reason.ARCHIVE_TOO_LARGE, "unpacking takes too much CPU time; store it unpacked")
    _LOG.error(
        "the process that unpacks an archive died",
        extra={"code": code, "stderr": last_words.decode("utf-8", "replace")},
    )
    return TerminalError(
        Reason.ARCHIVE_REFUSED, f"the archive's reader died (code {code}); see the log, or store it unpacked"
    )


def _open(archive: Path, folder: Path) -> tuple[int, int]:
    target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), target
    except OSError:
        os.close(target)
        raise


def _job(source: int, target: int, kind: ArchiveKind, identity: str, limits: Limits) -> Job:
    total_bytes = limits.total_bytes
    if total_bytes is None:
        room = os.fstatvfs(target)
        total_bytes = room.f_bavail * room.f_frsize
    return Job(source, target, kind, identity, total_bytes, limits)


def _check(folder: int, members: Sequence[Member]) -> None:
    """Look at each file that is said to be whole."""
    for member in members:
        found = os.stat(part_file(member.blob), dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_size != member.size or found.st_nlink != 1:
            raise RetryableError(
                Reason.DISK_ERROR,
                f"the unpacked file {member.path[:200]!r} is not what was written; does somebody else write "
                "to the store dir?",
            )


def _remove(folder: Path, identity: str, paths: Iterable[str]) -> None:
    """Remove what may have been made; what the disk will not let go is swept with old partials."""
    for path in paths:
        with contextlib.suppress(OSError):
            (folder / part_file(member_blob(identity, path))).unlink()
