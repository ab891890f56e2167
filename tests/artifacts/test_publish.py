"""What the server sees: whole or absent, old or new, and only models."""

import contextlib
import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.artifacts.manifest import Entry, Manifest, blob_id
from agent.core.errors import RetryableError, TerminalError
from agent.core.model import ModelName, Revision
from agent.core.reasons import Reason
from tests.artifacts.shelf import Clock, M, Shelf, manifest_of, plain, stored, tree

URI = "s3://bucket/a"


def test_a_published_model_is_the_layout_and_nothing_else(store, shelf):
    manifest = stored(store, URI, {"a": b"1", "d/b": b"22"})
    store.publish(M, manifest, {"1/model": "d/b", "d/a": "a", "config.pbtxt": b"fresh"})
    assert tree(shelf.model_dir / M) == {"1/model": b"22", "d/a": b"1", "config.pbtxt": b"fresh"}
    assert store.published() == {M}


def test_published_files_cost_no_second_copy(store, shelf):
    manifest = stored(store, URI, {"a": b"1"})
    store.publish(M, manifest, plain(manifest))
    blob = store.blob_path(manifest.entries[0].blob)
    assert (shelf.model_dir / M / "a").samefile(blob)


def test_a_replaced_tree_takes_nothing_of_the_old_along(store, shelf):
    old = stored(store, URI, {"a": b"1", "old": b"o"})
    new = stored(store, URI, {"a": b"2"})
    for manifest in (old, new):
        store.publish(M, manifest, plain(manifest))
    assert tree(shelf.model_dir / M) == {"a": b"2"}
    assert shelf.names("tmp") == set()


def test_withdrawing_is_whole_and_absent_is_fine(store, shelf):
    manifest = stored(store, URI, {"a": b"1", "d/b": b"2"})
    store.publish(M, manifest, plain(manifest))
    (shelf.model_dir / M / "__pycache__").mkdir()
    for _ in range(2):
        store.withdraw(M)
        assert not (shelf.model_dir / M).exists()
        assert store.published() == set()
    assert shelf.names("tmp") == set()


def test_nothing_but_models_is_a_directory_in_the_model_dir(store, shelf):
    manifest = stored(store, URI, {"a": b"1", "d/b": b"2"})
    store.publish(M, manifest, plain(manifest))
    store.publish(M, manifest, {"x": "a", "y": b"o"})
    assert [path.name for path in shelf.model_dir.iterdir() if path.is_dir()] == [M]
    if shelf.store_dir:
        assert [path.name for path in shelf.model_dir.iterdir()] == [M]


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "empty folder"])
def test_whatever_stands_in_the_way_is_replaced_and_not_followed(store, shelf, tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    place = shelf.model_dir / M
    match kind:
        case "file":
            place.write_bytes(b"KServe's agent makes such files")
        case "link":
            place.symlink_to(outside)
        case "dangling link":
            place.symlink_to(tmp_path / "nowhere")
        case _:
            place.mkdir()
    manifest = stored(store, URI, {"a": b"1"})
    store.publish(M, manifest, plain(manifest))
    assert not place.is_symlink()
    assert tree(place) == {"a": b"1"}
    assert tree(outside) == {"precious": b"mine"}


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "", "a//b", "a\\b"])
def test_no_layout_leads_outside(store, shelf, path):
    manifest = stored(store, URI, {"a": b"1"})
    with pytest.raises(TerminalError) as raised:
        store.publish(M, manifest, {path: "a"})
    assert raised.value.reason is Reason.INVALID_OBJECT_KEY
    assert store.published() == set()


