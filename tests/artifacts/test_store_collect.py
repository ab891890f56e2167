"""Making room: what goes from the disk, and what a collection leaves alone (design §8.9)."""

import os
import shutil

import pytest

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
    store.withdraw(M)
    assert not (shelf.model_dir / M).exists()
    ((path, why),) = store.cannot_remove().items()
    assert why
    shutil.rmtree(f"{path}/d/d")
    store.collect([], shelf.clock.now, ROOM)
    assert store.cannot_remove() == {}
    assert shelf.names("tmp") == set()
