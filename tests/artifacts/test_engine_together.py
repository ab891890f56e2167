"""Small objects that are asked for several at once on one connection (RFC 9112 §9.3.2): never mixed up."""

import asyncio
import contextlib
import itertools
import socket
import threading
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.exchange import Connection, believed
from agent.artifacts.engine.http1 import ProtocolError
from agent.artifacts.engine.patience import pause_after
from agent.artifacts.engine.pieces import Piece
from agent.artifacts.engine.settings import MIB, MOST_TOGETHER, TOGETHER_BYTES
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.engine_orders import FAST, SMALL, Orders
from tests.artifacts.engine_stands import ROUTE, SOURCE, StandDownload, order_in, said
from tests.fakes.faulty_origin import Fault

QUICK = replace(FAST, stall_seconds=2.0, hedge_seconds=0.2)
PATIENT = replace(FAST, stall_seconds=20.0, hedge_seconds=20.0)


def conversation(folder, count):
    """A connection that asked for so many objects at once, and their downloads."""
    written = []
    wire = SimpleNamespace(write=lambda data: written.append(data) or len(data))
    downloads = [StandDownload(order=order_in(folder, None)) for _ in range(count)]
    first, *behind = (Piece(download, SOURCE, 0, None) for download in downloads)
    first.behind = tuple(behind)
    connection = Connection(wire, ROUTE, 0.0)
    connection.start(first, 0.0)
    assert b"".join(written).count(b"GET /x HTTP/1.1\r\n") == count
    return connection, downloads


def heard(connection, slices):
    """Hand over the slices as a lane does; return how many answers came to their end."""
    over = 0
    for data in slices:
        rest = memoryview(data)
        while connection.received(rest):
            over += 1
            following, *behind = connection.piece.behind or (None,)
            if following is None:
                connection.piece = None
                break
            following.behind = tuple(behind)
            rest = connection.rest
            connection.go_on(following)
    return over


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=MOST_TOGETHER), st.data())
def test_answers_that_come_in_any_slices_each_reach_their_own_download_whole(tmp_path_factory, bodies, data):
    connection, downloads = conversation(tmp_path_factory.getbasetemp(), len(bodies))
    stream = b"".join(said(body) for body in bodies)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    slices = [stream[start:stop] for start, stop in itertools.pairwise((0, *cuts, len(stream)))]
    assert heard(connection, slices) == len(bodies)
    assert [bytes(download.came) for download in downloads] == bodies
    assert connection.reusable


def test_what_follows_the_last_answer_is_refused(tmp_path):
    connection, _ = conversation(tmp_path, 2)
    with pytest.raises(ProtocolError, match="follow"):
        heard(connection, [said(b"one") + said(b"two") + b"H"])


def test_what_may_be_on_its_way_at_once_on_a_connection_is_what_a_crash_may_fetch_again():
    assert MOST_TOGETHER * TOGETHER_BYTES == MIB


def laid_out(origin, count, faults=lambda number: ()):
    contents = {f"/small/{number}": SMALL[number : 2 * number + 1] for number in range(count)}
    for number, (path, content) in enumerate(contents.items()):
        origin.put(path, content, faults(number))
    return contents


async def moved(origin, contents, folder, settings=QUICK):
    engine = Engine(settings)
    try:
        orders = Orders(origin, folder)
        await asyncio.wait_for(engine.move(await orders.of(*contents)), 60)
    finally:
        engine.close()
    return orders


FAULTS = [
    Fault(hang_up=True), Fault(cut=3), Fault(reset=3), Fault(stall=2), Fault(close=True), Fault(status=503),
    Fault(status=500), Fault(extra=1), Fault(short=1), Fault(chunked=True),
]  # fmt: skip


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: repr({key: value for key, value in asdict(fault).items() if value})
)
async def test_what_befalls_one_answer_costs_those_behind_it_nothing_but_time(origin, tmp_path, fault):
    """Every fortieth goes wrong once: no object fails for what befell another, and all come whole."""
    contents = laid_out(origin, 400, lambda number: [fault] if number % 40 == 39 else [])
    orders = await moved(origin, contents, tmp_path)
    assert {path: orders.read(path) for path in contents} == contents
    assert set(orders.settled.values()) == {1}
    assert orders.litter() == []


class Front:
    """Stands before an origin, and hears of what comes at once on a connection only so many requests."""

    def __init__(self, origin, hears=1000, order=lambda requests: requests):
        self.origin, self._hears, self._order = origin, hears, order
        self.together = Counter()  # how often so many requests came at once
        self._ends = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __getattr__(self, name):
        return getattr(self.origin, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._ends.append(near)
                far = socket.create_connection(("127.0.0.1", self.origin.port))
                self._ends.append(far)
                threading.Thread(target=self._ask, args=(near, far), daemon=True).start()
                threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    def _ask(self, near, far):
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 20):
                requests = [request + b"\r\n\r\n" for request in data.split(b"\r\n\r\n")[:-1]]
                self.together[len(requests)] += 1
                far.sendall(b"".join(self._order(requests)[: self._hears]))
            far.shutdown(socket.SHUT_RDWR)

    def _answer(self, far, near):
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 20):
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


