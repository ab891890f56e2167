"""The child process and its parent: all or nothing, bounded, alone, and gone afterwards."""

import asyncio
import gzip
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import psutil
import pytest
import zstandard

from agent.artifacts.unpack.run import unpack
from agent.artifacts.unpack.sink import member_blob
from agent.artifacts.unpack.wire import Begin, Limits, Member, encode
from agent.core.archive import ArchiveKind
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.unpack.conftest import IDENTITY
from tests.artifacts.unpack.making import (
    Zipped,
    central_header,
    deflated,
    header,
    local_header,
    make_zip,
    member,
    tar,
)

TAR, TAR_GZ, TAR_ZST, ZIP = ArchiveKind.TAR, ArchiveKind.TAR_GZ, ArchiveKind.TAR_ZST, ArchiveKind.ZIP
ROOT = Path(__file__).parents[3]


def tree_tar(files: dict[str, bytes]) -> bytes:
    return tar(*[member(name.encode(), content) for name, content in files.items()])


FILES = {"a": b"x" * 70_000, "d/b": b"", "d/c": os.urandom(100_000)}
PACKED = {
    TAR: tree_tar(FILES),
    TAR_GZ: gzip.compress(tree_tar(FILES)),
    TAR_ZST: zstandard.compress(tree_tar(FILES)),
    ZIP: make_zip(*[Zipped(name.encode(), content) for name, content in FILES.items()]),
}


@pytest.mark.parametrize("kind", ArchiveKind)
async def test_each_kind_becomes_flat_files_named_by_identity_and_path(bench, kind):
    bench.put(PACKED[kind])
    members = await unpack(bench.archive, kind, bench.folder, IDENTITY)
    assert bench.read(members) == FILES
    assert [each.blob for each in members] == [member_blob(IDENTITY, each.path) for each in members]


@pytest.mark.parametrize("kind", ArchiveKind)
async def test_a_refused_archive_leaves_nothing_behind(bench, kind):
    cut = PACKED[kind][: len(PACKED[kind]) * 2 // 3]
    with pytest.raises(TerminalError) as caught:
        await bench.unpack(cut, kind)
    assert caught.value.reason is Reason.ARCHIVE_REFUSED
    assert bench.is_empty()


async def test_what_a_killed_unpacking_left_is_written_anew(bench):
    (bench.folder / f".agent-part-{member_blob(IDENTITY, 'a')}").write_bytes(b"half")
    assert await bench.unpack(PACKED[TAR], TAR) == FILES


async def test_a_link_planted_under_a_members_name_is_not_followed(bench, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (bench.folder / f".agent-part-{member_blob(IDENTITY, 'a')}").symlink_to(tmp_path / "victim")
    assert await bench.unpack(PACKED[TAR], TAR) == FILES
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "raw", [tar(), tar(header(b"d/", 0, b"5")), make_zip(), gzip.compress(tar(), mtime=0)]
)
async def test_an_archive_without_a_file_is_refused(bench, raw):
    kind = ZIP if raw.startswith(b"PK") else TAR_GZ if raw.startswith(b"\x1f") else TAR
    with pytest.raises(TerminalError, match="holds no file"):
        await bench.unpack(raw, kind)


# A6: bombs


async def test_more_bytes_than_there_is_room_for_are_refused_before_they_are_written(bench):
    with pytest.raises(TerminalError, match="bytes may be written") as caught:
        await bench.unpack(PACKED[ZIP], ZIP, total_bytes=160_000)
    assert caught.value.reason is Reason.ARCHIVE_TOO_LARGE
    with pytest.raises(TerminalError, match="bytes may be written"):
        await bench.unpack(PACKED[TAR], TAR, total_bytes=160_000)
    assert bench.is_empty()


@pytest.mark.parametrize("kind", [TAR_GZ, TAR_ZST, ZIP])
async def test_a_bomb_by_ratio_is_refused(bench, kind):
    zeros = bytes(30_000_000)
    raw = {
        TAR_GZ: lambda: gzip.compress(tree_tar({"a": zeros})),
        TAR_ZST: lambda: zstandard.compress(tree_tar({"a": zeros})),
        ZIP: lambda: make_zip(Zipped(b"a", zeros, 8, deflated(zeros))),
    }[kind]()
    with pytest.raises(TerminalError, match="200 times its size") as caught:
        await bench.unpack(raw, kind)
    assert caught.value.reason is Reason.ARCHIVE_TOO_LARGE
    assert bench.is_empty()


async def test_a_bomb_of_zeros_behind_the_end_mark_is_refused(bench):
    with pytest.raises(TerminalError, match="200 times its size"):
        await bench.unpack(gzip.compress(tree_tar({"a": b"x"}) + bytes(30_000_000)), TAR_GZ)


async def test_small_archives_may_have_any_ratio(bench):
    zeros = bytes(9_000_000)
    assert await bench.unpack(gzip.compress(tree_tar({"a": zeros})), TAR_GZ) == {"a": zeros}


async def test_too_many_members_are_refused(bench):
    raw = gzip.compress(tar(*[member(b"%d" % number) for number in range(101)]))
    assert len(await bench.unpack(raw, TAR_GZ, members=101)) == 101
    for path in bench.folder.iterdir():
        path.unlink()
    with pytest.raises(TerminalError, match="more than 100 members"):
        await bench.unpack(raw, TAR_GZ, members=100)
    assert bench.is_empty()


async def test_empty_gzip_members_without_end_cost_no_more_than_their_bytes(bench):
    raw = gzip.compress(b"") * 100_000 + gzip.compress(tree_tar({"a": b"x"}))
    async with asyncio.timeout(10):
        assert await bench.unpack(raw, TAR_GZ) == {"a": b"x"}


async def test_a_zstd_window_of_gibibytes_is_refused(bench):
    params = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    with pytest.raises(TerminalError, match="zstd stream is damaged"):
        await bench.unpack(packer.compress(tree_tar({"a": b"x"})) + packer.flush(), TAR_ZST)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 2000, 90_000])
