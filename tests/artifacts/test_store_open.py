"""A start: what is swept, what is taken up again, what is refused."""

import json
import os
import shutil

import pytest

from agent.artifacts.manifest import blob_id
from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.shelf import BOOT, M, Shelf, fetch, manifest_of, plain, short, stored, told, tree

URI = "s3://bucket/a"
HOUR = 3600.0


def test_all_that_was_complete_is_there_again(shelf):
    with shelf.open() as store:
        manifest = stored(store, URI, {"a": b"1", "d/b": b"2"}, at=12.5)
        store.record(M, told(URI, manifest.revision))
        store.publish(M, manifest, plain(manifest))
        store.remember_document(b"[]")
    with shelf.open() as store:
        assert store.revisions() == {URI: short(manifest)}
        assert store.manifest(URI, manifest.revision) == manifest
        assert store.told() == {M: told(URI, manifest.revision)}
        assert store.accepted_document() == b"[]"
        assert store.published() == {M}
        assert store.stands(M, manifest, plain(manifest))
        assert store.holds(manifest.entries[0].blob, 1)


def test_a_second_listing_of_the_same_revision_outlives_the_restart(shelf):
    with shelf.open() as store:
        old = stored(store, URI, {"a": b"old"}, at=1.0)
        stored(store, URI, {"a": b"new"}, at=2.0)
        again = store.touch(URI, old.revision, 3.25)
    with shelf.open() as store:
        assert store.revisions() == {URI: again}


@pytest.mark.parametrize("harm", ["truncated", "zeroed", "removed", "touched"])
def test_a_revision_whose_bytes_changed_while_we_were_away_is_not_there(shelf, harm):
    with shelf.open() as store:
        bad = stored(store, "s3://b/bad", {"a": b"bytes", "b": b"good"})
        good = stored(store, "s3://b/good", {"b": b"good"})
    spoil(store.blob_path(bad.entries[0].blob), harm)
    with shelf.open() as store:
        assert store.revisions() == {good.uri: short(good)}
        assert not store.holds(bad.entries[0].blob, 5)
    assert len(shelf.names("blob")) == len(shelf.names("manifest")) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"{}", b'{"format":99,"manifest":{}}', b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["manifest", "told"])
def test_a_torn_or_foreign_state_file_is_as_if_it_were_not_there(shelf, kind, content):
    with shelf.open() as store:
        manifest = stored(store, URI, {"a": b"1"})
        store.record(M, told(URI, manifest.revision))
    (shelf.flat / next(iter(shelf.names(kind)))).write_bytes(content)
    with shelf.open() as store:
        assert store.revisions() == ({} if kind == "manifest" else {URI: short(manifest)})
        assert store.told() == ({} if kind == "told" else {M: told(URI, manifest.revision)})
    assert shelf.names(kind) == set()


def test_a_state_file_under_another_ones_name_is_not_believed(shelf):
    with shelf.open() as store:
        stored(store, URI, {"a": b"1"})
        store.record(M, told(URI, "r"))
    for kind in ("manifest", "told"):
        path = shelf.flat / next(iter(shelf.names(kind)))
        path.rename(shelf.flat / f".agent-{kind}-{'0' * 40}")
    with shelf.open() as store:
        assert (store.revisions(), store.told()) == ({}, {})


def test_a_manifest_may_be_old_only_its_time_is_new(shelf):
    with shelf.open() as store:
        manifest = stored(store, URI, {"a": b"1"}, at=5.0)
        store.touch(URI, manifest.revision, 9.0)
    raw = (shelf.flat / next(iter(shelf.names("manifest")))).read_bytes()
    assert json.loads(raw)["manifest"]["resolvedAt"] == 5.0
    with shelf.open() as store:
        assert store.manifest(URI, manifest.revision).resolved_at == 9.0


def test_leftovers_of_a_crash_are_swept_and_nothing_else(shelf):
    with shelf.open() as store:
        manifest = stored(store, URI, {"a": b"1"})
        store.publish(M, manifest, plain(manifest))
    litter = [shelf.flat / f".agent-tmp-{'0' * 15}{n}" for n in range(3)]
    litter[0].write_bytes(b"half")
    (litter[1] / "deep" / "deeper").mkdir(parents=True)
    (litter[1] / "deep" / "outside").symlink_to(shelf.model_dir / M)
    litter[2].symlink_to(shelf.model_dir / M)
    kept = [".agent", ".agent-future-00", ".agent-tmp-0.json", "notes.txt", ".hidden"]
    for name in kept:
        (shelf.model_dir / name).write_bytes(b"")
    (shelf.model_dir / "SUCCESS.d").mkdir()
    with shelf.open() as store:
        assert store.foreign() == {*kept, "SUCCESS.d"}
        assert store.published() == {M}
    assert shelf.names("tmp-00") == set()
    assert {path.name for path in shelf.model_dir.iterdir()} >= {*kept, "SUCCESS.d"}
    assert tree(shelf.model_dir / M) == {"a": b"1"}


def test_a_partial_is_kept_at_start_with_its_journal_unless_it_is_ancient(shelf):
    half, ancient = blob_id("half"), blob_id("ancient")
    with shelf.open() as store:
        for blob, age in ((half, 3 * HOUR), (ancient, 8 * 24 * HOUR)):
            for path in (store.partial_path(blob), store.journal_path(blob)):
                path.write_bytes(b"half")
                os.utime(path, (shelf.clock.now - age,) * 2)
        store.journal_path(blob_id("lost")).write_bytes(b"no partial")
    with shelf.open():
        assert shelf.names("part") == {f".agent-part-{half}"}
        assert shelf.names("journal") == {f".agent-journal-{half}"}