async def test_more_are_asked_for_at_once_where_the_answers_come_in_order(origin, tmp_path):
    contents = laid_out(origin, 1000)
    with Front(origin) as front:
        orders = await moved(front, contents, tmp_path, PATIENT)
    assert {path: orders.read(path) for path in contents} == contents
    assert max(front.together) == MOST_TOGETHER
    assert len(origin.requests()) == len(contents)


async def test_who_hears_only_the_first_is_soon_asked_for_one_at_a_time(origin, tmp_path):
    contents = laid_out(origin, 1000)
    with Front(origin, hears=1) as deaf:
        orders = await moved(deaf, contents, tmp_path)
    assert {path: orders.read(path) for path in contents} == contents
    assert len(origin.requests()) == len(contents)
    assert sum(times for count, times in deaf.together.items() if count > 1) < 60


@pytest.mark.parametrize(
    "order",
    [lambda requests: requests[::-1], lambda requests: requests[:1] * len(requests)],
    ids=["backwards", "the first again and again"],
)
async def test_answers_in_a_wrong_order_are_seen_and_asked_for_one_at_a_time(origin, tmp_path, order):
    contents = laid_out(origin, 400)
    with Front(origin, order=order) as wrong:
        orders = await moved(wrong, contents, tmp_path)
    assert {path: orders.read(path) for path in contents} == contents
    assert max(wrong.together) > 1


@pytest.mark.parametrize("refused", [b"/absent", b"/denied"])
async def test_who_refuses_what_comes_behind_another_is_asked_again(origin, tmp_path, refused):
    """It is no refusal of the object; one that is repeated is."""
    contents = laid_out(origin, 400)
    origin.put("/denied", b"", [Fault(status=403)] * 1000)

    def order(requests):
        return requests[:1] + [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % refused] * len(requests[1:])

    with Front(origin, order=order) as choosy:
        orders = await moved(choosy, contents, tmp_path)
    assert {path: orders.read(path) for path in contents} == contents
    assert max(choosy.together) > 1


def test_a_refusal_among_others_is_no_last_word_and_a_wait_or_a_full_disk_is():
    for answer in (
        TerminalError(Reason.NOT_FOUND, "gone"),
        RetryableError(Reason.SNAPSHOT_CHANGED, "changed"),
    ):
        told = believed(answer)
        assert pause_after(told, 1) is not None
        assert answer.message in told.message
    for answer in (
        RetryableError(Reason.STORAGE_THROTTLED, "slow", retry_after_seconds=7.0),
        RetryableError(Reason.DISK_FULL, "full"),
    ):
        assert believed(answer) is answer


async def test_an_answer_that_pauses_in_its_middle_has_the_time_that_any_other_has(origin, tmp_path):
    contents = laid_out(origin, 300)
    slow = list(contents)[150::50]
    for path in slow:
        origin.put(path, contents[path], [Fault(drip=len(contents[path]) // 2 + 1)])  # a second in between
    await moved(origin, contents, tmp_path, replace(FAST, stall_seconds=10.0, hedge_seconds=0.7))
    assert [len(origin.requests(path)) for path in slow] == [1] * len(slow)


@pytest.mark.parametrize(
    ("size", "same"), [(TOGETHER_BYTES + 1, False), (100, True)], ids=["too large", "alike"]
)
async def test_what_is_too_large_or_looks_like_another_is_asked_for_alone(origin, tmp_path, size, same):
    for number in range(60):
        origin.put(f"/x/{number}", bytes([0 if same else number]) * size)
    paths = [f"/x/{number}" for number in range(60)]
    with Front(origin) as front:
        await moved(front, paths, tmp_path)
    assert set(front.together) == {1}


async def test_a_stop_in_the_middle_ends_all_of_it_within_a_second(origin, tmp_path):
    contents = laid_out(origin, 400, lambda number: [Fault(stall=2)] * 9 if number > 200 else [])
    engine = Engine(replace(FAST, stall_seconds=30.0, hedge_seconds=30.0))
    orders = Orders(origin, tmp_path)
    moving = asyncio.ensure_future(engine.move(await orders.of(*contents)))
    while len(orders.settled) < 150:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # until the connections stand still in what is asked for at once
    moving.cancel()
    began = asyncio.get_running_loop().time()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert asyncio.get_running_loop().time() - began < 1
    settled = len(orders.settled)
    await asyncio.sleep(0.1)  # in which nothing more may be settled
    assert len(orders.settled) == settled
    engine.close()


HINT = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


def test_early_hints_may_come_before_each_answer(tmp_path):
    connection, downloads = conversation(tmp_path, 2)
    assert heard(connection, [HINT * 50 + said(b"x") + HINT * 50 + said(b"y")]) == 2
    assert [bytes(download.came) for download in downloads] == [b"x", b"y"]


@pytest.mark.parametrize("at_once", [1, 3000])
def test_who_sends_nothing_but_early_hints_is_refused(tmp_path, at_once):
    connection, _ = conversation(tmp_path, 1)
    with pytest.raises(ProtocolError, match="1xx"):
        heard(connection, [HINT * at_once] * 100)


@pytest.mark.parametrize("slices", [1, 40])
def test_an_endless_head_is_refused_however_it_comes(tmp_path, slices):
    connection, _ = conversation(tmp_path, 1)
    stream = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
    step = -(-len(stream) // slices)
    with pytest.raises(ProtocolError, match="endless"):
        heard(connection, [stream[at : at + step] for at in range(0, len(stream), step)])
