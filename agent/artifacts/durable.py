"""What must survive a power loss, in the order that makes it so: data, folder, manifest, folder.

A commit waits for the disk three times; commits that come together wait together. The first caller leads:
it takes all that are waiting and does each step once for the lot. The order counts, not the number.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agent.artifacts.folder import Folder, temp_name

_CHUNK = 64  # descriptors held open at once while syncing
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h


@dataclass(slots=True)
class CommitJob:
    """A manifest to be put in place once the files it speaks of are on the disk.

    After `GroupCommit.run`: `broken` names the files that the disk did not keep, which must never be
    trusted again; `error` is what went wrong, None if the manifest is there for good.
    """

    files: tuple[str, ...]
    manifest: str
    content: bytes
    mtime_ns: int
    broken: tuple[str, ...] = ()
    error: OSError | None = None
    temp: str = field(default_factory=temp_name)
    done: bool = False


class GroupCommit:
    """Commits manifests into one folder, from any number of threads."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._waiting: list[CommitJob] = []
        self._leading = False

    def run(self, job: CommitJob) -> None:
        """Return when *job* is durable or failed. Raises nothing of the disk's: look at the job."""
        with self._changed:
            self._waiting.append(job)
            while self._leading and not job.done:
                self._changed.wait()
            if job.done:
                return
            self._leading = True
            batch, self._waiting = self._waiting, []
        try:
            self._commit(batch)
        finally:
            with self._changed:
                for each in batch:
                    each.done = True
                self._leading = False
                self._changed.notify_all()

    def _commit(self, batch: list[CommitJob]) -> None:
        """Do the four steps for all; a job that fails at one takes no part in the next."""
        for job in batch:
            job.error = OSError(errno.EIO, "the commit ended early")
        good = [job for job in batch if self._write(job)]
        faults = sync_files(self._folder, {name for job in good for name in (*job.files, job.temp)})
        good = [job for job in good if self._kept(job, faults)]
        good = self._sync_folder(good)
        good = [job for job in good if self._show(job)]
        for job in self._sync_folder(good):
            job.error = None

    def _write(self, job: CommitJob) -> bool:
        try:
            self._folder.write_new(job.temp, job.content, mode=0o600, sync=False, mtime_ns=job.mtime_ns)
        except OSError as error:
            job.error = error
            return False
        return True

    def _kept(self, job: CommitJob, faults: "SyncFaults") -> bool:
        names = (*job.files, job.temp)
        error = next((faults.errors[name] for name in names if name in faults.errors), None)
        if error is None:
            return True
        job.error = error
        job.broken = tuple(name for name in job.files if name in faults.lost)
        self._folder.remove(job.temp)
        return False

    def _show(self, job: CommitJob) -> bool:
        try:
            self._folder.rename(job.temp, job.manifest)
        except OSError as error:
            job.error = error
            self._folder.remove(job.temp)
            return False
        return True

    def _sync_folder(self, jobs: list[CommitJob]) -> list[CommitJob]:
        if not jobs:
            return []
        try:
            self._folder.sync()
        except OSError as error:
            for job in jobs:
                job.error = error
                self._folder.remove(job.temp)
            return []
        return jobs


@dataclass(slots=True)
class SyncFaults:
    """Files that could not be made durable. `lost` are those whose fsync failed.

    After a failed fsync the kernel may have dropped the bytes and will call the next fsync a success, so
    such a file is never asked again (fault D5).
    """

    errors: dict[str, OSError] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


def sync_files(folder: Folder, names: Iterable[str]) -> SyncFaults:
    """Wait until the files' bytes are on the disk.

    Writing is started on a chunk of files before the first is waited for: on ext4 that is twice as fast
    as one after the other, and no thread is needed.
    """
    faults = SyncFaults()
    ordered = sorted(names)
    start_writing = getattr(ctypes.CDLL(None), "sync_file_range", None)
    for start in range(0, len(ordered), _CHUNK):
        opened: dict[str, int] = {}
        try:
            for name in ordered[start : start + _CHUNK]:
                try:
                    opened[name] = folder.open(name)
                except OSError as error:
                    faults.errors[name] = error
            _sync_open(opened, start_writing, faults)
        finally:
            for fd in opened.values():
                os.close(fd)
    return faults


def _sync_open(opened: dict[str, int], start_writing: Any, faults: SyncFaults) -> None:
    if start_writing is not None:
        for fd in opened.values():
            start_writing(fd, ctypes.c_int64(0), ctypes.c_int64(0), _START_WRITING)
    for name, fd in opened.items():
        try:
            os.fsync(fd)
        except OSError as error:
            faults.errors[name] = error
            faults.lost.add(name)
