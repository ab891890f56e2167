"""A file system that fails: which reason it gets, and that nothing good is lost by it (faults D1 to D16)."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.artifacts.crash_child import REFUSED
from tests.artifacts.crash_scenarios import SCENARIOS
from tests.artifacts.shelf import M
from tests.artifacts.strace import child, child_command, copied, prepared


@dataclass(frozen=True)
class Fault:
    """Every call of this kind fails so, from the one of that number on."""

    scenario: str
    inject: str
    reason: str


FAULTS = [
    Fault("commit", "write:error=ENOSPC:when=6", "DiskFull"),
    Fault("commit", "write:error=EDQUOT:when=6", "DiskFull"),
    Fault("commit", "write:error=EIO:when=6", "DiskError"),
    Fault("commit", "fsync:error=EIO:when=1", "DiskError"),
    Fault("commit", "fsync:error=EIO:when=2", "DiskError"),
    Fault("commit", "fsync:error=EIO:when=3+", "DiskError"),
    Fault("commit", "renameat:error=EROFS:when=1+", "ReadOnlyVolume"),
    Fault("publish", "mkdirat:error=ENOSPC:when=1+", "DiskFull"),
    Fault("publish", "linkat:error=EIO:when=2+", "DiskError"),
    Fault("publish", "fsync:error=EIO:when=1+", "DiskError"),
    Fault("replace", "renameat2:error=EIO:when=1+", "DiskError"),
    Fault("replace", "utimensat:error=EROFS:when=1+", "ReadOnlyVolume"),
    Fault("withdraw", "renameat:error=EROFS:when=1+", "ReadOnlyVolume"),
    Fault("remember", "fsync:error=EIO:when=1+", "DiskError"),
    Fault("remember", "write:error=ENOSPC:when=2", "DiskFull"),
    Fault("record", "renameat:error=EIO:when=1+", "DiskError"),
    Fault("first-start", "renameat:error=EXDEV:when=1+", "DiskError"),
    Fault("first-start", "mkdir:error=EROFS:when=1+", "ReadOnlyVolume"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.scenario}-{fault.inject}")
def test_a_failing_disk_is_told_and_loses_nothing(fault, tmp_path):
    scenario = SCENARIOS[fault.scenario]
    place = prepared(fault.scenario, tmp_path / "place", "beside")
    call = fault.inject.partition(":")[0]
    done = child(fault.scenario, place, "-e", f"trace={call}", "-e", f"inject={fault.inject}")
    assert done.returncode == REFUSED, done.stderr.decode()
    assert done.stdout.decode().startswith(f"{fault.reason}: ")
    assert scenario.seen(place)
    with place.open() as store:
        assert scenario.kept(store)
        scenario.act(store)
    assert not list(place.flat.glob(".agent-tmp-*"))


@pytest.mark.parametrize(
    ("mount", "name", "words"),
    [
        ("mount -t tmpfs -o size=1m none $P", "large-document", "DiskFull.*bytes are free"),
        ("mount -t tmpfs -o size=1m,nr_inodes=20 none $P", "many-records", "DiskFull.*no inode is free"),
        ("mount --bind $P $P && mount -o remount,bind,ro $P", "first-start", "ReadOnlyVolume.*read-write"),
    ],
)
def test_a_volume_that_is_full_or_read_only_says_so_in_numbers(mount, name, words, tmp_path):
    place = prepared("first-start", tmp_path / "place", "drop-in")
    place.model_dir.mkdir()
    command = " ".join(map(str, child_command(name, place)))
    script = f"P={place.model_dir} && {mount} && exec {command}"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], check=False, capture_output=True)
    assert done.returncode == REFUSED, done.stderr.decode()
    assert re.match(words, done.stdout.decode())


def test_two_file_systems_are_refused_with_what_to_mount(tmp_path):
    place = prepared("first-start", tmp_path / "place", "beside")
    done = child("first-start", place, "-e", "trace=renameat", "-e", "inject=renameat:error=EXDEV")
    assert "--store-dir" in done.stdout.decode()
    assert "mount" in done.stdout.decode()


def test_a_blob_whose_sync_failed_is_not_trusted_again(tmp_path):
    """After a failed fsync the next one succeeds and means nothing (fault D5)."""
    place = prepared("commit", tmp_path / "place", "drop-in")
    blobs = set(place.flat.glob(".agent-blob-*"))
    child("commit", place, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1")
    assert len(set(place.flat.glob(".agent-blob-*")) - blobs) == 1  # NEW adds two


@pytest.mark.parametrize("error", ["EMLINK", "EPERM"])
@pytest.mark.parametrize("layout", ["drop-in", "beside"])
def test_where_no_link_can_be_made_the_bytes_are_copied(error, layout, tmp_path):
    scenario = SCENARIOS["replace"]
    place = prepared("replace", tmp_path / "place", layout)
    done = child("replace", place, "-e", "trace=linkat", "-e", f"inject=linkat:error={error}")
    assert done.returncode == 0, done.stdout.decode()
    assert scenario.seen(place)
    assert (place.model_dir / M / "a").stat().st_nlink == 1
    with place.open() as store:
        scenario.act(store)
        assert (place.model_dir / M / "a").stat().st_nlink == 2


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path):
    place = prepared("publish", tmp_path / "place", "beside")
    done = child("publish", place, "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
    assert done.returncode == 0, done.stdout.decode()


def test_a_tree_that_cannot_be_removed_is_told_and_tried_again(tmp_path):
    """The sweep at start is where it shows; the crash child cannot tell, so this one is done by hand."""
    place = prepared("replace", tmp_path / "place", "beside")
    done = child("replace", place, "-e", "trace=unlinkat", "-e", "inject=unlinkat:error=EPERM:when=6+")
    assert done.returncode == 0, done.stdout.decode()
    assert SCENARIOS["replace"].seen(place)
    assert list(place.flat.glob(".agent-tmp-*"))
    with place.open() as store:
        assert store.cannot_remove() == {}
    assert not list(place.flat.glob(".agent-tmp-*"))


def order_of(log: str) -> Callable[[str], list[int]]:
    """Where in the log a pattern matches, by line."""
    lines = log.splitlines()
    return lambda pattern: [at for at, line in enumerate(lines) if re.search(pattern, line)]


def test_data_and_names_are_on_the_disk_before_a_manifest_shows_them(tmp_path):
    """The order lint (reference: real-counterparts §7): data, folder, manifest, folder."""
    template = prepared("commit", tmp_path / "template", "drop-in")
    place = copied(template, tmp_path / "place")
    log = tmp_path / "log"
    done = child("commit", place, "-y", "-e", "trace=renameat,fsync", "-o", str(log))
    assert done.returncode == 0
    at = order_of(log.read_text())
    (shown,) = at(r'rename.*"\.agent-manifest-')
    temp = re.search(r'"(\.agent-tmp-[0-9a-f]+)".*"\.agent-manifest-', log.read_text())[1]
    adopted = re.findall(r'rename.*"\.agent-part-.*"(\.agent-blob-[0-9a-f]+)"', log.read_text())
    data = [at(rf"fsync\(.*{name}>") for name in (*adopted, temp)]
    folder = at(rf"fsync\(\d+<{re.escape(str(place.model_dir))}>")
    assert len(adopted) == 2
    assert all(len(found) == 1 for found in data)
    before = [line for line in folder if line < shown]
    assert max(line for (line,) in data) < max(before)
    assert any(line > shown for line in folder)
    shutil.rmtree(tmp_path / "place")


def traced(name, place, log):
    """Run a scenario; return its renames and syncs in order."""
    done = child(name, place, "-y", "-e", "trace=renameat,renameat2,fsync", "-o", str(log))
    assert done.returncode == 0
    return log.read_text()


def test_the_accepted_document_is_on_the_disk_before_and_its_name_after_it_is_shown(tmp_path):
    place = prepared("remember", tmp_path / "place", "drop-in")
    log = traced("remember", place, tmp_path / "log")
    temp = re.search(r'"(\.agent-tmp-[0-9a-f]+)".*"\.agent-document-', log)[1]
    at = order_of(log)
    (shown,) = at(r'rename.*"\.agent-document-')
    (data,) = at(rf"fsync\(.*{temp}>")
    folder = at(rf"fsync\(\d+<{re.escape(str(place.model_dir))}>")
    assert data < shown < max(folder)


@pytest.mark.parametrize("name", ["publish", "replace"])
def test_what_is_made_for_the_server_is_on_the_disk_before_the_folder_is_shown(name, tmp_path):
    """Linked blobs were synced with their manifest; an overlay is a file of its own."""
    place = prepared(name, tmp_path / "place", "drop-in")
    log = traced(name, place, tmp_path / "log")
    overlay = re.search(r'"(\.agent-tmp-[0-9a-f]+)", \d+<[^>]*>, "config"', log)[1]
    at = order_of(log)
    shown = at(rf'rename.*"\.agent-tmp-[0-9a-f]+", \d+<[^>]*>, "{M}"')[0]
    (data,) = at(rf"fsync\(.*{overlay}>")
    assert data < shown
