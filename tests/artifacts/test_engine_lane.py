"""A lane outlives what happens to its connections, and if it ends, nobody waits for it."""

import os
import socket
import threading
import time

import pytest

from agent.artifacts.engine.exchange import Connection
from agent.artifacts.engine.lane import EpollLane
from agent.artifacts.engine.pieces import Piece
from agent.artifacts.engine.settings import EngineSettings
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource
from tests.artifacts.engine_stands import ROUTE, SOURCE, StandDownload, StandPool, order_in, said


@pytest.fixture
def pool():
    return StandPool()


@pytest.fixture
def crashes():
    return []


@pytest.fixture
def lane_of(pool, crashes, wired):
    """Make a lane of that name; all give their parts to the first one."""
    made = []

    def lane_of(name, throttle=None):
        lane = EpollLane(
            name,
            pool,
            EngineSettings(),
            throttle,
            clock=time.monotonic,
            crashed=lambda piece, error: crashes.append((piece, error)),
            busy=list,
            pick_lane=lambda _: made[0],
        )
        made.append(lane)
        return lane

    yield lane_of
    for lane in made:
        ended(lane)


@pytest.fixture
def lane(lane_of):
    return lane_of("lane")


def ended(lane):
    lane.close()
    while not lane.over:
        time.sleep(0.001)


@pytest.fixture
def give(lane, tmp_path, wired):
    """Put a download on a new connection; returns it, the connection and the server's end."""

    def give():
        wire, server = wired()
        download = StandDownload(order=order_in(tmp_path, None))
        connection = Connection(wire, ROUTE, time.monotonic())
        lane.give(connection, Piece(download, SOURCE, 0, None))
        assert server.recv(4096).startswith(b"GET ")
        return download, connection, server

    return give


def answered(download, server, body=b"bytes"):
    download.changed.clear()
    server.sendall(said(body))
    assert download.changed.wait(5)
    return bytes(download.came) == body


def test_a_connection_that_closes_while_it_is_handed_out_costs_a_retry_and_not_the_lane(lane, pool, give):
    first, idle, server = give()
    assert answered(first, server)
    busy, _, other = give()
    held, go = threading.Event(), threading.Event()
    busy.on_write = lambda: (held.set(), go.wait(5))
    other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
    assert held.wait(5)  # the lane is busy: what comes now it finds all at once, in this order
    server.close()
    pool.handed_out.add(idle)
    second = StandDownload(order=first.order)
    lane.give(idle, Piece(second, SOURCE, 0, None))
    go.set()
    assert second.changed.wait(5)
    assert second.failed[0].reason is Reason.STORAGE_UNAVAILABLE
    third, _, server = give()
    assert answered(third, server)


class Sparing:
    """A throttle that has nothing the first time."""

    pause_seconds = 0.01

    def __init__(self):
        self.asked = 0

    def take(self, room):
        self.asked += 1
        return room if self.asked > 1 else 0

    def give_back(self, count):
        pass


def test_a_request_that_is_half_out_goes_on_after_a_wait_for_bandwidth(lane_of, tmp_path, wired):
    lane, (wire, server) = lane_of("spared", Sparing()), wired()
    with socket.socket(fileno=os.dup(wire.descriptor)) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")  # there is something to read before all is asked
    source = HttpSource(SOURCE.url, SOURCE.answers, headers={"x-long": "x" * 200_000})
    download = StandDownload(order=order_in(tmp_path, None))
    lane.give(Connection(wire, ROUTE, time.monotonic()), Piece(download, source, 0, None))
    asked, server_file = b"", server.makefile("rb")
    server.settimeout(10)
    while not asked.endswith(b"\r\n\r\n"):
        asked += server_file.read1(65536)
    assert len(asked) > 200_000
    assert answered(download, server)


def test_a_bug_that_ends_a_lane_is_told_to_all_whose_bytes_it_moved(lane, pool, give, crashes, wired):
    waiting, _, _ = give()

    def broken(*_):
        raise ZeroDivisionError

    pool.wanted = broken
    wire, _server = wired()
    connection = Connection(wire, ROUTE, 0.0)
    victim = Piece(StandDownload(), SOURCE, 0, None)
    lane.give(connection, victim)
    assert waiting.changed.wait(5)
    assert victim in {piece for piece, _ in crashes}
    assert {type(error) for _, error in crashes} == {ZeroDivisionError}
    assert isinstance(waiting.failed[0], RetryableError)
    assert lane.over


def test_work_for_a_lane_that_ended_fails_at_once(lane, wired):
    ended(lane)
    wire, _server = wired()
    download = StandDownload()
    lane.give(Connection(wire, ROUTE, 0.0), Piece(download, SOURCE, 0, None))
    assert isinstance(download.failed[0], RetryableError)


def test_a_part_goes_on_where_there_are_fewer_connections(lane, lane_of, tmp_path, wired):
    crowded = lane_of("crowded")
    ends = []
    for _ in range(3):
        wire, server = wired()
        connection = Connection(wire, ROUTE, time.monotonic())
        whole = StandDownload(order=order_in(tmp_path, None))
        crowded.give(connection, Piece(whole, SOURCE, 0, None))
        server.recv(4096)
        assert answered(whole, server)
        ends.append((connection, server))
    part = StandDownload(order=order_in(tmp_path, None))
    threads = []
    part.on_write = lambda: threads.append(threading.current_thread().name)
    connection, server = ends[0]
    crowded.give(connection, Piece(part, SOURCE, 0, 5))
    assert b"Range: bytes=0-4" in server.recv(4096)
    assert answered(part, server)
    assert threads == ["lane"]
    assert crowded.load == 2


def test_a_download_whose_failing_fails_is_told(lane, give, crashes):
    download, _, server = give()

    def broken(piece, error):
        download.changed.set()
        raise ZeroDivisionError

    download.fail = broken
    server.close()
    assert download.changed.wait(5)
    other, _, server = give()
    assert answered(other, server)
    assert isinstance(crashes[0][1], ZeroDivisionError)
