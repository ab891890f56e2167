"""What is read from the mounted folder, and what is said when nothing can be."""

import hashlib
import os
import socket
import threading

import pytest

from agent.core.document import MAX_DOCUMENT_BYTES
from agent.core.reasons import Reason
from agent.demo.kubelet import Kubelet
from agent.watch import ConfigSource, Document, Unreadable


def test_the_bytes_come_with_their_digest(kubelet, source):
    raw = kubelet.models([{"modelName": "m"}])
    assert source.read() == Document(raw, hashlib.sha256(raw).hexdigest())


def test_equal_bytes_written_anew_have_the_same_digest(kubelet, source):
    before = source.read()
    kubelet.write({"models.json": b"[]", "other": b"1"})
    assert source.read() == before


@pytest.mark.parametrize("raw", [b"", b"\n ", b"null", b"\xff\xfe[", b"["])
def test_bytes_that_are_no_document_are_handed_on_untouched(kubelet, source, raw):
    kubelet.write({"models.json": raw})
    assert source.read() == Document(raw, hashlib.sha256(raw).hexdigest())


def test_a_folder_that_is_not_mounted_is_a_missing_config(tmp_path):
    found = ConfigSource(tmp_path / "nowhere").read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_MISSING
    assert "is not mounted" in found.message


def test_a_missing_key_is_a_missing_config_and_never_an_empty_document(kubelet, source):
    kubelet.write({"other": b"1"})
    found = source.read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_MISSING
    assert "no such key" in found.message


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))]
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path, make):
    make(tmp_path / "models.json")
    found = ConfigSource(tmp_path).read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_UNREADABLE


def test_a_loop_of_links_is_unreadable(tmp_path):
    (tmp_path / "models.json").symlink_to("models.json")
    found = ConfigSource(tmp_path).read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_UNREADABLE


def test_a_file_at_the_limit_is_read_and_one_over_it_is_refused(tmp_path):
    source = ConfigSource(tmp_path, max_bytes=1000)
    (tmp_path / "models.json").write_bytes(b" " * 1000)
    assert isinstance(source.read(), Document)
    (tmp_path / "models.json").write_bytes(b" " * 1001)
    found = source.read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_TOO_LARGE


def test_a_document_over_its_limit_is_read_so_that_its_digest_can_be_told(tmp_path):
    (tmp_path / "models.json").write_bytes(b" " * (MAX_DOCUMENT_BYTES + 1))
    assert isinstance(ConfigSource(tmp_path).read(), Document)


def test_an_endless_file_is_given_up_at_the_limit(tmp_path):
    with (tmp_path / "models.json").open("wb") as file:
        file.truncate(1 << 40)
    found = ConfigSource(tmp_path).read()
    assert isinstance(found, Unreadable)
    assert found.reason == Reason.CONFIG_TOO_LARGE


def test_readers_in_the_middle_of_a_slow_swap_see_the_old_or_the_new(tmp_path):
    seen = []
    source = ConfigSource(tmp_path)
    kubelet = Kubelet(tmp_path, between=lambda step: seen.append((step, source.read())))
    kubelet.write({"models.json": b"[1]"})
    del seen[:]
    kubelet.write({"models.json": b"[2]"})
    assert [(step, found.raw) for step, found in seen] == [
        ("link", b"[1]"),
        ("rename", b"[1]"),
        ("user links", b"[2]"),
        ("remove old", b"[2]"),
    ]


def test_a_kubelet_that_swaps_without_rest_is_never_read_as_missing_or_mixed(kubelet, source):
    versions = [b"[%d]" % number * 5000 for number in range(2)]
    stop = threading.Event()

    def swap_on() -> None:
        while not stop.is_set():
            for raw in versions:
                kubelet.write({"models.json": raw})

    kubelet.write({"models.json": versions[0]})
    writer = threading.Thread(target=swap_on)
    writer.start()
    try:
        found = {source.read() for _ in range(2000)}
    finally:
        stop.set()
        writer.join()
    assert {getattr(document, "raw", document) for document in found} == set(versions)


def test_a_file_edited_in_place_during_the_reading_is_read_again(tmp_path):
    """A writer that truncates and writes is not atomic; what is returned was whole at one instant."""
    source, path = ConfigSource(tmp_path), tmp_path / "models.json"
    path.write_bytes(b"a" * 3_000_000)
    stop = threading.Event()

    def edit_on() -> None:
        while not stop.is_set():
            for letter in b"ab":
                path.write_bytes(bytes([letter]) * 3_000_000)

    writer = threading.Thread(target=edit_on)
    writer.start()
    try:
        found = [source.read() for _ in range(20)]
    finally:
        stop.set()
        writer.join()
    mixed = [set(each.raw) for each in found if isinstance(each, Document)]
    assert all(len(letters) <= 1 for letters in mixed)
