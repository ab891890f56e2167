"""The pool: one burst of refusals is one refusal, and nobody waits for what will not come."""

import threading

import pytest

from agent.artifacts.engine.pool import Job, Pool
from agent.artifacts.engine.settings import MOST_TOGETHER, EngineSettings
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from tests.artifacts.engine_stands import ROUTE, StandDownload
from tests.artifacts.shelf import Clock

MOST = 16


class Bench:
    """A pool whose connections come at once and whose lane only notes what it is given."""

    load = 0

    def __init__(self, wired):
        self.clock = Clock(100.0)
        self.given, self.crashes = [], []
        self.connect = lambda route: wired()[0]
        self.start = lambda job: job()
        self.pool = Pool(
            EngineSettings(max_connections=MOST),
            start_thread=self.start_thread,
            pick_lane=lambda _: self,
            connect=self.dial,
            crashed=lambda piece, error: self.crashes.append(error),
            clock=self.clock,
        )

    def start_thread(self, job):
        self.start(job)

    def dial(self, route):
        return self.connect(route)

    def give(self, connection, piece):
        connection.asked_at = self.clock()
        self.given.append((connection, piece))

    def discard(self, connection):
        pass

    def job(self, pieces):
        job, download = Job(), StandDownload(pieces)
        self.pool.add(job)
        self.pool.offer(job, ROUTE, download)
        self.pool.pump()
        return job, download

    def answer(self, connection, piece):
        following = self.pool.next_after(self, connection, piece)
        if following is not None:
            self.give(connection, following)
        self.pool.pump()

    def refuse(self, connection, piece, retry_after=None):
        error = RetryableError(Reason.STORAGE_THROTTLED, "slow down", retry_after_seconds=retry_after)
        self.pool.lost(connection, piece, error)


@pytest.fixture
def bench(wired):
    return Bench(wired)


def test_a_burst_of_refusals_halves_the_connections_once(bench):
    for _ in range(MOST):
        bench.job(1000)
    assert len(bench.given) == MOST
    burst, bench.given = bench.given, []
    for refused in burst:
        bench.clock.now += 0.01
        bench.refuse(*refused)
    bench.clock.now += 30
    bench.pool.pump()
    assert len(bench.given) == MOST // 2


def test_an_origin_that_answers_again_has_all_its_connections_back_after_about_a_hundred_answers(bench):
    for _ in range(MOST):
        bench.job(1000)
    burst, bench.given = bench.given, []
    for refused in burst:
        bench.refuse(*refused)
    bench.clock.now += 30
    bench.pool.pump()
    for _ in range(130):
        bench.answer(*bench.given.pop(0))
    assert len(bench.given) == MOST


def test_a_model_whose_origin_is_shut_for_long_is_told_so_with_the_time(bench):
    bench.job(1)
    bench.refuse(*bench.given.pop(), retry_after=3600)
    told = []
    job, download = Job(fail=told.append), StandDownload()
    bench.pool.add(job)
    bench.pool.offer(job, ROUTE, download)
    bench.pool.pump()
    assert told[0].reason is Reason.STORAGE_THROTTLED
    assert told[0].retry_after_seconds == 3600
    assert "127.0.0.1:80 asks to be left alone for 3600 s more" in told[0].message
    assert bench.given == []


def test_where_no_thread_can_be_started_the_piece_fails_with_that_reason(bench):
    def none(job):
        raise RetryableError(Reason.RESOURCE_EXHAUSTED, "no thread can be started")

    bench.start = none
    job, download = bench.job(1)
    assert download.failed[0].reason is Reason.RESOURCE_EXHAUSTED
    assert job.active == 0


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError()])
def test_whatever_goes_wrong_while_connecting_the_job_is_told(bench, error):
    def broken(route):
        raise error

    bench.connect = broken
    job, _ = bench.job(1)
    assert bench.crashes == [error]
    assert job.active == 0


def test_a_connection_refused_for_good_fails_its_piece(bench):
    def refused(route):
        raise TerminalError(Reason.TLS_ERROR, "no")

    bench.connect = refused
    _, download = bench.job(1)
    assert download.failed[0].reason is Reason.TLS_ERROR