async def test_a_zstd_that_is_cut_short_anywhere_is_refused(bench, cut):
    raw = zstandard.ZstdCompressor(write_checksum=True).compress(tree_tar(FILES))
    bench.refuses(raw[:-cut], TAR_ZST, "cut short|damaged")


async def test_zstd_frames_one_after_the_other_are_read_and_an_unfinished_block_cannot_swallow_the_mark(
    bench,
):
    whole = tree_tar({"a": os.urandom(3000)})
    one = zstandard.compress(whole[:999]) + zstandard.compress(whole[999:])
    assert list(bench.here(one, TAR_ZST)) == ["a"]
    raw_block = b"\x28\xb5\x2f\xfd\x00\x58" + (1 | 0 << 1 | 90_000 << 3).to_bytes(3, "little")
    bench.refuses(one + raw_block + bytes(1000), TAR_ZST, "cut short|damaged")


async def test_a_hungry_reader_meets_the_limit_of_its_memory(bench):
    params = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    raw = packer.compress(tree_tar({"a": os.urandom(1000)})) + packer.flush()
    with pytest.raises((TerminalError, RetryableError)):
        await bench.unpack(raw, TAR_ZST, memory_bytes=60_000_000)
    assert bench.is_empty()


# time, signals, the system


def slow_archive(bench) -> None:
    """A fifo in place of the archive would not do: a file so large that it cannot be done in time."""
    with bench.archive.open("wb") as file:
        file.write(header(b"a", 8 << 30))
        file.truncate(8 << 30)


async def test_an_unpacking_that_takes_too_long_is_killed_and_cleaned_up(bench):
    slow_archive(bench)
    with pytest.raises(TerminalError, match=r"takes more than 0 s") as caught:
        await unpack(bench.archive, TAR, bench.folder, IDENTITY, Limits(seconds=0.3))
    assert caught.value.reason is Reason.ARCHIVE_TOO_LARGE
    assert bench.is_empty()
    assert not bench.children()


async def test_a_child_that_does_not_get_on_is_killed(bench):
    bench.put(PACKED[TAR])
    with pytest.raises(RetryableError, match="no progress") as caught:
        await unpack(bench.archive, TAR, bench.folder, IDENTITY, Limits(stall_seconds=0.0001))
    assert caught.value.reason is Reason.RESOURCE_EXHAUSTED
    assert bench.is_empty()
    assert not bench.children()


async def begun(bench) -> None:
    while bench.is_empty():
        await asyncio.sleep(0.002)


async def test_a_cancelled_unpacking_stops_at_once_and_leaves_nothing(bench):
    slow_archive(bench)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(unpack(bench.archive, TAR, bench.folder, IDENTITY))
        await begun(bench)
        task.cancel()
    assert task.cancelled()
    assert bench.is_empty()
    assert not bench.children()


async def test_a_child_that_the_kernel_kills_is_a_lack_of_memory(bench):
    slow_archive(bench)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(caught_by(unpack(bench.archive, TAR, bench.folder, IDENTITY)))
        await begun(bench)
        for child in bench.children():
            child.kill()
    assert isinstance(task.result(), RetryableError)
    assert task.result().reason is Reason.RESOURCE_EXHAUSTED
    assert bench.is_empty()


async def caught_by(work) -> BaseException | None:
    try:
        await work
    except (TerminalError, RetryableError) as error:
        return error
    return None


PARENT = """
import asyncio, sys
from pathlib import Path
from agent.artifacts.unpack.run import unpack
from agent.core.archive import ArchiveKind
asyncio.run(unpack(Path(sys.argv[1]), ArchiveKind.TAR, Path(sys.argv[2]), "id"))
"""


