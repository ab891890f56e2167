"""Hostile and odd zips: faults A1, A2, A3, A7, A8, A9."""

import io
import struct
import zipfile
import zlib

import pytest

from agent.core.archive import ArchiveKind
from tests.artifacts.unpack.making import Zipped, deflated, make_zip
from tests.artifacts.unpack.test_tar import OUTSIDE

ZIP = ArchiveKind.ZIP
CONTENT = bytes(range(256)) * 20


def test_stored_and_deflated_members_and_folders_are_read(bench):
    raw = make_zip(
        Zipped(b"d/", b"", central={"attributes": 0o40755 << 16}),
        Zipped(b"d/a", CONTENT),
        Zipped(b"./b", CONTENT, 8, deflated(CONTENT)),
        Zipped(b"empty", b""),
    )
    assert bench.here(raw, ZIP) == {"d/a": CONTENT, "b": CONTENT, "empty": b""}


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name != b"\xff\xfe"])
def test_a_path_that_leads_out_or_that_no_file_should_have_is_refused(bench, name):
    bench.refuses(make_zip(Zipped(name)), ZIP, "member")
    assert bench.is_empty()


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010644, 0o140644, 0o040755])
def test_links_devices_and_folders_in_a_files_clothes_are_refused(bench, mode):
    bench.refuses(make_zip(Zipped(central={"attributes": mode << 16})), ZIP, "link or a device")
    bench.refuses(make_zip(Zipped(central={"attributes": mode << 16, "host": 0})), ZIP, "link or a device")


def test_a_folder_with_content_is_refused(bench):
    bench.refuses(make_zip(Zipped(b"d/", b"x", central={"attributes": 0})), ZIP, "has content")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40, 0x2000])
def test_encrypted_members_are_refused(bench, flag):
    bench.refuses(make_zip(Zipped(central={"flags": flag}, local={"flags": flag})), ZIP, "encrypted")


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 99])
def test_methods_that_are_not_known_are_refused_by_number(bench, method):
    bench.refuses(make_zip(Zipped(method=method)), ZIP, f"method {method}")


@pytest.mark.parametrize(
    "local", [{"name": b"other.bin"}, {"method": 8}, {"crc": 1}, {"size": 1}, {"packed": 1}, {"flags": 0x8}]
)
def test_a_local_header_that_says_otherwise_than_the_directory_is_refused(bench, local):
    bench.refuses(make_zip(Zipped(local=local)), ZIP, "two things")


def test_members_that_overlap_are_refused(bench):
    one, two = Zipped(b"a", CONTENT), Zipped(b"a", CONTENT, central={"offset": 0})
    bench.refuses(make_zip(one, two), ZIP, "overlaps|twice")
    quoted = make_zip(Zipped(b"b", CONTENT))
    inner = Zipped(b"b", CONTENT, central={"offset": 31})
    bench.refuses(make_zip(Zipped(b"a", quoted), inner), ZIP, "overlaps")


def test_a_member_that_reaches_into_the_directory_is_refused(bench):
    lie = {"packed": 200, "size": 200}
    bench.refuses(make_zip(Zipped(central=lie, local=lie)), ZIP, "reaches beyond")


def test_names_that_collide_are_refused(bench):
    bench.refuses(make_zip(Zipped(b"a"), Zipped(b"a")), ZIP, "twice")
    bench.refuses(make_zip(Zipped(b"A"), Zipped(b"a")), ZIP, "case alone")
    bench.refuses(make_zip(Zipped(b"a"), Zipped(b"a/b")), ZIP, "file and a folder")


def test_a_declared_size_that_the_data_does_not_have_is_refused(bench):
    for size in (len(CONTENT) - 1, len(CONTENT) + 1):
        lie = {"size": size}
        packed = Zipped(b"a", CONTENT, 8, deflated(CONTENT), central=lie, local=lie)
        bench.refuses(make_zip(packed), ZIP, "does not hold")
        bench.refuses(make_zip(Zipped(b"a", CONTENT, central=lie, local=lie)), ZIP, "does not hold")


def test_data_that_does_not_match_its_checksum_is_refused(bench):
    bench.refuses(make_zip(Zipped(b"a", b"right", packed=b"wrong")), ZIP, "checksum")