def test_a_connection_that_comes_when_its_job_is_over_is_closed_and_its_piece_let_go(bench, wired):
    connecting, go = threading.Event(), threading.Event()
    wire, server = wired()
    threads = []

    def start(job):
        threads.append(threading.Thread(target=job))
        threads[-1].start()

    def slow(route):
        connecting.set()
        go.wait(5)
        return wire

    bench.start, bench.connect = start, slow
    job, download = bench.job(1)
    assert connecting.wait(5)
    bench.pool.remove(job)
    go.set()
    threads[0].join(5)
    assert server.recv(1) == b""
    assert len(download.failed) == 1
    assert bench.given == []


def of_small(bench, count, route=ROUTE, sign=lambda number: (number,)):
    """A job of so many small objects."""
    job = Job()
    bench.pool.add(job)
    for number in range(count):
        bench.pool.offer(job, route, StandDownload(signs=sign(number)))
    bench.pool.pump()
    return job


def answered(bench, count):
    """Have so many objects come; return how many came at once, each time."""
    came = []
    while sum(came) < count:
        connection, piece = bench.given.pop(0)
        came.append(1 + len(piece.behind))
        while piece.behind:
            piece = bench.pool.go_on(connection, piece)
        bench.answer(connection, piece)
    return came


def test_one_more_is_asked_for_at_once_after_each_16_answers_in_order_up_to_8(bench):
    of_small(bench, 1000)
    came = answered(bench, 500)
    assert came[:16] == [1] * 16
    assert came == sorted(came)
    assert max(came) == MOST_TOGETHER
    assert all(number <= 1 + sum(came[:at]) // 16 for at, number in enumerate(came))


@pytest.mark.parametrize("burst", [1, MOST // 2])
def test_what_goes_wrong_in_the_middle_begins_anew_with_half_the_trust(bench, burst):
    """Several that break at once, as when the server goes, are one failure."""
    of_small(bench, 4000)
    answered(bench, 500)
    for _ in range(burst):
        connection, piece = bench.given.pop(0)
        assert piece.behind
        bench.clock.now += 0.001
        bench.pool.lost(connection, piece, RetryableError(Reason.STORAGE_UNAVAILABLE, "it broke"))
    bench.clock.now += 1
    bench.pool.pump()
    under_way = len(bench.given)
    came = answered(bench, 600)
    assert all(number <= 1 + sum(came[:at]) // 32 for at, number in enumerate(came) if at >= under_way)
    assert max(came[under_way:]) == MOST_TOGETHER


def test_only_objects_of_the_same_model_are_asked_for_together(bench):
    jobs = [of_small(bench, 400) for _ in range(3)]
    for _ in range(600):
        connection, piece = bench.given.pop(0)
        owner = next(job for job in jobs if piece in bench.pool.pieces_of(job))
        while piece.behind:
            piece = bench.pool.go_on(connection, piece)
            assert piece in bench.pool.pieces_of(owner)
        bench.answer(connection, piece)
        if not bench.given:
            break
    assert [job.active for job in jobs] == [0, 0, 0]


@pytest.mark.parametrize(
    ("route", "sign"),
    [
        (ROUTE._replace(proxy="http://proxy:3128"), lambda number: (number,)),
        (ROUTE, lambda _: None),
        (ROUTE, lambda _: ("alike",)),
    ],
    ids=["by a proxy that reads it", "with nothing to know it by", "alike"],
)
def test_what_cannot_be_told_apart_is_asked_for_alone(bench, route, sign):
    of_small(bench, 300, route, sign)
    assert set(answered(bench, 250)) == {1}


def test_who_is_stopped_in_the_middle_costs_no_trust(bench):
    stopped = of_small(bench, 400)
    answered(bench, 200)
    bench.pool.remove(stopped)
    given, bench.given = bench.given, []
    for connection, piece in given:
        bench.pool.lost(connection, piece, RetryableError(Reason.STORAGE_UNAVAILABLE, "no longer wanted"))
    of_small(bench, 400)
    assert answered(bench, 100)[MOST:][0] == MOST_TOGETHER


def test_what_is_behind_is_not_waited_for_once_nobody_wants_it(bench):
    job = of_small(bench, 400)
    answered(bench, 100)
    connection, piece = next(each for each in bench.given if each[1].behind)
    bench.pool.remove(job)
    assert bench.pool.go_on(connection, piece) is None
