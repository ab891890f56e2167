"""A download in ranges: what it knows survives, is settled once, and a disk that hangs hangs nobody else."""

import asyncio
import os
import socket
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.artifacts.engine.dial import route_of
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.exchange import Connection
from agent.artifacts.engine.http1 import Head
from agent.artifacts.engine.journal import Span, open_journal
from agent.artifacts.engine.pieces import Piece
from agent.artifacts.engine.ranged import Ranged
from agent.artifacts.engine.settings import MIB, EngineSettings
from agent.artifacts.engine.wire import PlainWire
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource
from tests.artifacts.engine_orders import FAST, LARGE, Orders
from tests.artifacts.engine_stands import SOURCE, StandCrew, order_in
from tests.fakes.faulty_origin import Fault
from tests.fakes.origin_provider import OriginAnswers

CONTENT = LARGE[: 9 * MIB]


def ranged(order, crew, **more):
    def start_thread(job):
        threading.Thread(target=job, daemon=True).start()

    download = Ranged(order, SOURCE, crew, boot="boot", start_thread=start_thread, now=0.0, **more)
    download.prepare()
    return download


def head_of(piece, size, **headers):
    words = {"content-range": f"bytes {piece.start}-{piece.stop - 1}/{size}"}
    return Head(206, words | headers, piece.stop - piece.start, chunked=False, keep_alive=True)


def begun(download, piece, **headers):
    download.begin(piece, head_of(piece, download.size, **headers))
    return piece


def written(download, piece, stop=None):
    download.write(piece, memoryview(CONTENT)[piece.at : stop or piece.stop])
    return piece


def all_pieces(download, **headers):
    """Take all pieces, each begun and written, none finished."""
    pieces = [written(download, begun(download, download.take(2, 1.0), **headers))]
    while (piece := download.take(2, 1.0)) is not None:
        pieces.append(written(download, begun(download, piece, **headers)))
    return pieces


def test_who_comes_to_retry_when_all_of_it_came_opens_nothing(tmp_path):
    """Another connection may bring a part whose retry still waits; a partial would be made of nothing."""
    order = order_in(tmp_path, len(CONTENT), settle=lambda _: (tmp_path / "part").rename(tmp_path / "whole"))
    crew = StandCrew()
    download = ranged(order, crew)
    for piece in all_pieces(download):
        download.finish(piece)
    assert crew.changed.wait(5)
    assert crew.done_ == [download]
    download.refreshed(SOURCE, 1.0)
    download.prepare()
    assert [each.name for each in tmp_path.iterdir() if each.name != "journal"] == ["whole"]
    assert download.take(1, 2.0) is None


@given(reads=st.lists(st.integers(1, 2 * MIB), max_size=20), start=st.integers(0, 2 * MIB))
def test_whatever_the_network_hands_over_less_than_a_mib_is_not_recorded(reads, start):
    """Reads end where records end, so that a crash costs no more than that (design §8.15)."""
    with tempfile.TemporaryDirectory() as folder:
        download = ranged(order_in(Path(folder), len(CONTENT)), StandCrew())
        connection = Connection(PlainWire(socket.socket()), route_of(SOURCE), 0.0)
        connection.piece = piece = Piece(download, SOURCE, start, len(CONTENT))
        download.begin(piece, head_of(piece, len(CONTENT)))
        for read in reads:
            if piece.at == piece.stop:
                break
            download.write(piece, memoryview(CONTENT)[piece.at : piece.at + min(read, connection.room)])
            assert piece.at - piece.mark < MIB
            assert (piece.at + connection.room) % MIB == 0
        connection.wire.close()


