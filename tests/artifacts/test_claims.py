"""Room is held by one fetch at a time, on the volume and within the budget."""

import asyncio
import io
import os
import threading
import zipfile

import pytest

from agent.artifacts.claims import Claims
from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.manifest import blob_id
from agent.artifacts.progress import Progress
from agent.artifacts.reserve import reserve
from agent.artifacts.store import Store
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from tests.artifacts.shelf import fetch
from tests.fakes.faulty_origin import Fault, FaultyOrigin
from tests.fakes.origin_provider import OriginProvider

MB = 1_000_000
A, B = blob_id("a"), blob_id("b")


class Small(Store):
    """A store whose volume has so much free beside what it holds."""

    room = 10 * MB

    def free_bytes(self):
        return self.room - self.used_bytes()


@pytest.fixture
def store(tmp_path):
    with Small.open(tmp_path / "models", tmp_path / "store") as store:
        yield store


def refused(claims, sizes):
    with pytest.raises(RetryableError) as caught:
        claims.of(sizes).take()
    return caught.value


def test_two_fetches_do_not_count_the_same_free_bytes(store):
    claims = Claims(store)
    first = claims.of({A: 6 * MB})
    first.take()
    error = refused(claims, {B: 6 * MB})
    assert error.reason is Reason.DISK_FULL
    assert "6000000 of them for other downloads" in error.message
    first.release()
    claims.of({B: 6 * MB}).take()


def test_what_a_partial_has_on_disk_is_not_needed_again(store):
    partial = os.open(store.partial_path(A), os.O_RDWR | os.O_CREAT)
    reserve(partial, 8 * MB)
    os.close(partial)
    assert store.free_bytes() < 8 * MB
    Claims(store).of({A: 8 * MB}).take()


def test_what_two_fetches_share_is_claimed_once(store):
    claims = Claims(store)
    claims.of({A: 6 * MB}).take()
    claims.of({A: 6 * MB, B: 1 * MB}).take()


def test_the_budget_is_kept_and_told_with_the_numbers(store):
    fetch(store, bytes(3 * MB))
    claims = Claims(store, 5 * MB)
    claims.of({A: 1 * MB}).take()
    error = refused(claims, {B: 2 * MB})
    assert error.reason is Reason.DISK_BUDGET_EXCEEDED
    assert (
        "2000000 bytes are to be downloaded, 1000000 more than --disk-budget (5000000 bytes)" in error.message
    )


def test_room_is_made_before_anybody_is_refused(store):
    held = fetch(store, bytes(4 * MB))
    asked = []

    def make_room(missing, coming):
        asked.append((missing, coming))
        store.discard(held)

    Claims(store, 5 * MB, make_room).of({A: 4 * MB}).take()
    Claims(store, 50 * MB, make_room).of({A: 10 * MB}).take()
    assert asked == [(0, 4 * MB)]


def test_a_claim_that_is_released_while_it_is_taken_holds_nothing(store):
    asking, go = threading.Event(), threading.Event()

    def make_room(missing, coming):
        asking.set()
        go.wait(5)
        store.room = 20 * MB

    claims = Claims(store, None, make_room)
    late = claims.of({A: 12 * MB})
    thread = threading.Thread(target=late.take)
    thread.start()
    assert asking.wait(5)
    late.release()
    go.set()
    thread.join(5)
    claims.of({B: 19 * MB}).take()


async def test_of_two_models_that_fit_only_one_by_one_the_second_waits_its_turn(store):
    with FaultyOrigin() as origin:
        origin.put("/a", bytes(6 * MB), [Fault(stall=MB)])
        origin.put("/b", b"x" * 6 * MB)
        engine = Engine()
        fetcher = Fetcher(lambda _: OriginProvider(origin), store, engine, claims=Claims(store))
        first = asyncio.ensure_future(fetcher.fetch(f"{origin.url}/a", Progress(), relist=True))
        while not origin.requests("/a"):
            await asyncio.sleep(0.01)
        with pytest.raises(RetryableError) as caught:
            await fetcher.fetch(f"{origin.url}/b", Progress(), relist=True)
        assert caught.value.reason is Reason.DISK_FULL
        assert origin.requests("/b") == []
        first.cancel()
        await asyncio.wait([first])
        store.partial_path(next(iter(store._blobs.partials))).unlink()
        await fetcher.fetch(f"{origin.url}/b", Progress(), relist=True)
        await fetcher.close()


async def test_an_archive_unpacks_to_what_the_budget_leaves_and_no_more(store):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", bytes(3 * MB))
    with FaultyOrigin() as origin:
        origin.put("/m.zip", buffer.getvalue())
        fetcher = Fetcher(lambda _: OriginProvider(origin), store, Engine(), claims=Claims(store, 2 * MB))
        with pytest.raises(AgentError) as caught:
            await fetcher.fetch(f"{origin.url}/m.zip", Progress(), relist=True)
        assert caught.value.reason in {Reason.ARCHIVE_TOO_LARGE, Reason.DISK_BUDGET_EXCEEDED}
        assert store.revisions() == {}
        await fetcher.close()
