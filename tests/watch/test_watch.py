"""The bell rings when the document may have changed, soon, and for little."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agent.aio.notices import Watchfiles
from agent.core.reasons import Reason
from agent.demo.kubelet import Kubelet
from agent.watch import ConfigSource, Document
from tests.watch.conftest import eventually, watched

ROOT = Path(__file__).parents[2]


@pytest.fixture
def patient_source(kubelet):
    """One whose own looks are so far apart that only a notice can be the cause of a ring."""
    return ConfigSource(kubelet.folder, poll_seconds=30)


def holds(source, raw):
    return lambda: getattr(source.read(), "raw", None) == raw


async def test_it_rings_at_its_start_so_that_no_earlier_change_is_lost(source):
    async with watched(source) as bell:
        assert bell.rings == 1


async def test_each_swap_rings(patient_source, kubelet):
    async with watched(patient_source) as bell:
        await asyncio.sleep(0.2)  # the watchfiles thread says nothing of when it has begun
        for number in range(5):
            raw = kubelet.models([{"modelName": f"m{number}"}])
            await bell.rung()
            assert patient_source.read().raw == raw


async def test_a_slow_swap_is_read_whole_at_its_end(source, kubelet):
    slow = Kubelet(kubelet.folder, between=lambda step: time.sleep(0.03))
    async with watched(source) as bell:
        raw = await asyncio.to_thread(slow.models, [{"modelName": "slow"}])
        await bell.until(holds(source, raw))


async def test_a_key_that_goes_and_comes_back_rings_both_times(source, kubelet):
    async with watched(source) as bell:
        kubelet.write({"other": b""})
        await bell.until(lambda: not isinstance(source.read(), Document))
        kubelet.models([])
        await bell.until(lambda: isinstance(source.read(), Document))


async def test_a_folder_without_a_kubelet_is_watched_too(tmp_path):
    source = ConfigSource(tmp_path, poll_seconds=30)
    async with watched(source) as bell:
        (tmp_path / "models.json").write_bytes(b"[1]")
        await bell.until(holds(source, b"[1]"))
        (tmp_path / "new").write_bytes(b"[2]")
        (tmp_path / "new").rename(tmp_path / "models.json")
        await bell.until(holds(source, b"[2]"))


async def test_a_missing_folder_is_found_when_it_appears_and_watched_from_then_on(tmp_path):
    kubelet = Kubelet(tmp_path / "late")
    source = ConfigSource(kubelet.folder, poll_seconds=0.05)
    async with watched(source) as bell:
        assert source.mode == "poll"
        raw = kubelet.models([])
        await bell.until(holds(source, raw))
        await eventually(lambda: source.mode == "watchfiles")


async def test_a_replaced_folder_is_watched_in_place_of_the_old_one(source, kubelet):
    folder = kubelet.folder
    async with watched(source) as bell:
        folder.rename(folder.with_name("aside"))
        Kubelet(folder).models([{"modelName": "second"}])
        await bell.until(lambda: b"second" in getattr(source.read(), "raw", b""), seconds=40)
        raw = Kubelet(folder).models([{"modelName": "third"}])
        await bell.until(holds(source, raw))


async def test_a_change_that_no_notice_tells_of_is_found_by_looking(tmp_path):
    """A link that leads out of the folder: inotify does not see what happens there."""
    (tmp_path / "elsewhere").write_bytes(b"[1]")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "models.json").symlink_to("../elsewhere")
    source = ConfigSource(tmp_path / "configs", poll_seconds=0.05)
    async with watched(source) as bell:
        (tmp_path / "elsewhere").write_bytes(b"[22]")
        await bell.until(holds(source, b"[22]"))


async def test_bytes_exchanged_under_an_unchanged_mtime_ring(tmp_path):
    path = tmp_path / "models.json"
    path.write_bytes(b"[1]")
    os.utime(path, ns=(1, 1))
    source = ConfigSource(tmp_path, poll_seconds=0.05)
    async with watched(source) as bell:
        path.write_bytes(b"[2]")
        os.utime(path, ns=(1, 1))
        await bell.until(holds(source, b"[2]"))


async def test_nothing_rings_while_nothing_changes_nor_for_other_names(tmp_path):
    kubelet = Kubelet(tmp_path)
    kubelet.models([])
    source = ConfigSource(tmp_path, poll_seconds=0.02)
    async with watched(source) as bell:
        for number in range(50):
            (tmp_path / f"{number}.log").write_bytes(b"x")
            await asyncio.sleep(0.004)
        assert bell.rings == 1


async def test_an_exhausted_kernel_means_polling_said_once_and_a_watch_when_it_is_there_again(
    kubelet, caplog
):
    left = [0]

    def scarce(folder, names, patience_seconds):
        if not left[0]:
            raise OSError(24, "inotify_init1")
        return Watchfiles(folder, names, patience_seconds)

    source = ConfigSource(kubelet.folder, poll_seconds=0.02, retry_seconds=0.05, open_notices=scarce)
    async with watched(source) as bell:
        raw = kubelet.models([{"modelName": "by-polling"}])
        await bell.until(holds(source, raw))
        await asyncio.sleep(0.2)
        assert source.mode == "poll"
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        left[0] = 1
        await eventually(lambda: source.mode == "watchfiles")


NO_WATCH_LEFT = """
import asyncio, logging, sys
from pathlib import Path
from agent.watch import ConfigSource
from agent.demo.kubelet import Kubelet

