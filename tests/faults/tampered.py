"""A running process whose system calls fail, or take their time: strace attached to it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.agent_process import until

CHANGES = "fsync,fdatasync,ftruncate,fallocate,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
"""What changes a disk, but for the writing of bytes."""


@contextmanager
def tampered(
    pid: int, calls: str, how: str, *, also: str = "", record: Path = Path("/dev/null")
) -> Iterator[None]:
    """Do *how* (`error=EIO`, `delay_enter=1000`) to these calls of the process, on each of its threads.

    They and those of *also* are recorded, each with its thread and the paths of its descriptors.
    """
    command = ["strace", "-qq", "-f", "-y", "-p", str(pid), "-o", str(record)]
    command += ["-e", f"trace={calls},{also}".rstrip(","), "-e", f"inject={calls}:{how}"]
    tracer = subprocess.Popen(command)
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


async def taken_hold_of(pid: int) -> None:
    """Wait until its calls are tampered with."""
    status = Path(f"/proc/{pid}/status")
    await until(lambda: "TracerPid:\t0" not in status.read_text(), what="strace attached")
