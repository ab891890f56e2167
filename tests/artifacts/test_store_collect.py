"""Making room: what goes from the disk, and what a collection leaves alone (design §8.9)."""

import os
import shutil
import subprocess

import pytest

from agent.artifacts.folder import Folder
from agent.artifacts.manifest import blob_id
from agent.core.disk import DiskPolicy
from agent.core.errors import RetryableError
from tests.artifacts.shelf import M, fetch, manifest_of, plain, stored, told, tree

ROOM = DiskPolicy(keep_free_ratio=0.0)
NO_ROOM = DiskPolicy(keep_free_ratio=1.0)
URI, OTHER = "s3://b/wanted", "s3://b/other"
HOUR = 3600.0


def test_with_room_enough_nothing_goes(store, shelf):
    stored(store, OTHER, {"a": b"1"})
    assert store.collect([], shelf.clock.now, ROOM).revisions == ()
    assert OTHER in store.revisions()


def test_what_nobody_wants_goes_with_the_bytes_only_it_needed(store, shelf):
    keep = stored(store, URI, {"a": b"shared"})
    gone = stored(store, OTHER, {"a": b"shared", "b": b"alone"})
    collected = store.collect([URI], shelf.clock.now, NO_ROOM)
    assert collected.revisions == ((OTHER, gone.revision),)
    assert (collected.blobs, collected.freed_bytes) == (1, 5)
    assert collected.short_bytes > 0
    assert store.intact(URI, keep.revision)
    assert store.manifest(OTHER, gone.revision) is None


def test_what_the_server_was_told_stays_though_nobody_wants_it(store, shelf):
    manifest = stored(store, OTHER, {"a": b"1"})
    store.record(M, told(OTHER, manifest.revision))
    store.publish(M, manifest, plain(manifest))
    store.collect([], shelf.clock.now, NO_ROOM)
    assert store.intact(OTHER, manifest.revision)
    assert tree(shelf.model_dir / M) == {"a": b"1"}


def test_the_revision_to_go_back_to_stays_while_the_next_one_loads(store, shelf):
    old, new = stored(store, OTHER, {"a": b"old"}), stored(store, URI, {"a": b"new"})
    store.record(M, told(OTHER, old.revision))
    store.record(M, told(URI, new.revision, confirmed=False))
    store.collect([URI], shelf.clock.now, NO_ROOM)
    assert store.intact(OTHER, old.revision)
    store.record(M, told(URI, new.revision))
    store.collect([URI], shelf.clock.now, NO_ROOM)
    assert not store.has(OTHER, old.revision)


def test_within_a_budget_the_least_recently_wanted_goes_first(store, shelf):
    for uri in ("s3://b/1", "s3://b/2", "s3://b/3"):
        stored(store, uri, {"a": uri.encode()})
    for uri in ("s3://b/3", "s3://b/1", "s3://b/2"):
        shelf.clock.now += 1
        store.collect([uri], shelf.clock.now, ROOM)
    collected = store.collect([], shelf.clock.now, DiskPolicy(keep_free_ratio=0.0, budget_bytes=17))
    assert [uri for uri, _ in collected.revisions] == ["s3://b/3"]
    assert collected.short_bytes == 0


def test_a_partial_goes_after_an_hour_unless_a_wanted_fetch_expects_it(store, shelf):
    asked, dropped = blob_id("asked"), blob_id("dropped")
    for blob in (asked, dropped):
        store.partial_path(blob).write_bytes(b"half")
        store.journal_path(blob).write_bytes(b"journal")
        for path in (store.partial_path(blob), store.journal_path(blob)):
            os.utime(path, (shelf.clock.now,) * 2)
    store.expect(URI, [asked])
    store.collect([URI], shelf.clock.now + HOUR, ROOM)
    assert len(shelf.names("part")) == 2
    collected = store.collect([URI], shelf.clock.now + HOUR + 1, ROOM)
    assert (collected.partials, collected.freed_bytes) == (1, 4)
    assert shelf.names("part") == {f".agent-part-{asked}"}
    assert shelf.names("journal") == {f".agent-journal-{asked}"}
    store.collect([], shelf.clock.now + HOUR + 1, ROOM)
    assert shelf.names("part") | shelf.names("journal") == set()


