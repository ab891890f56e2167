"""Which object is unpacked: the bytes say what it is, name and media type whether that is meant."""

import gzip
import io
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.core.archive import ARCHIVE_SUFFIXES, HEAD_BYTES, MODEL_SUFFIXES, ArchiveKind, archive_kind
from agent.core.errors import TerminalError
from agent.core.reasons import Reason


def tar_of(content: bytes, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        member = tarfile.TarInfo("model.bin")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.bin", content)
    return file.getvalue()


NOISE = bytes(range(256)) * 4000
BYTES = {
    ArchiveKind.TAR: tar_of(NOISE),
    ArchiveKind.TAR_GZ: gzip.compress(tar_of(NOISE)),
    ArchiveKind.TAR_ZST: zstandard.compress(tar_of(NOISE)),
    ArchiveKind.ZIP: zip_of(NOISE),
}
KINDS = st.sampled_from(ArchiveKind)


@given(KINDS, st.sampled_from(ARCHIVE_SUFFIXES), st.sampled_from([None, "text/html", "application/zip"]))
def test_a_promised_archive_is_what_its_bytes_are_whatever_name_and_media_type_say(kind, suffix, media_type):
    assert archive_kind(f"Model{suffix.upper()}", media_type, BYTES[kind][:HEAD_BYTES]) is kind


@given(
    KINDS, st.sampled_from(sorted(MODEL_SUFFIXES)), st.sampled_from(["application/zip", "application/gzip"])
)
def test_a_model_file_is_never_unpacked(kind, suffix, media_type):
    assert archive_kind(f"model{suffix}", media_type, BYTES[kind]) is None


@pytest.mark.parametrize("name", ["download", "v1.0", "model.gz", "model.zst", "", "7"])
def test_under_a_name_that_tells_nothing_the_media_type_decides(name):
    for kind, raw in BYTES.items():
        assert archive_kind(name, "application/x-gzip; charset=x", raw) is kind
        assert archive_kind(name, "application/octet-stream", raw) is None
        assert archive_kind(name, None, raw) is None


@pytest.mark.parametrize(
    "raw", [b"", b"GIF89a", gzip.compress(b"one,two", mtime=0), zstandard.compress(b"one"), bytes(2048)]
)
def test_a_media_type_alone_makes_nothing_an_archive(raw):
    assert archive_kind("model", "application/zip", raw) is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\n<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML document"),
        (b'{"error": "secret"}', "a JSON document"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"", "empty"),
        (gzip.compress(b"plain text", mtime=0), "a gzip stream with no tar in it"),
        (zstandard.compress(b"plain text"), "a zstd stream with no tar in it"),
        (b"\x80\x02}q", "80 02 7d 71"),
        (bytes(1024), "neither zip"),
    ],
)
def test_a_promise_that_the_bytes_do_not_keep_is_refused_saying_what_they_are(raw, words):
    with pytest.raises(TerminalError, match=words) as caught:
        archive_kind("model.tar.gz", "application/gzip", raw)
    assert caught.value.reason is Reason.ARCHIVE_REFUSED
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_of_each_format_is_known(tar_format):
    assert archive_kind("m.tar", None, tar_of(b"x", tar_format)) is ArchiveKind.TAR


@given(st.binary(max_size=700), st.sampled_from(["m.zip", "m", "m.pt"]))
def test_any_bytes_are_an_archive_a_file_or_refused(head, name):
    if name == "m.zip" and not head.startswith(b"PK"):
        with pytest.raises(TerminalError):
            archive_kind(name, "application/zip", head)
    else:
        assert archive_kind(name, "application/zip", head) in {None, ArchiveKind.ZIP}


@given(KINDS, st.integers(min_value=0, max_value=600))
def test_a_head_that_is_cut_short_is_no_error_for_an_unpromised_archive(kind, size):
    assert archive_kind("m", "application/zip", BYTES[kind][:size]) in {None, kind}