def test_a_layout_that_clashes_or_names_no_file_is_refused(store):
    manifest = stored(store, URI, {"a": b"1"})
    with pytest.raises(TerminalError, match="InvalidObjectKey"):
        store.publish(M, manifest, {"x": "a", "x/y": "a"})
    with pytest.raises(TerminalError, match="NotFound"):
        store.publish(M, manifest, {"x": "b"})


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: os.truncate(p, 0)])
def test_changed_bytes_are_never_published_and_the_old_model_stays(store, shelf, harm):
    old = stored(store, URI, {"a": b"old"})
    store.publish(M, old, plain(old))
    new = stored(store, URI, {"a": b"new", "z": b"zz"})
    harm(store.blob_path(new.entries[1].blob))
    with pytest.raises(RetryableError) as raised:
        store.publish(M, new, plain(new))
    assert raised.value.reason is Reason.INTEGRITY_MISMATCH
    assert tree(shelf.model_dir / M) == {"a": b"old"}
    assert store.manifest(URI, new.revision) is None
    assert shelf.names("tmp") == set()


def test_times_are_fresh_even_if_the_clock_went_back_and_on_a_rollback(store, shelf):
    manifest = stored(store, URI, {"d/a": b"1"})
    seen = []
    for layout in ({"d/a": "d/a"}, {"d/b": "d/a"}, {"d/a": "d/a"}):
        store.publish(M, manifest, layout)
        place = shelf.model_dir / M
        seen.append(place.stat().st_mtime_ns)
        assert (place / "d").stat().st_mtime_ns == seen[-1]
        future = seen[-1] + 10**12
        os.utime(place, ns=(future, future))  # as if the clock had been ahead
        seen.append(future)
    assert seen == sorted(set(seen))


def test_what_a_server_left_in_the_tree_does_not_count(store, shelf):
    manifest = stored(store, URI, {"a": b"1", "d/b": b"2"})
    layout = {**plain(manifest), "config": b"fresh"}
    store.publish(M, manifest, layout)
    (shelf.model_dir / M / "__pycache__").mkdir()
    (shelf.model_dir / M / "__pycache__" / "x.pyc").write_bytes(b"")
    assert store.stands(M, manifest, layout)


@pytest.mark.parametrize(
    "harm", ["gone", "file gone", "file cut", "overlay edited", "link instead", "folder link"]
)
def test_a_tree_that_somebody_changed_does_not_stand(store, shelf, harm):
    manifest = stored(store, URI, {"a": b"1", "d/b": b"2"})
    layout = {**plain(manifest), "config": b"fresh"}
    store.publish(M, manifest, layout)
    place = shelf.model_dir / M
    match harm:
        case "gone":
            place.rename(shelf.model_dir / "elsewhere")
        case "file gone":
            (place / "d" / "b").unlink()
        case "file cut":
            os.truncate(place / "a", 0)
        case "overlay edited":
            (place / "config").write_bytes(b"other")
        case "link instead":
            (place / "a").unlink()
            (place / "a").symlink_to(store.blob_path(manifest.entries[0].blob))
        case _:
            (place / "d").rename(place / "e")
            (place / "d").symlink_to(place / "e")
    assert not store.stands(M, manifest, layout)


def test_shared_files_are_published_as_links(store, shelf, tmp_path):
    shared = tmp_path / "shared"
    shared.write_bytes(b"on the shared root")
    entry = Entry("a", 18, blob_id(""), None, link=str(shared))
    manifest = Manifest(URI, Revision("r"), 1.0, (entry,), "seen-first")
    store.commit(manifest)
    store.publish(M, manifest, plain(manifest))
    assert (shelf.model_dir / M / "a").readlink() == shared
    assert store.read(manifest, "a") == b"on the shared root"
    assert store.stands(M, manifest, plain(manifest))
    store.withdraw(M)
    assert shared.exists()


