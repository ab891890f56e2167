"""Layers of images: what is below the model's folder, by the rules of any archive, and nothing else."""

import gzip

import pytest

from agent.artifacts.unpack.run import unpack_layer
from agent.core.archive import ArchiveKind, layer_kind
from agent.core.errors import TerminalError
from agent.core.layers import Hides
from tests.artifacts.unpack.making import header, member, pax, tar

IDENTITY = "oci:sha256:1#models"


async def laid(bench, raw):
    """Unpack a layer in a child; what it has, and what it hides."""
    bench.put(raw)
    layer = await unpack_layer(bench.archive, layer_kind(raw), bench.folder, IDENTITY, below="models")
    return bench.read(tuple(layer.files.values())), list(layer.hidden)


ELSEWHERE = [
    header(b"bin/sh", 0, b"2", link=b"busybox"),
    header(b"bin/ls", 700, b"1", link=b"bin/busybox"),  # a size, and no content, as some write hard links
    header(b"dev/null", 0, b"3"),
    header(b"dev/sda", 0, b"4"),
    header(b"run/fifo", 0, b"6"),
    header(b"etc/", 0, b"5"),
    member(b"etc/passwd", b"root" * 200),
    member(b"../models/evil", b"x"),
    member(b"x/../models/evil", b"x"),
    member(b"models2/a", b"x"),
    member(b"Models/a", b"x"),
    member(b"etc/\\odd\nname", b"x"),
    member(b"etc/.wh.gone", b""),
    header(b"./", 0, b"5"),
]


async def test_what_is_elsewhere_is_passed_over_whatever_it_is(bench):
    raw = tar(*ELSEWHERE, member(b"models/model.bin", b"good"), *ELSEWHERE)
    assert await laid(bench, raw) == ({"model.bin": b"good"}, [])


@pytest.mark.parametrize("name", [b"models/sub/a", b"./models/sub/a", b"/models/sub/a", b"././/models/sub/a"])
async def test_the_folder_is_found_however_layers_write_the_root(bench, name):
    assert await laid(bench, gzip.compress(tar(member(name, b"x")))) == ({"sub/a": b"x"}, [])


async def test_a_layer_may_have_nothing_and_one_that_is_cut_short_is_refused(bench):
    empty = bytes(1024)
    assert await laid(bench, empty) == await laid(bench, gzip.compress(empty)) == ({}, [])
    for raw in (b"", b"\0" * 100, gzip.compress(empty)[:-4], tar(member(b"etc/x", b"y" * 5000))[:1024]):
        with pytest.raises(TerminalError, match="cut short"):
            await laid(bench, raw)
    assert bench.is_empty()


async def test_what_a_layer_takes_away_is_told_below_the_folder_and_nowhere_else(bench):
    raw = tar(
        member(b"models/.wh.old.bin", b""),
        member(b"models/sub/.wh..wh..opq", b""),
        header(b"models/new/", 0, b"5"),
        header(b"models/", 0, b"5"),
        member(b"etc/.wh.models", b""),
    )
    hidden = [("old.bin", Hides.ALL), ("sub", Hides.BELOW), ("new", Hides.FILE)]
    assert await laid(bench, raw) == ({}, hidden)
    for name in (b".wh.models", b"./.wh.models"):
        assert await laid(bench, tar(member(name, b""))) == ({}, [("", Hides.ALL)])
    for name in (b".wh..wh..opq", b"models/.wh..wh..opq"):
        assert await laid(bench, tar(member(name, b""))) == ({}, [("", Hides.BELOW)])


@pytest.mark.parametrize(
    "raw",
    [
        tar(member(b"models/../evil", b"x")),
        tar(member(b"models//etc/evil", b"x")),
        tar(member(b"models/a\\b", b"x")),
        tar(pax(path="models/../../evil"), member(b"a", b"x")),
        tar(member(b"models/.wh...", b"")),
        tar(member(b"models/.wh..", b"")),
        tar(header(b"models/link", 0, b"2", link=b"/etc/passwd")),
        tar(header(b"models/hard", 0, b"1", link=b"etc/passwd")),
        tar(header(b"models", 0, b"2", link=b"/etc")),
        tar(header(b"models/dev", 0, b"3")),
        tar(member(b"models", b"x")),
        tar(member(b"models/a", b"x"), member(b"models/a", b"y")),
        tar(header(b"etc/sparse", 0, b"S")),
    ],
)
async def test_below_the_folder_the_rules_of_any_archive_hold(bench, raw):
    with pytest.raises(TerminalError, match="ArchiveRefused"):
        await laid(bench, raw)
    bench.holds_only_own_files()
    assert bench.is_empty()


async def test_a_plain_archive_has_no_whiteouts(bench):
    raw = tar(member(b"models/.wh.a", b"x"))
    assert await bench.unpack(raw, ArchiveKind.TAR) == {"models/.wh.a": b"x"}