def test_asking_for_a_partial_again_keeps_it_for_another_hour(store, shelf):
    blob = blob_id("slow")
    store.partial_path(blob).write_bytes(b"half")
    os.utime(store.partial_path(blob), (shelf.clock.now,) * 2)
    shelf.clock.now += HOUR
    store.partial_path(blob)
    store.collect([], shelf.clock.now + 1, ROOM)
    assert shelf.names("part") == {f".agent-part-{blob}"}


def test_bytes_of_a_fetch_under_way_stay(store, shelf):
    expected = fetch(store, b"first of two")
    store.expect(URI, [expected, blob_id("second")])
    store.collect([URI], shelf.clock.now + 5 * HOUR, NO_ROOM)
    assert store.holds(expected, 12)


def test_bytes_that_went_before_the_commit_are_asked_for_again(store, shelf):
    manifest = manifest_of(store, URI, {"a": b"1"})
    store.collect([], shelf.clock.now + 2 * HOUR, ROOM)
    with pytest.raises(RetryableError, match="IntegrityMismatch"):
        store.commit(manifest)


def test_a_tree_that_cannot_be_removed_is_told_until_it_can(store, shelf):
    manifest = stored(store, URI, {"a": b"1"})
    store.publish(M, manifest, plain(manifest))
    deep = shelf.model_dir / M / "/".join(["d"] * 200)  # what a hostile server may leave behind
    deep.mkdir(parents=True)
    (shelf.model_dir / M / "d" / "beside").write_bytes(b"x")
    store.withdraw(M)
    assert not (shelf.model_dir / M).exists()
    ((path, why),) = store.cannot_remove().items()
    assert why
    assert os.listdir(f"{path}/d") == ["d"]  # noqa: PTH208 - what can go is gone
    shutil.rmtree(f"{path}/d/d")
    store.collect([], shelf.clock.now, ROOM)
    assert store.cannot_remove() == {}
    assert shelf.names("tmp") == set()


def chattr(change, path):
    return subprocess.run(["chattr", change, path], capture_output=True, check=False).returncode == 0


@pytest.fixture
def stuck(store, shelf):
    """Make files that nobody may remove, until `stuck.no_more()`, at the latest until the test is over."""

    def stuck(path, size):
        path.write_bytes(b"x" * size)
        if not (shutil.which("chattr") and chattr("+i", path)):
            pytest.skip("this file system, or this user, makes no file immutable")
        return path.stat().st_blocks * 512

    def no_more():
        for path in shelf.model_dir.parent.rglob("own"):
            chattr("-i", path)

    stuck.no_more = no_more
    yield stuck
    no_more()


def test_what_only_a_tree_that_cannot_be_removed_still_holds_is_of_the_budget(store, shelf, stuck):
    manifest = stored(store, URI, {"a": b"a" * 5000})
    store.publish(M, manifest, plain(manifest))
    held = stuck(shelf.model_dir / M / "own", 30_000)
    used = store.used_bytes()
    store.withdraw(M)
    assert len(store.cannot_remove()) == 1
    assert store.used_bytes() == used + held
    room = DiskPolicy(keep_free_ratio=0.0, budget_bytes=held)
    assert store.collect([], shelf.clock.now, room).revisions == ((URI, manifest.revision),)
    assert store.used_bytes() == held
    stuck.no_more()
    store.collect([], shelf.clock.now, ROOM)
    assert (store.used_bytes(), store.cannot_remove()) == (0, {})


def test_bytes_that_have_another_name_are_not_of_a_tree_alone(tmp_path):
    (tmp_path / "blob").write_bytes(b"b" * 10_000)
    tree = tmp_path / "m" / "1"
    tree.mkdir(parents=True)
    (tree / "own").write_bytes(b"o" * 20_000)
    (tree / "linked").hardlink_to(tmp_path / "blob")
    (tree / "led astray").symlink_to("/etc")
    own, linked = ((tree / name).stat().st_blocks * 512 for name in ("own", "linked"))
    folder = Folder(tmp_path)
    try:
        assert folder.only_bytes("m") == own
        (tmp_path / "blob").unlink()
        assert folder.only_bytes("m") == own + linked
        assert folder.only_bytes("absent") == 0
    finally:
        folder.close()
