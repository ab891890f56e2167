"""Hostile and odd tars: faults A1 to A5, A8, A9."""

import gzip
import io
import struct
import tarfile

import pytest

from agent.core.archive import ArchiveKind
from tests.artifacts.unpack.making import header, member, padded, pax, tar

TAR = ArchiveKind.TAR
OUTSIDE = [
    b"../evil",
    b"a/../../evil",
    b"./../evil",
    b"/etc/evil",
    b"//evil",
    b"a//b",
    b"a/./b",
    b"..",
    b"a/..",
    b"\\\\?\\evil",
    b"a\\b",
    b"C:\\evil",
    b"C:evil",
    b"a\nb",
    b"\x1b[31m",
    b"\xff\xfe",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_that_leads_out_or_that_no_file_should_have_is_refused(bench, name):
    bench.refuses(tar(member(name, b"x")), TAR, "member")
    assert bench.is_empty()


def test_the_same_holds_for_long_names_prefixes_folders_and_pax(bench):
    bench.refuses(tar(member(b"x", b"../evil\0", b"L"), member(b"a", b"x")), TAR, "cannot be laid down")
    bench.refuses(tar(member(b"evil", b"x", prefix=b"..")), TAR, "cannot be laid down")
    bench.refuses(tar(pax(path="../evil"), member(b"a", b"x")), TAR, "cannot be laid down")
    bench.refuses(tar(pax(path=b"a\0b"), member(b"a", b"x")), TAR, "cannot be laid down")
    bench.refuses(tar(header(b"../evil/", 0, b"5"), member(b"a", b"x")), TAR, "cannot be laid down")
    bench.refuses(tar(member(b"./", b"")), TAR, "only files and folders")
    bench.refuses(tar(member(b".", b"")), TAR, "no name")


@pytest.mark.parametrize("long_name", ["a" * 256, "/".join("a" * 40), "/".join(["b" * 200] * 20)])
def test_paths_that_are_too_long_or_too_deep_are_refused(bench, long_name):
    bench.refuses(tar(pax(path=long_name), member(b"a", b"x")), TAR, "cannot be laid down")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"M", b"D", b"Z", b"\xe9"])
def test_links_devices_sparse_files_and_unknown_types_are_refused(bench, kind):
    bench.refuses(tar(header(b"link", 0, kind, link=b"/etc/passwd")), TAR, "only files and folders")
    bench.refuses(tar(header(b"", 0, kind, link=b"")), TAR, "only files and folders")


def test_sparse_files_in_pax_clothes_are_refused(bench):
    bench.refuses(tar(pax(GNU__sparse__major="1"), member(b"a", b"x")), TAR, "sparse")


def test_modes_and_owners_of_the_archive_count_for_nothing(bench):
    assert bench.here(tar(member(b"a", b"x", mode=0o6777), member(b"b", b"y", mode=0)), TAR) == {
        "a": b"x",
        "b": b"y",
    }
    assert {path.stat().st_mode & 0o7777 for path in bench.folder.iterdir()} == {0o644}


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_that_claims_gibibytes_is_refused_before_it_is_read(bench, kind):
    bench.refuses(tar(header(b"pax", 1 << 30, kind)), TAR, "claims 1073741824 bytes")


def test_a_chain_of_extended_headers_is_refused(bench):
    bench.refuses(tar(*[pax(comment="x")] * 9, member(b"a", b"x")), TAR, "too many")
    bench.refuses(tar(member(b"a", b"x"), pax(path="b")), TAR, "ends after an extended header")


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"5 a=b",
        b"99 path=a\n",
        b"0 path=a\n",
        b"-9 path=a\n",
        b"11 path=ab\n\n",
        b"9 path a\n",
        b"9" * 40,
        b" 9 path=a\n",
    ],
)
def test_malformed_pax_records_are_refused(bench, content):
    bench.refuses(tar(member(b"pax", content, b"x"), member(b"a", b"x")), TAR, "pax header")


def test_ambiguous_pax_records_are_refused(bench):
    bench.refuses(tar(member(b"pax", b"10 path=a\n" * 2, b"x"), member(b"a")), TAR, "malformed|twice")
    bench.refuses(tar(member(b"pax", b"9 path=a\n9 path=b\n", b"x"), member(b"a")), TAR, "twice")
    bench.refuses(tar(pax(b"g", path="a"), member(b"b", b"x")), TAR, "global")
    bench.refuses(tar(pax(hdrcharset="BINARY"), member(b"b", b"x")), TAR, "UTF-8")
    bench.refuses(tar(pax(size="-1"), member(b"b", b"x")), TAR, "illegal number")


def test_a_size_in_pax_is_the_size(bench):
    assert bench.here(tar(pax(size="3"), header(b"a", 0), padded(b"abc")), TAR) == {"a": b"abc"}


@pytest.mark.parametrize(
    "size", [b"-0000000001\0", b"\xff" * 12, b"0x10       \0", b"00000000009\0", b"1 1\0"]
)
def test_a_size_that_is_no_octal_number_is_refused(bench, size):
    bench.refuses(tar(header(b"a", size)), TAR, "no legal size|wrong checksum|member")


