"""The store within one run: revisions, blobs, records, documents."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.artifacts import scan
from agent.artifacts.manifest import BlobStat, Entry, Manifest, Stored, blob_id, decode, encode
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.shelf import M, fetch, manifest_of, plain, short, stored, told

URI = "s3://bucket/a?X-Amz-Signature=canary"
TEXT = st.text(max_size=20)


def test_a_revision_is_there_once_it_is_committed_and_not_before(store):
    manifest = manifest_of(store, URI, {"a": b"1", "b/c": b"22"})
    assert store.revisions() == {}
    assert store.commit(manifest) == short(manifest)
    assert store.revisions() == {URI: short(manifest)}
    assert store.manifest(URI, manifest.revision) == manifest


def test_the_newest_listing_of_a_uri_is_its_revision(store):
    old = stored(store, URI, {"a": b"old"}, at=1.0)
    new = stored(store, URI, {"a": b"new"}, at=2.0)
    assert store.revisions()[URI].revision == new.revision
    assert store.touch(URI, old.revision, 3.0).resolved_at == 3.0
    assert store.revisions()[URI] == replace(short(old), resolved_at=3.0)
    assert store.manifest(URI, new.revision) == new


def test_two_revisions_share_the_bytes_they_have_in_common(store, shelf):
    stored(store, URI, {"a": b"same", "b": b"old"})
    stored(store, URI, {"a": b"same", "b": b"new"})
    assert len(shelf.names("blob")) == 3


def test_a_blob_is_read_only_and_its_journal_goes_once_a_revision_makes_it_durable(store, shelf):
    blob = fetch(store, b"bytes")
    assert store.blob_path(blob).stat().st_mode & 0o777 == 0o444
    assert shelf.names("part") == set()
    assert shelf.names("journal") == {f".agent-journal-{blob}"}
    stored(store, URI, {"a": b"bytes"})
    assert shelf.names("journal") == set()


def test_adopting_what_is_there_already_keeps_the_first_copy(store):
    blob = fetch(store, b"bytes")
    first = store.blob_path(blob).stat().st_ino
    store.partial_path(blob).write_bytes(b"bytes")
    store.adopt(blob)
    assert store.blob_path(blob).stat().st_ino == first


def test_adopting_a_missing_partial_says_so(store):
    with pytest.raises(RetryableError, match="DiskError"):
        store.adopt(blob_id("never fetched"))


@pytest.mark.parametrize("harm", ["truncated", "edited", "removed", "replaced by a link"])
def test_a_blob_that_changed_takes_every_revision_of_it_along(store, shelf, harm):
    one = stored(store, "s3://b/one", {"a": b"shared"})
    two = stored(store, "s3://b/two", {"x": b"shared", "y": b"own"})
    blob = one.entries[0].blob
    spoil(store.blob_path(blob), harm)
    assert not store.holds(blob, 6)
    assert store.revisions() == {}
    assert store.manifest(two.uri, two.revision) is None
    assert shelf.names("manifest") == set()
    assert blob not in {name[-40:] for name in shelf.names("blob")}


def test_a_revision_can_be_checked_file_by_file(store):
    manifest = stored(store, URI, {"a": b"1", "b": b"2"})
    assert store.intact(URI, manifest.revision)
    spoil(store.blob_path(manifest.entries[1].blob), "truncated")
    assert not store.intact(URI, manifest.revision)
    assert not store.has(URI, manifest.revision)


def test_an_edit_within_the_same_tick_and_of_the_same_size_is_seen(store):
    blob = fetch(store, b"AAAA")
    with store.blob_path(blob).open("r+b") as file:  # root may, whatever the mode
        file.write(b"BBBB")
    assert not store.holds(blob, 4)


def test_linking_a_blob_is_no_change_of_it(store):
    manifest = stored(store, URI, {"a": b"1"})
    for _ in range(3):
        store.publish(M, manifest, plain(manifest))
    assert store.intact(URI, manifest.revision)


def test_committing_bytes_that_are_gone_asks_for_another_fetch(store, shelf):
    manifest = manifest_of(store, URI, {"a": b"1"})
    spoil(store.blob_path(manifest.entries[0].blob), "removed")
    store.holds(manifest.entries[0].blob, 1)
    with pytest.raises(RetryableError) as raised:
        store.commit(manifest)
    assert raised.value.reason is Reason.INTEGRITY_MISMATCH
    assert shelf.names("manifest") == set()


def test_touching_what_is_gone_asks_for_another_fetch(store, shelf):
    manifest = stored(store, URI, {"a": b"1"})
    (shelf.flat / next(iter(shelf.names("manifest")))).unlink()
    with pytest.raises(RetryableError, match="IntegrityMismatch"):
        store.touch(URI, manifest.revision, 2.0)
    assert store.revisions() == {}


def test_a_manifest_that_vanished_is_not_there(store, shelf):
    manifest = stored(store, URI, {"a": b"1"})
    (shelf.flat / next(iter(shelf.names("manifest")))).unlink()
    assert store.manifest(URI, manifest.revision) is None
    assert store.revisions() == {}


def test_small_files_of_a_revision_can_be_read_and_large_ones_not(store):
    manifest = stored(store, URI, {"config": b"text", "weights": bytes((1 << 20) + 1)})
    assert store.read(manifest, "config") == b"text"
    with pytest.raises(TerminalError, match="LoadRejected"):
        store.read(manifest, "weights")
    with pytest.raises(TerminalError, match="NotFound"):
        store.read(manifest, "nothing")


def test_commits_from_many_threads_are_all_there(store, shelf):
    manifests = [manifest_of(store, f"s3://b/{n}", {"f": b"%d" % n, "same": b"s"}) for n in range(100)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(store.commit, manifests)) == [short(each) for each in manifests]
    assert set(store.revisions()) == {each.uri for each in manifests}
    assert len(shelf.names("manifest")) == 100
    assert shelf.names("tmp") == set()


def test_revisions_can_be_read_while_others_commit(store):
    manifests = [manifest_of(store, f"s3://b/{n}", {"f": b"%d" % n}) for n in range(5)]
    writer = threading.Thread(target=lambda: [store.commit(each) for each in manifests])
    writer.start()
    while writer.is_alive():
        assert store.revisions().keys() <= {each.uri for each in manifests}
    writer.join()


def test_what_the_server_was_told_is_kept_and_forgotten(store):
    store.record(M, told(URI, "r1"))
    assert store.told() == {M: told(URI, "r1")}
    store.record(M, None)
    store.record(M, None)
    assert store.told() == {}


def test_the_last_confirmed_is_known_until_the_next_is_confirmed(store, shelf):
    good, tried, again = (told(URI, name, confirmed=name == "good") for name in ("good", "tried", "again"))
    for each in (good, tried, again):
        store.record(M, each)
    assert store.previous() == {M: good}
    store.close()
    with shelf.open() as later:
        assert later.previous() == {M: good}
        later.record(M, replace(again, confirmed=True))
        assert later.previous() == {}


def test_the_accepted_document_comes_back_byte_for_byte(store, shelf):
    assert store.accepted_document() is None
    for raw in (b"[]", bytes(range(256)) * 4096):
        store.remember_document(raw)
        assert store.accepted_document() == raw
    assert shelf.names("tmp") == set()


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "SUCCESS.x", "x" * 254, "a\n", "ü"])
def test_names_that_are_no_models_are_refused(store, name):
    manifest = stored(store, URI, {"a": b"1"})
    for act in (lambda: store.publish(name, manifest, plain(manifest)), lambda: store.withdraw(name)):
        with pytest.raises(TerminalError) as raised:
            act()
        assert raised.value.reason is Reason.INVALID_NAME


def test_every_file_of_ours_is_flat_regular_private_and_without_a_suffix(store, shelf):
    manifest = stored(store, URI, {"a.json": b"1", "b.joblib": b"2"})
    store.record(M, told(URI, manifest.revision))
    store.remember_document(b"[]")
    store.partial_path(blob_id("x")).write_bytes(b"")
    for path in shelf.flat.iterdir():
        assert path.is_file()
        assert not path.is_symlink()
        assert path.name.startswith(".agent-")
        assert "." not in path.name[1:]
        if "-manifest-" in path.name or "-told-" in path.name or "-document-" in path.name:
            assert path.stat().st_mode & 0o777 == 0o600


@given(at=st.floats(0, 4e9))
def test_the_time_of_a_listing_comes_back_the_same(at):
    once = scan.seconds(scan.nanoseconds(at))
    assert scan.seconds(scan.nanoseconds(once)) == once
    assert abs(once - at) < 1e-6


@st.composite
def stored_manifests(draw):
    entries = draw(st.lists(st.builds(Entry, TEXT, st.integers(0), TEXT, st.none() | TEXT, st.none() | TEXT)))
    manifest = draw(st.builds(Manifest, TEXT, TEXT, st.floats(0, 4e9), st.just(tuple(entries)), TEXT, TEXT))
    stats = {each.blob: BlobStat(each.size, each.size) for each in entries if each.link is None}
    return Stored(replace(manifest, entries=tuple(e for e in entries if stats_fit(e, stats))), stats)


def stats_fit(entry, stats):
    return entry.link is not None or stats[entry.blob].size == entry.size


@given(stored_manifests())
def test_a_manifest_is_read_as_it_was_written(manifest):
    assert decode(encode(manifest)) == manifest


@given(stored_manifests(), st.data())
def test_a_manifest_torn_or_flipped_anywhere_is_none(manifest, data):
    raw = encode(manifest)
    at = data.draw(st.integers(0, len(raw) - 1))
    assert decode(raw[:at]) is None
    flipped = bytearray(raw)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    if at < len(raw) - 1:  # the last byte is a brace that carries nothing
        assert decode(bytes(flipped)) is None


def test_a_manifest_of_another_format_is_none(store):
    raw = encode(Stored(Manifest("u", "r", 1.0, (), "declared"), {}))
    assert decode(raw) is not None
    assert decode(raw.replace(b'{"format":1', b'{"format":2')) is None


def test_no_message_tells_the_signature_in_a_uri(store, shelf):
    manifest = manifest_of(store, URI, {"a": b"1"})
    spoil(store.blob_path(manifest.entries[0].blob), "removed")
    with pytest.raises(RetryableError) as raised:
        store.publish(M, manifest, plain(manifest))
    assert "canary" not in str(raised.value)


def spoil(path, harm):
    if harm == "removed":
        path.unlink()
    elif harm == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    elif harm == "edited":
        content = path.read_bytes()
        path.write_bytes(bytes(byte ^ 1 for byte in content))
    else:
        content = path.read_bytes()
        path.unlink()
        target = path.parent / "foreign"
        target.write_bytes(content)
        path.symlink_to(target)


def test_a_directory_in_the_place_of_a_blob_gives_way(store):
    blob = blob_id("x")
    standing = store.blob_path(blob)
    standing.mkdir()
    (standing / "file").write_bytes(b"not ours")
    assert fetch(store, b"bytes", "x") == blob
    assert standing.read_bytes() == b"bytes"