def test_two_last_pieces_that_end_at_once_settle_the_object_once(tmp_path):
    settled = []
    for _ in range(30):
        crew = StandCrew()
        download = ranged(order_in(tmp_path, len(CONTENT), settled.append), crew)
        *_, one, other = pieces = all_pieces(download)
        for piece in pieces[:-2]:
            download.finish(piece)
        start = threading.Barrier(2)

        def last(piece, download=download, start=start):
            start.wait()
            download.finish(piece)

        threads = [threading.Thread(target=last, args=(piece,)) for piece in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(crew.done_) == 1
        (tmp_path / "part").unlink()
        (tmp_path / "journal").unlink()
    assert {moved.size for moved in settled} == {len(CONTENT)}
    assert len(settled) == 30


DENIED = TerminalError(Reason.ACCESS_DENIED, "the token expired")
RENEWED = HttpSource("http://127.0.0.1/x?renewed", OriginAnswers())


def test_credentials_that_run_out_under_several_parts_are_asked_for_once_and_no_part_is_lost(tmp_path):
    """Each part was asked for with what had run out: only the first refusal of them is news."""
    crew = StandCrew()
    download = ranged(order_in(tmp_path, len(CONTENT)), crew)
    download.finish(written(download, begun(download, download.take(2, 1.0))))
    second, third = download.take(2, 1.0), download.take(2, 1.0)
    download.fail(second, DENIED)
    assert (len(crew.agains), crew.failures) == (1, [])
    assert download.take(2, 1.0) is None, "nobody is to be refused by the old ones meanwhile"
    download.refreshed(RENEWED, 1.0)
    download.fail(third, DENIED)
    assert (len(crew.agains), crew.failures) == (1, [])
    piece = download.take(2, 1.0)
    assert piece.source is RENEWED
    download.fail(piece, DENIED)
    assert crew.failures == [DENIED]


def test_credentials_may_run_out_once_more_after_a_part_came_by_the_new_ones(tmp_path):
    crew = StandCrew()
    download = ranged(order_in(tmp_path, len(CONTENT)), crew)
    download.finish(written(download, begun(download, download.take(2, 1.0))))
    for count in (1, 2):
        download.fail(download.take(2, 1.0), DENIED)
        assert (len(crew.agains), crew.failures) == (count, [])
        download.refreshed(replace(RENEWED), 1.0)
        if count == 1:
            download.finish(written(download, begun(download, download.take(2, 1.0))))


def test_what_the_journal_could_not_record_is_asked_for_again(tmp_path):
    crew, settled = StandCrew(), []
    download = ranged(order_in(tmp_path, len(CONTENT), settled.append), crew)
    (tmp_path / "journal").mkdir()  # no record can be written
    piece = written(download, begun(download, download.take(1, 1.0)), stop=100_000)
    with pytest.raises(Exception, match="directory"):
        download.finish(piece)
    download.fail(piece, TerminalError(Reason.STORAGE_ERROR, "broke off"))
    (tmp_path / "journal").rmdir()
    again = download.take(1, 1.0)
    assert (again.start, again.stop) == (piece.start, piece.stop)


def hanging(path):
    """Make a journal that hangs whoever opens it to write; returns what ends that."""
    os.mkfifo(path)
    handle = os.open(path, os.O_PATH)

    def release():
        reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK)
        os.close(handle)
        return reader

    return release


def test_a_disk_that_hangs_under_one_part_keeps_nobody_else_waiting(tmp_path):
    download = ranged(order_in(tmp_path, len(CONTENT)), StandCrew())
    release = hanging(tmp_path / "journal")
    piece = begun(download, download.take(2, 1.0))
    writer = threading.Thread(target=written, args=(download, piece))
    writer.start()
    while piece.at == piece.start:  # from here on it hangs in opening the journal
        time.sleep(0.001)
    assert download.take(2, 1.0) is not None
    assert not download.last(piece)
    download.call_for_help(piece, 100.0)
    download.give_up()
    assert writer.is_alive()
    reader = release()
    writer.join(5)
    os.close(reader)