async def main():
    logging.basicConfig(stream=sys.stdout, format="log %(levelname)s %(message)s")
    kubelet = Kubelet(Path(sys.argv[1])); kubelet.models([])
    source = ConfigSource(kubelet.folder, poll_seconds=0.05)
    rung = asyncio.Event()
    task = asyncio.create_task(source.watch(rung.set))
    await rung.wait(); rung.clear()
    raw = kubelet.models([{"modelName": "m"}])
    async with asyncio.timeout(5):
        await rung.wait()
    print(source.mode, source.read().raw == raw)
    task.cancel()

asyncio.run(main())
"""


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_a_real_kernel_without_watches_left_means_polling(tmp_path, limit):
    command = f'echo 0 > /proc/sys/user/{limit}; exec "$@"'
    ran = subprocess.run(
        [
            "unshare",
            "-Ur",
            "sh",
            "-c",
            command,
            "sh",
            sys.executable,
            "-c",
            NO_WATCH_LEFT,
            tmp_path / "configs",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout.splitlines()[1:] == ["poll True"], ran.stderr
    assert ran.stdout.startswith("log WARNING the kernel has no file watch left")


STATIC = """
import sys
from pathlib import Path
from agent.watch import ConfigSource
print(*(ConfigSource(Path(folder)).is_static() for folder in sys.argv[1:]))
"""


def test_a_subpath_mount_is_told_from_a_plain_file(tmp_path):
    folders = (tmp_path / "a plain", tmp_path / "sub path")
    for folder in folders:
        folder.mkdir()
        (folder / "models.json").write_bytes(b"[]")
    (tmp_path / "bytes").write_bytes(b"[]")
    command = 'mount --bind "$1/bytes" "$1/sub path/models.json" && shift && exec "$@"'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, "sh", tmp_path, sys.executable, "-c", STATIC, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout == "False True\n", ran.stderr


async def test_a_subpath_mount_is_warned_of_once_and_still_looked_at(kubelet, caplog):
    class Static(ConfigSource):
        def is_static(self) -> bool:
            return True

    source = Static(kubelet.folder, poll_seconds=30)
    async with watched(source) as bell:
        kubelet.models([{"modelName": "m"}])
        await bell.rung()
    assert [record.reason for record in caplog.records] == [Reason.CONFIG_MOUNT_STATIC]


STORM = """
import sys, time
from pathlib import Path
folder, began = Path(sys.argv[1]), time.monotonic()
for number in range(2000):
    (folder / f"{number % 7}.log").touch()
    time.sleep(max(0.0, began + number / 1000 - time.monotonic()))
"""


async def test_a_storm_of_a_thousand_touches_a_second_costs_little_and_hides_no_swap(kubelet):
    source = ConfigSource(kubelet.folder)
    async with watched(source) as bell:
        before, began = _cpu_seconds(), time.monotonic()
        storm = await asyncio.create_subprocess_exec(sys.executable, "-c", STORM, kubelet.folder)
        await asyncio.sleep(1)
        raw = kubelet.models([{"modelName": "m"}])
        await bell.until(holds(source, raw), seconds=0.5)
        assert await storm.wait() == 0
        used = (_cpu_seconds() - before) / (time.monotonic() - began)
    assert bell.rings == 2
    assert used < 0.05


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system