def test_a_binary_size_is_read_and_a_huge_one_refused_before_a_byte_is_written(bench):
    small = b"\x80" + (3).to_bytes(11, "big")
    assert bench.here(tar(header(b"a", small), padded(b"abc")), TAR) == {"a": b"abc"}
    huge = b"\x80" + (1 << 70).to_bytes(11, "big")
    bench.refuses(tar(header(b"b", huge)), TAR, "bytes may be written")


def test_names_that_collide_are_refused(bench):
    bench.refuses(tar(member(b"a", b"x"), member(b"a", b"y")), TAR, "twice")
    bench.refuses(tar(member(b"a", b"x"), member(b"./a", b"y")), TAR, "twice")
    bench.refuses(tar(member(b"README", b"x"), member(b"readme", b"y")), TAR, "case alone")
    bench.refuses(tar(member(b"D/x", b"x"), member(b"d/y", b"y")), TAR, "case alone")
    bench.refuses(tar(member(b"a", b"x"), member(b"a/b", b"y")), TAR, "file and a folder")
    bench.refuses(tar(member(b"a/b", b"x"), member(b"a", b"y")), TAR, "file and a folder")
    bench.refuses(tar(header(b"a/", 0, b"5"), member(b"a", b"y")), TAR, "file and a folder")


def test_a_declared_size_that_the_data_does_not_have_is_refused(bench):
    whole = tar(member(b"a", b"x" * 2000))
    for size in (100, 512, 600, 2100, 2560, 3071):
        bench.refuses(whole[:size], TAR, "cut short")
    bench.refuses(header(b"a", 5) + padded(b"x" * 600) + bytes(1024), TAR, "checksum")


def test_an_archive_cut_at_a_member_or_without_its_end_mark_is_refused(bench):
    bench.refuses(member(b"a", b"x"), TAR, "cut short")
    bench.refuses(b"", TAR, "cut short")


def test_one_end_block_is_enough_and_data_after_it_is_refused(bench):
    assert bench.here(member(b"a", b"x") + bytes(512), TAR) == {"a": b"x"}
    assert bench.here(tar(member(b"a", b"x")) + bytes(10240), TAR) == {"a": b"x"}
    bench.refuses(tar(member(b"a", b"x")) + tar(member(b"b", b"x")), TAR, "after its end mark")


def test_a_damaged_header_is_refused(bench):
    raw = bytearray(tar(member(b"a", b"x"), member(b"b", b"x")))
    raw[1024] ^= 1
    bench.refuses(bytes(raw), TAR, "wrong checksum")


def test_the_usual_tar_of_a_folder_unpacks_with_its_leading_dot(bench):
    """KServe's agent refuses it whole."""
    raw = tar(
        header(b"./", 0, b"5"), header(b"./sub/", 0, b"5"), member(b"./sub/a", b"x"), member(b"././b", b"y")
    )
    assert bench.here(raw, TAR) == {"sub/a": b"x", "b": b"y"}


def test_a_name_with_two_dots_inside_is_a_name(bench):
    """KServe's agent refuses it."""
    assert bench.here(tar(member(b"x..y", b"x"), member(b"..a", b"y")), TAR) == {"x..y": b"x", "..a": b"y"}


def test_tars_from_before_posix_and_volume_labels_are_read(bench):
    raw = tar(
        header(b"label", 0, b"V"),
        header(b"d/", 0, b"\0", magic=b""),
        member(b"d/a", b"x", b"\0", magic=b""),
        member(b"b", b"y", b"7"),
    )
    assert bench.here(raw, TAR) == {"d/a": b"x", "b": b"y"}


def test_gnu_times_in_the_place_of_the_prefix_are_no_prefix(bench):
    raw = tar(member(b"a", b"x", magic=b"ustar  \0", prefix=b"14700000000"))
    assert bench.here(raw, TAR) == {"a": b"x"}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_pythons_tarfile_writes_is_read(bench, tar_format):
    names = ["a", "d/" + "n" * 90, "é" if tar_format != tarfile.USTAR_FORMAT else "e"]
    names += ["/".join(["deep" * 12] * 4)]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert bench.here(file.getvalue(), TAR) == dict.fromkeys(names, b"abc")


def test_a_gzip_of_several_members_is_read_to_its_end_and_garbage_after_it_is_refused(bench):
    raw = tar(member(b"a", b"x" * 5000))
    parts = gzip.compress(raw[:700]) + gzip.compress(raw[700:])
    assert bench.here(parts, ArchiveKind.TAR_GZ) == {"a": b"x" * 5000}
    assert bench.here(parts + bytes(512), ArchiveKind.TAR_GZ) == {"a": b"x" * 5000}
    bench.refuses(parts + b"garbage", ArchiveKind.TAR_GZ, "gzip stream is damaged")


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 100, 400])
def test_a_gzip_that_is_cut_short_anywhere_is_refused(bench, cut):
    raw = gzip.compress(tar(member(b"a", struct.pack("<2000H", *range(2000)))))
    bench.refuses(raw[:-cut], ArchiveKind.TAR_GZ, "cut short")


def test_a_flipped_bit_in_a_gzip_is_refused(bench):
    raw = bytearray(gzip.compress(tar(member(b"a", bytes(range(256)) * 30)), 0))
    raw[3000] ^= 1
    bench.refuses(bytes(raw), ArchiveKind.TAR_GZ, "gzip stream is damaged")