async def test_the_child_dies_with_a_parent_that_is_killed(bench):
    slow_archive(bench)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, bench.archive, bench.folder, cwd=ROOT
    )
    async with asyncio.timeout(10):
        await begun(bench)
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        await parent.wait()
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_the_child_has_no_environment_and_little_room(bench, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    slow_archive(bench)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(unpack(bench.archive, TAR, bench.folder, IDENTITY))
        await begun(bench)
        (child,) = bench.children()
        seen = (
            child.environ(),
            child.cwd(),
            os.getsid(child.pid) == child.pid,
            IDENTITY in " ".join(child.cmdline()),
        )
        memory = child.rlimit(resource.RLIMIT_AS)
        files = {Path(each.path) for each in child.open_files()}
        task.cancel()
    assert "canary" not in str(seen[0])
    assert seen[1:] == ("/", True, False)
    assert memory == (512 * 1024 * 1024,) * 2
    assert all(path == bench.archive or path.parent == bench.folder for path in files)


async def last_words(bench, limit, most):
    """Unpack in a process of its own under a limit, and return the last line that it says."""
    bench.put(PACKED[TAR])
    script = f"import resource; resource.setrlimit(resource.{limit}, ({most}, {most}));" + PARENT
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, bench.archive, bench.folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return ran.stderr.splitlines()[-1]


async def test_a_full_disk_is_a_full_disk(bench):
    """RLIMIT_FSIZE stands in for the disk: the write fails with EFBIG, which reads as no room."""
    assert "RetryableError: DiskFull" in await last_words(bench, "RLIMIT_FSIZE", 80_000)
    assert bench.is_empty()


async def test_no_process_to_be_had_is_a_lack_of_resources(bench):
    assert "RetryableError: ResourceExhausted" in await last_words(bench, "RLIMIT_NOFILE", 10)


async def test_a_missing_folder_is_a_disk_error(bench):
    bench.put(PACKED[TAR])
    with pytest.raises(RetryableError) as caught:
        await unpack(bench.archive, TAR, bench.folder / "gone", IDENTITY)
    assert caught.value.reason is Reason.DISK_ERROR


def said(*lines: bytes) -> str:
    """Return a child that says these lines, whatever its order was."""
    return f"import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write({b''.join(lines)!r})"


FALSE_BLOB = Member("a", 0, "", member_blob(IDENTITY, "b"))
LIES = [
    said(b"nonsense\n"),
    said(b"[]\n"),
    said(b'["Done",{"members":1}]\n'),
    said(b'["Member",{"path":"../x","size":1,"sha256":"","blob":""}]\n'),
    said(encode(Begin("a")), encode(FALSE_BLOB), b'["Done",{"members":1}]\n'),
    said(b'["Refused",{"reason":"NoReason","message":""}]\n'),
    said(b'["Failed",{"errno":"x"}]\n'),
    said(b"[" * 50_000 + b"\n"),
    "print('x' * 200_000)",
    said(),
    "raise SystemExit(3)",
    "import os; os.kill(os.getpid(), 11)",
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_child_that_was_taken_over_cannot_confuse_its_parent(bench, lie):
    bench.put(PACKED[TAR])
    with pytest.raises(TerminalError) as caught:
        await unpack(bench.archive, TAR, bench.folder, IDENTITY, child=(sys.executable, "-c", lie))
    assert caught.value.reason in {Reason.ARCHIVE_REFUSED, Reason.INVALID_OBJECT_KEY}
    assert bench.is_empty()
    assert not bench.children()


async def test_a_member_that_is_not_on_disk_as_told_is_found(bench):
    bench.put(PACKED[TAR])
    blob = member_blob(IDENTITY, "a")
    lines = (encode(Begin("a")), encode(Member("a", 9, "", blob)), b'["Done",{"members":1}]\n')
    with pytest.raises(RetryableError) as caught:
        await unpack(bench.archive, TAR, bench.folder, IDENTITY, child=(sys.executable, "-c", said(*lines)))
    assert caught.value.reason is Reason.DISK_ERROR


# large ones


@pytest.mark.parametrize("kind", [TAR, pytest.param(ZIP, marks=pytest.mark.soak)])
async def test_a_member_over_a_gibibyte_is_unpacked_whole(bench, kind):
    """KServe's agent cuts it off at exactly 1 GiB and reports success."""
    size = (1 << 30) + 12_345
    with bench.archive.open("wb") as file:
        if kind is TAR:
            file.write(header(b"a", size))
            file.truncate(512 + size + -size % 512 + 1024)
        else:
            crc = 0
            for piece in [bytes(1 << 20)] * (1 << 10) + [bytes(12_345)]:
                crc = zlib.crc32(piece, crc)
            fields = Zipped(b"a").fields(b"") | {"crc": crc, "packed": size, "size": size, "offset": 0}
            file.write(local_header(fields))
            directory_at = file.seek(size, os.SEEK_CUR)
            file.write(central_header(fields))
            file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 47, directory_at, 0))
    (only,) = await unpack(bench.archive, kind, bench.folder, IDENTITY)
    assert (only.path, only.size) == ("a", size)
    assert (bench.folder / f".agent-part-{only.blob}").stat().st_size == size


def test_what_system_tar_makes_of_a_folder_is_read(bench, tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name, content in FILES.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    for flags in ("-cf", "-czf"):
        made = subprocess.run(["tar", flags, "-", "-C", source, "."], capture_output=True, check=True).stdout
        assert bench.here(made, TAR_GZ if "z" in flags else TAR) == FILES
