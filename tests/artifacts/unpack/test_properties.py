"""Laws: any tree comes back as packed; no bytes make the reader write outside, hang or crash."""

import contextlib
import gzip
import io
import tarfile
import zipfile

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.artifacts.unpack.wire import Member, Written, decode, encode
from agent.core.archive import ArchiveKind
from agent.core.errors import TerminalError
from tests.artifacts.unpack.conftest import Bench
from tests.artifacts.unpack.making import Zipped, deflated, header, make_zip, member, pax, tar

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\:"), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."} and len(name.encode()) < 200)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
TREES = st.dictionaries(PATHS, st.binary(max_size=3000), min_size=1, max_size=8).filter(
    lambda tree: stands(tree.keys())
)


def stands(paths) -> bool:
    """Whether these paths can be files beside each other, case aside."""
    nodes: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            node = "/".join(parts[:depth])
            if nodes.setdefault(node.casefold(), node) != node:
                return False
    folded = [path.casefold() for path in paths]
    return not any(other.startswith(f"{path}/") for path in folded for other in folded)


def packed(kind: ArchiveKind, tree: dict[str, bytes], tar_format: int) -> bytes:
    file = io.BytesIO()
    if kind is ArchiveKind.ZIP:
        method = zipfile.ZIP_DEFLATED if len(tree) % 2 else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", method) as archive:
            for path, content in tree.items():
                archive.writestr(zipfile.ZipInfo(path), content, method)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for path, content in tree.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    squeeze = {
        ArchiveKind.TAR: bytes,
        ArchiveKind.TAR_GZ: gzip.compress,
        ArchiveKind.TAR_ZST: zstandard.compress,
    }
    return squeeze[kind](file.getvalue())


RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@RELAXED
@given(TREES, st.sampled_from(ArchiveKind), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_tree_packed_by_the_standard_library_comes_back_as_it_was(
    tmp_path_factory, tree, kind, tar_format
):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    assert bench.here(packed(kind, tree, tar_format), kind) == tree


SEEDS = {
    ArchiveKind.TAR: tar(
        pax(path="d/é"),
        member(b"a", b"x" * 700),
        member(b"b" * 90, b"y"),
        member(b"\0", b"z\0", b"L"),
        member(b"c"),
    ),
    ArchiveKind.ZIP: make_zip(
        Zipped(b"a", b"x" * 900, 8, deflated(b"x" * 900)),
        Zipped(b"d/b", b"yy"),
        Zipped(b"e", b""),
        comment=b"c",
    ),
}
LAYER = tar(
    member(b"etc/passwd", b"x" * 700),
    header(b"bin/sh", 0, b"2", link=b"busybox"),
    member(b"d/.wh.a", b""),
    header(b"d/e/", 0, b"5"),
    pax(path="d/e/f"),
    member(b"f", b"y" * 900),
    member(b".wh..wh..opq", b""),
)
SEEDS[ArchiveKind.TAR_GZ] = gzip.compress(SEEDS[ArchiveKind.TAR])
SEEDS[ArchiveKind.TAR_ZST] = zstandard.ZstdCompressor(write_checksum=True).compress(SEEDS[ArchiveKind.TAR])

PLACES = st.integers(min_value=0, max_value=1 << 16)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), PLACES, st.just(b"")),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=600)),
        st.tuples(st.just("double"), PLACES, st.just(b"")),
    ),
    min_size=1,
    max_size=5,
)


def changed(raw: bytes, changes, *, right_checksums: bool) -> bytes:
    for what, place, data in changes:
        at = place % (len(raw) + 1)
        match what:
            case "set":
                raw = raw[:at] + data + raw[at + len(data) :]
            case "cut":
                raw = raw[:at]
            case "insert":
                raw = raw[:at] + data + raw[at:]
            case _:
                raw = raw + raw[at:]
    return resummed(raw) if right_checksums else raw


def resummed(raw: bytes) -> bytes:
    """Give each block that could be a header the checksum it should have, so that deeper code is reached."""
    blocks = [bytearray(raw[at : at + 512]) for at in range(0, len(raw), 512)]
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@settings(RELAXED, max_examples=600)
@given(st.sampled_from(ArchiveKind), CHANGES, st.booleans())
def test_mutated_archives_are_unpacked_or_refused_and_nothing_else(
    tmp_path_factory, kind, changes, right_checksums
):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    raw = changed(SEEDS[kind], changes, right_checksums=right_checksums and kind is ArchiveKind.TAR)
    with contextlib.suppress(TerminalError):
        bench.here(raw, kind, total_bytes=1 << 24)
    bench.holds_only_own_files()


@settings(RELAXED, max_examples=300)
@given(CHANGES, st.booleans(), st.sampled_from(["d", "a", "etc"]))
def test_mutated_layers_are_unpacked_or_refused_and_nothing_else(
    tmp_path_factory, changes, right_checksums, below
):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    raw = changed(LAYER, changes, right_checksums=right_checksums)
    with contextlib.suppress(TerminalError):
        bench.here(raw, ArchiveKind.TAR, below=below, total_bytes=1 << 24)
    bench.holds_only_own_files()


@RELAXED
@given(TREES, TREES)
def test_of_a_layer_the_folder_comes_back_as_it_was_and_nothing_else(tmp_path_factory, tree, other):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    inside = {f"models/{path}": content for path, content in tree.items() if ".wh." not in path}
    raw = packed(ArchiveKind.TAR, {f"usr/{path}": b"x" for path in other} | inside, tarfile.PAX_FORMAT)
    wanted = {path.removeprefix("models/"): content for path, content in inside.items()}
    assert bench.here(raw, ArchiveKind.TAR, below="models") == wanted


@settings(RELAXED, max_examples=400)
@given(st.sampled_from(ArchiveKind), st.binary(max_size=2000))
def test_any_bytes_after_the_right_magic_are_refused_or_unpacked(tmp_path_factory, kind, junk):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    with contextlib.suppress(TerminalError):
        bench.here(SEEDS[kind][:30] + junk, kind, total_bytes=1 << 24)
    bench.holds_only_own_files()


@settings(RELAXED, max_examples=25)
@given(kind=st.sampled_from(ArchiveKind), changes=CHANGES)
async def test_the_child_and_its_parent_survive_mutated_archives_and_leave_all_or_nothing(
    tmp_path_factory, kind, changes
):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    try:
        await bench.unpack(changed(SEEDS[kind], changes, right_checksums=False), kind)
    except TerminalError:
        assert bench.is_empty()
    bench.holds_only_own_files()


@given(PATHS, st.integers(min_value=0))
def test_what_the_child_says_is_what_the_parent_hears(path, size):
    for message in (Member(path, size, "ab", "cd"), Written(size)):
        line = encode(message)
        assert decode(line) == message
        assert line.count(b"\n") == 1


@given(
    st.one_of(
        st.binary(),
        st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: repr(x).encode()),
    )
)
def test_any_line_is_a_message_or_a_value_error(line):
    with contextlib.suppress(ValueError):
        decode(line)
