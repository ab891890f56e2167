"""The limits of the unpacking child really bite (faults A4 to A6), tried by a process confined as it is."""

import gzip
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from agent.artifacts.unpack.run import unpack
from agent.artifacts.unpack.wire import Limits
from agent.core.archive import ArchiveKind
from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from tests.artifacts.unpack.conftest import IDENTITY
from tests.artifacts.unpack.making import header

ROOT = Path(__file__).parents[3]
CONFINED = """
import os, sys, tempfile, threading
from agent.artifacts.unpack.child import _confine
from agent.artifacts.unpack.wire import Job, Limits
from agent.core.archive import ArchiveKind
file = tempfile.TemporaryFile()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65532); os.setuid(65532)  # no limit of processes holds for root
_confine(Job(0, 0, ArchiveKind.TAR, "id", 1_000_000, Limits(seconds=1, memory_bytes=256 << 20)))
print("confined", flush=True)
"""
TRIED = {
    "memory": ("bytearray(512 << 20)", "MemoryError"),
    "file size": (
        "os.write(file.fileno(), bytes(1_000_001)); os.write(file.fileno(), b'x')",
        "File too large",
    ),
    "descriptors": ("[os.dup(0) for _ in range(40)]", "Too many open files"),
    "processes": ("os.fork()", "Resource temporarily unavailable"),
    "threads": ("threading.Thread(target=print).start()", "can't start new thread"),
}


def confined(action):
    command = [sys.executable, "-c", CONFINED + action]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("what", TRIED)
def test_no_more_is_to_be_had_than_the_limits_give(what):
    action, words = TRIED[what]
    ran = confined(action)
    assert ran.stdout.startswith("confined")
    assert words in ran.stderr.splitlines()[-1]
    assert ran.returncode == 1


def test_time_on_the_cpu_ends_with_the_process():
    ran = confined("while True: pass")
    assert ran.stdout.startswith("confined")
    assert -ran.returncode in {signal.SIGXCPU, signal.SIGKILL}


@pytest.mark.parametrize("millions", [1, pytest.param(10, marks=pytest.mark.soak)])
async def test_millions_of_members_are_refused_at_the_limit_in_bounded_memory(bench, millions):
    """They are streamed: what lies behind the limit is never unpacked."""
    some = gzip.compress(b"".join(header(b"d/%d" % number, 0) for number in range(10_000)))
    with bench.archive.open("wb") as file:
        for _ in range(100 * millions):
            file.write(some)
    before = psutil.Process().memory_info().rss
    with pytest.raises(TerminalError) as caught:
        await unpack(bench.archive, ArchiveKind.TAR_GZ, bench.folder, IDENTITY, Limits(members=5_000))
    assert caught.value.reason is Reason.ARCHIVE_TOO_LARGE
    assert psutil.Process().memory_info().rss - before < 128 << 20
    assert bench.is_empty()