async def test_a_disk_that_hangs_lets_its_model_be_cancelled_and_another_one_come(origin, tmp_path):
    for path, content in (("/x", LARGE), ("/y", LARGE[::-1])):
        origin.put(path, content)
    engine = Engine(EngineSettings(lanes=2, max_connections=2))  # one each
    orders = Orders(origin, tmp_path)
    (order,) = await orders.of("/x")
    releases = []
    origin.on_request = lambda _: releases or releases.append(hanging(order.journal))
    task = asyncio.ensure_future(engine.move([order]))
    while not releases or origin.sent_bytes < MIB:
        await asyncio.sleep(0.01)
    other = await orders.of("/y")
    async with asyncio.timeout(10):
        await engine.move(other)
    began = time.monotonic()
    task.cancel()
    await asyncio.wait([task])
    assert time.monotonic() - began < 1.5
    assert orders.read("/y") == LARGE[::-1]
    assert orders.litter() == []  # what is still written belongs to nobody
    engine.close()
    os.close(releases[0]())


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_preparing_that_was_given_up_leaves_all_as_it_is(tmp_path):
    order = order_in(tmp_path, len(CONTENT))
    first = ranged(order, StandCrew())
    first.fail(
        written(first, begun(first, first.take(1, 1.0)), stop=MIB), TerminalError(Reason.NOT_FOUND, "")
    )
    first.give_up()
    before, journal = descriptors(), (tmp_path / "journal").read_bytes()
    settled = []
    late = Ranged(order, SOURCE, StandCrew(), boot="after a reboot", start_thread=settled.append, now=0.0)
    late.give_up()
    with pytest.raises(RetryableError, match="no longer wanted"):
        late.prepare()
    assert (tmp_path / "journal").read_bytes() == journal
    assert descriptors() == before
    assert late.take(1, 1.0) is None
    assert settled == []


def test_a_bug_while_the_digest_is_settled_is_told(tmp_path):
    def broken(moved):
        raise ZeroDivisionError

    crew = StandCrew()
    order = order_in(tmp_path, len(CONTENT), broken, checksums={"sha256": "0" * 64})
    download = ranged(order, crew)
    for piece in all_pieces(download):
        download.finish(piece)
    assert crew.changed.wait(5)
    assert isinstance(crew.failures[0], ZeroDivisionError)


def refuse(moved):
    raise TerminalError(Reason.DISK_ERROR, "not now")


def told(moved):
    return dict(moved.told)


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c", "md5"])
def test_a_checksum_that_only_an_answer_told_is_known_after_a_restart(tmp_path, algorithm):
    checksum = {f"x-checksum-{algorithm}": "abc"}
    download = ranged(order_in(tmp_path, len(CONTENT), refuse), StandCrew())
    for piece in all_pieces(download, **checksum):
        download.finish(piece)
    settled, crew = [], StandCrew()
    again = ranged(order_in(tmp_path, len(CONTENT), settled.append), crew)
    assert crew.changed.wait(5)
    assert again.take(1, 1.0) is None
    assert told(settled[0]) == {algorithm: "abc"}
    assert algorithm in settled[0].digests


def test_a_partial_goes_on_with_the_digest_that_it_began_with(tmp_path):
    download = ranged(order_in(tmp_path, len(CONTENT)), StandCrew())
    piece = begun(download, download.take(1, 1.0), **{"x-checksum-crc64nvme": "abc"})
    download.fail(written(download, piece, stop=3 * MIB), TerminalError(Reason.NOT_FOUND, ""))
    download.give_up()
    again = ranged(order_in(tmp_path, len(CONTENT)), StandCrew())
    assert again.order.meter.done == 3 * MIB


def test_what_is_recorded_behind_a_torn_record_is_read_again(tmp_path):
    partial = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    bound = {"identity": "x", "size": 20, "algorithm": "crc32c", "boot": "1"}
    opened = open_journal(tmp_path / "journal", partial, **bound)
    opened.journal.append(Span(0, 5, 1))
    opened.journal.close()
    with (tmp_path / "journal").open("ab") as file:
        file.write(b"torn")
    opened = open_journal(tmp_path / "journal", partial, **bound)
    opened.journal.append(Span(5, 9, 2))
    opened.journal.close()
    assert open_journal(tmp_path / "journal", partial, **bound).spans == [Span(0, 5, 1), Span(5, 9, 2)]
    os.close(partial)


async def test_after_a_restart_only_bytes_that_come_count_as_moved(origin, tmp_path):
    origin.put("/x", LARGE)
    origin.every = Fault(stall=3 * MIB)
    engine = Engine(FAST, boot="boot")
    orders = Orders(origin, tmp_path)
    task = asyncio.ensure_future(engine.move(await orders.of("/x")))
    while orders.meters["/x"].done < 3 * MIB:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    held = orders.meters["/x"].done
    origin.every = Fault()
    await engine.move(await orders.of("/x"))
    engine.close()
    assert orders.meters["/x"].done == len(LARGE)
    assert orders.meters["/x"].moved <= len(LARGE) - held + MIB