@pytest.mark.parametrize(
    "count", [10_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_one_of_very_many_files(store, shelf, count):
    """A file system takes no more than some 65,000 links to one file."""
    files = {str(n): b"%d" % n for n in range(count // 50_000 + 1)}
    blobs = [entry.blob for entry in manifest_of(store, URI, files).entries]
    sizes = [len(content) for _, content in sorted(files.items())]
    entries = tuple(
        Entry(f"{n % 100}/{n}", sizes[n % len(blobs)], blobs[n % len(blobs)], None) for n in range(count)
    )
    manifest = Manifest(URI, Revision("r"), 1.0, entries, "seen-first")
    store.commit(manifest)
    store.publish(M, manifest, plain(manifest))
    assert sum(len(names) for _, _, names in os.walk(shelf.model_dir / M)) == count
    assert store.stands(M, manifest, plain(manifest))


def test_a_reader_sees_the_old_tree_or_the_new_one_through_a_hundred_swaps(store, shelf):
    """A descriptor on the directory is what a server holds while it loads."""
    revisions = [stored(store, URI, {"a": b"%d" % n, "b": b"%d" % n}, at=n) for n in range(4)]
    store.publish(M, revisions[0], plain(revisions[0]))
    seen: list[set[bytes]] = []
    done = threading.Event()
    reader = threading.Thread(target=lambda: read_on(shelf.model_dir / M, seen, done))
    reader.start()
    for n in range(100):
        manifest = revisions[n % 4]
        store.publish(M, manifest, plain(manifest))
    done.set()
    reader.join()
    assert seen
    assert all(len(contents) <= 1 for contents in seen)


def read_on(place: Path, seen: list[set[bytes]], done: threading.Event) -> None:
    while not done.is_set():
        folder = os.open(place, os.O_DIRECTORY)  # never absent: this may not fail
        contents = set()
        for name in ("a", "b"):
            try:
                file = os.open(name, os.O_RDONLY, dir_fd=folder)
            except FileNotFoundError:  # this tree has been replaced and is on its way out
                continue
            contents.add(os.read(file, 10))
            os.close(file)
        os.close(folder)
        seen.append(contents)


def test_removing_follows_no_link_that_is_planted_meanwhile(store, shelf, tmp_path):
    """Another container swaps a folder of the tree for a link, again and again (fault D12)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    manifest = stored(store, URI, {f"d/{n}": b"%d" % n for n in range(20)})
    done = threading.Event()
    attacker = threading.Thread(target=lambda: plant(shelf.model_dir / M, outside, done))
    attacker.start()
    for _ in range(50):
        store.publish(M, manifest, plain(manifest))
        store.withdraw(M)
    done.set()
    attacker.join()
    assert tree(outside) == {"precious": b"mine"}


def plant(place: Path, outside: Path, done: threading.Event) -> None:
    while not done.is_set():
        with contextlib.suppress(OSError):
            (place / "d").rename(place / "e")
            (place / "d").symlink_to(outside)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_server_under_another_user_id_can_read_and_not_write(shelf):
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        with Shelf(Path(top) / "m", None, shelf.clock).open() as store:
            manifest = stored(store, URI, {"d/a": b"bytes"})
            store.publish(M, manifest, {**plain(manifest), "config": b"fresh"})
        place = Path(top) / "m" / M
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        for name, content in (("d/a", b"bytes"), ("config", b"fresh")):
            assert (
                subprocess.run(["cat", place / name], check=True, capture_output=True, **nobody).stdout
                == content
            )
            assert subprocess.run(["test", "-w", place / name], check=False, **nobody).returncode == 1


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@settings(max_examples=60)
@given(layouts=st.lists(st.dictionaries(PATHS, st.binary(max_size=4) | st.none(), max_size=5), max_size=4))
def test_any_sequence_of_layouts_ends_in_the_last_good_one(tmp_path_factory, layouts):
    top = tmp_path_factory.mktemp("publish")
    with Shelf(top / "m", None, Clock()).open() as store:
        manifest = stored(store, URI, {"file": b"linked"})
        expected = None
        for layout in layouts:
            try:
                store.publish(
                    ModelName("m"), manifest, {p: c if c is not None else "file" for p, c in layout.items()}
                )
            except TerminalError:  # a file that is also a folder
                continue
            expected = {p: b"linked" if c is None else c for p, c in layout.items()}
        assert tree(top / "m" / "m") == expected