def test_a_partial_that_a_crash_left_read_only_can_be_written_again(shelf):
    blob = blob_id("x")
    with shelf.open() as store:
        store.partial_path(blob).write_bytes(b"half")
        store.partial_path(blob).chmod(0o444)
        os.utime(store.partial_path(blob), (shelf.clock.now,) * 2)
    with shelf.open() as store:
        assert store.partial_path(blob).stat().st_mode & 0o200


def test_verified_bytes_of_an_unfinished_download_are_not_fetched_again(shelf):
    with shelf.open() as store:
        blob = fetch(store, b"bytes")
    with shelf.open() as store:
        assert store.holds(blob, 5)


def test_shards_that_came_hours_before_a_crash_are_not_fetched_again(shelf):
    with shelf.open() as store:
        blob = fetch(store, b"bytes")
    shelf.clock.now += 3 * HOUR
    with shelf.open() as store:
        assert store.holds(blob, 5)


def test_verified_bytes_that_were_never_synced_are_a_partial_again_after_a_reboot(shelf):
    with shelf.open() as store:
        loose, bare = fetch(store, b"loose"), fetch(store, b"without a journal")
        store.journal_path(bare).unlink()
        manifest = stored(store, URI, {"a": b"synced"})
    with shelf.open(boot="f00d" * 8) as store:
        assert not store.holds(loose, 5)
        assert store.partial_path(loose).read_bytes() == b"loose"
        assert store.partial_path(loose).stat().st_mode & 0o200
        assert shelf.names("journal") == {f".agent-journal-{loose}"}
        assert store.holds(manifest.entries[0].blob, 6)
        assert shelf.names("blob") == {f".agent-blob-{manifest.entries[0].blob}"}
    assert shelf.names("boot") == {f".agent-boot-{'f00d' * 8}"}


def test_what_a_start_kept_and_nobody_wants_goes_an_hour_later(shelf):
    with shelf.open() as store:
        fetch(store, b"loose")
        half = store.partial_path(blob_id("half"))
        half.write_bytes(b"half")
        os.utime(half, (shelf.clock.now,) * 2)
    shelf.clock.now += 2 * HOUR
    with shelf.open() as store:
        store.collect([], shelf.clock.now + HOUR - 1, DiskPolicy(0))
        assert len(shelf.names("blob") | shelf.names("part")) == 2
        store.collect([], shelf.clock.now + HOUR + 1, DiskPolicy(0))
        assert shelf.names("blob") | shelf.names("part") | shelf.names("journal") == set()


def test_an_empty_volume_is_an_empty_store(shelf):
    with shelf.open() as store:
        stored(store, URI, {"a": b"1"})
    shutil.rmtree(shelf.flat)
    with shelf.open() as store:
        assert store.revisions() == {}


def test_a_second_agent_stands_by_until_the_first_is_gone(shelf):
    with shelf.open():
        with pytest.raises(RetryableError) as raised:
            shelf.open()
        assert raised.value.reason is Reason.STORE_IN_USE
    shelf.open().close()


def test_two_stores_over_one_model_dir_are_two_agents(tmp_path, shelf):
    with shelf.open(), pytest.raises(RetryableError, match="StoreInUse"):
        Shelf(shelf.model_dir, tmp_path / "elsewhere", shelf.clock).open()


def test_the_store_dir_may_be_the_model_dir_by_another_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with Store.open(tmp_path / "m", tmp_path / "link" / "m", boot_id=BOOT) as store:
        manifest = stored(store, URI, {"a": b"1"})
        store.publish(M, manifest, plain(manifest))
        assert store.foreign() == set()


def test_a_store_in_the_servers_sight_is_refused(tmp_path):
    with pytest.raises(TerminalError, match="beside the model dir"):
        Store.open(tmp_path / "m", tmp_path / "m" / "store")


def test_a_listing_later_on_shows_what_others_did(store, shelf):
    manifest = stored(store, URI, {"a": b"1"})
    store.publish(M, manifest, plain(manifest))
    shutil.rmtree(shelf.model_dir / M)
    (shelf.model_dir / "other").mkdir()
    assert store.published() == {M}
    store.rescan()
    assert store.published() == {"other"}


def test_directories_are_open_to_other_users_whatever_the_umask(shelf):
    before = os.umask(0o077)
    try:
        with shelf.open() as store:
            manifest = manifest_of(store, URI, {"d/e/a": b"1"})
            store.commit(manifest)
            store.publish(M, manifest, {**plain(manifest), "d/extra": b"fresh"})
    finally:
        os.umask(before)
    paths = [shelf.model_dir, *(shelf.model_dir / M).rglob("*"), shelf.model_dir / M]
    modes = {path.name: path.stat().st_mode & 0o777 for path in paths}
    assert modes == {"models": 0o755, M: 0o755, "d": 0o755, "e": 0o755, "a": 0o444, "extra": 0o644}


def spoil(path, harm):
    stat = path.stat()
    if harm == "removed":
        path.unlink()
    elif harm == "truncated":
        os.truncate(path, stat.st_size - 1)
    elif harm == "zeroed":
        path.write_bytes(bytes(stat.st_size))
    else:
        os.utime(path, ns=(0, stat.st_mtime_ns + 1))