def test_deflated_data_that_is_damaged_short_or_followed_by_more_is_refused(bench):
    good = deflated(CONTENT)
    for packed in (b"\xff" * 40, good[:-1], good[: len(good) // 2], good + b"more"):
        bench.refuses(make_zip(Zipped(b"a", CONTENT, 8, packed)), ZIP, "damaged|does not end|does not hold")


def test_sizes_after_the_data_are_read_from_the_directory(bench):
    later = {"flags": 0x8, "crc": 0, "size": 0, "packed": 0}
    raw = make_zip(
        Zipped(b"a", CONTENT, 8, deflated(CONTENT), local=later, central={"flags": 0x8}),
        Zipped(b"b"),
        between=b"PK\7\x08" + bytes(12),
    )
    assert bench.here(raw, ZIP) == {"a": CONTENT, "b": b"content"}


def test_an_end_record_that_lies_is_refused(bench):
    member = Zipped()
    bench.refuses(make_zip(member, count=2, here=2), ZIP, "several parts|fewer entries|more than one")
    bench.refuses(make_zip(member, Zipped(b"b"), here=1), ZIP, "several parts")
    bench.refuses(make_zip(member, disk=1), ZIP, "several parts")
    bench.refuses(make_zip(member, offset=0), ZIP, "not where its end record says")
    bench.refuses(make_zip(member, size=3), ZIP, "not where its end record says")
    bench.refuses(b"PK\3\4" + make_zip(member), ZIP, "not where its end record says")
    bench.refuses(make_zip(member) + b"trailing", ZIP, "no end record")
    bench.refuses(make_zip(member)[:-1], ZIP, "no end record")


def test_two_end_records_that_both_fit_are_refused(bench):
    """What the first comment hides, another reader would unpack."""
    hidden = make_zip(Zipped(b"evil"))
    bench.refuses(make_zip(Zipped(b"good"), comment=hidden), ZIP, "more than one|not where")


def test_a_plain_comment_is_passed_over(bench):
    assert bench.here(make_zip(Zipped(b"a"), comment=b"by hand"), ZIP) == {"a": b"content"}


def zip64_end(directory_at: int, directory_size: int, *, at: int, count: int = 1) -> bytes:
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, directory_size, directory_at
    )
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)


def long_zip(**lies: int) -> bytes:
    """A small zip in zip64 clothes: sizes and offset in the extra field, counts in the zip64 end record."""
    extra = struct.pack("<2H3Q", 1, 24, 7, 7, 0)
    unsaid = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": extra}
    local = unsaid | {"extra": struct.pack("<2H2Q", 1, 16, 7, 7)}
    member = Zipped(b"a", central=unsaid | {"offset": 0xFFFFFFFF}, local=local)
    size = 46 + 1 + len(extra)
    at = len(make_zip(member)) - 22 - size
    end64 = {"directory_at": at, "directory_size": size, "at": at + size} | lies
    middle = zip64_end(
        end64["directory_at"], end64["directory_size"], at=end64["at"], count=end64.get("count", 1)
    )
    return make_zip(member, middle=middle, size=end64.get("short_size", 0xFFFFFFFF), offset=0xFFFFFFFF)


def test_zip64_is_read(bench):
    assert bench.here(long_zip(), ZIP) == {"a": b"content"}


@pytest.mark.parametrize(
    "lies",
    [{"at": 3}, {"directory_at": 0}, {"directory_size": 9}, {"count": 2}, {"short_size": 9}, {"at": 1 << 40}],
)
def test_zip64_that_lies_is_refused(bench, lies):
    bench.refuses(long_zip(**lies), ZIP, "zip")


def test_a_zip64_field_that_is_missing_or_short_is_refused(bench):
    bench.refuses(make_zip(Zipped(central={"size": 0xFFFFFFFF})), ZIP, "zip64 field")
    short = {"size": 0xFFFFFFFF, "extra": struct.pack("<2HL", 1, 4, 7)}
    bench.refuses(make_zip(Zipped(central=short)), ZIP, "zip64 field")


def test_a_directory_of_more_members_than_allowed_is_refused_before_it_is_read(bench):
    bench.refuses(make_zip(*[Zipped(b"%d" % number) for number in range(12)]), ZIP, "12 members", members=10)


@pytest.mark.parametrize(
    ("flags", "raw_name"), [(0x800, "é.bin".encode()), (0, "é.bin".encode()), (0, b"\x82.bin")]
)
def test_names_in_utf8_said_or_unsaid_and_in_code_page_437_are_read(bench, flags, raw_name):
    member = Zipped(raw_name, central={"flags": flags}, local={"flags": flags})
    assert bench.here(make_zip(member), ZIP) == {"é.bin": b"content"}


def test_a_name_that_says_utf8_and_is_none_is_refused(bench):
    bench.refuses(
        make_zip(Zipped(b"\x82", central={"flags": 0x800}, local={"flags": 0x800})), ZIP, "no UTF-8"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("seekable", [True, False])
def test_what_pythons_zipfile_writes_is_read(bench, method, seekable):
    file = io.BytesIO()
    if not seekable:
        file.seekable = lambda: False
        file.tell = lambda: (_ for _ in ()).throw(OSError("a pipe"))
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("d/é", CONTENT * 50)
        archive.writestr("b", b"")
    assert bench.here(file.getvalue(), ZIP) == {"d/é": CONTENT * 50, "b": b""}


def test_the_classic_overlapping_bomb_is_refused_at_once(bench):
    """Many directory entries that share one kernel of deflated zeros (Fifield's construction in small)."""
    kernel = Zipped(b"0", bytes(1 << 20), 8, deflated(bytes(1 << 20)))
    entries = [
        Zipped(b"0", bytes(1 << 20), 8, b"", central={"offset": 0, "packed": len(kernel.packed)})
        for _ in range(9)
    ]
    bench.refuses(make_zip(kernel, *entries), ZIP, "overlaps")
    assert zlib.crc32(bytes(1 << 20)) == kernel.fields(b"")["crc"]
