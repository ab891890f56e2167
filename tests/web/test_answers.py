"""ETag, gzip and waiting for a document."""

import asyncio
import gzip
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.telemetry.board import Board
from agent.web.answers import INLINE_BYTES, Tagged, knows, takes_gzip
from agent.web.journal import Journal
from agent.web.share import CREDIT_SECONDS, Share, is_there
from agent.web.waiting import THERE_SECONDS, Waiting, dealt_with
from tests.web.boards import board_with, failed, moving, ready
from tests.web.test_events import serving

DIGEST = "ab" * 32


@pytest.fixture
async def plain():
    async with aiohttp.ClientSession(
        auto_decompress=False, headers={"Accept-Encoding": "identity"}
    ) as session:
        yield session


@asynccontextmanager
async def at_root(handler):
    """Serve one handler, at the root of a port of its own."""
    application = web.Application()
    application.router.add_get("/", handler)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/"))


async def test_what_a_reader_has_already_is_not_sent_again(plain):
    board = board_with(*(ready(f"m{number}") for number in range(50)))
    async with serving(board) as url:
        async with plain.get(f"{url}/status") as first:
            etag = first.headers["ETag"]
        async with plain.get(f"{url}/status", headers={"If-None-Match": etag}) as again:
            assert (again.status, await again.read()) == (304, b"")
        board.post(failed("m1"))
        async with plain.get(f"{url}/status", headers={"If-None-Match": etag}) as after:
            assert after.status == 200
            assert after.headers["ETag"] != etag


@pytest.mark.parametrize("count", [10, 1000])
async def test_gzip_says_the_same_in_fewer_bytes(plain, count):
    board = board_with(*(ready(f"m{number}") for number in range(count)))
    async with serving(board) as url:
        async with plain.get(f"{url}/status") as answer:
            whole = await answer.read()
        async with plain.get(f"{url}/status", headers={"Accept-Encoding": "gzip"}) as answer:
            packed = await answer.read()
            assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == whole
    assert len(packed) < len(whole) / 4


async def test_pages_are_told_apart(plain):
    board = board_with(*map(ready, "abc"))
    async with serving(board) as url:
        for query, names in (("limit=2", "ab"), ("limit=2&continue=b", "c"), ("limit=1", "a")):
            async with plain.get(f"{url}/status?{query}") as answer:
                assert "".join(model["name"] for model in (await answer.json())["models"]) == names


@pytest.mark.parametrize(
    ("accept", "taken"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("", False), ("identity", False), ("gzip;q=0, br", False)],
)
def test_gzip_is_given_to_who_takes_it(accept, taken):
    assert takes_gzip(accept) is taken


@pytest.mark.parametrize(
    ("asked", "known"),
    [('W/"x"', True), ('"x"', True), ('"y", W/"x"', True), ("*", True), ('"y"', False), ("", False)],
)
def test_tags_are_compared_weakly(asked, known):
    assert knows(asked, 'W/"x"') is known


def seen(
    board: Board, digest: str, *, planned: bool = True, error: tuple[Reason, str] | None = None
) -> Board:
    word = replace(board.config, digest=digest, error=error, planned_digest=digest if planned else None)
    board.say(config=word)
    return board


def test_a_document_is_dealt_with_when_nothing_of_it_is_on_its_way():
    assert not dealt_with(board_with(), DIGEST)
    assert not dealt_with(seen(board_with(ready("a")), DIGEST, planned=False), DIGEST)
    assert not dealt_with(seen(board_with(ready("a"), moving("b", Phase.LOADING)), DIGEST), DIGEST)
    assert dealt_with(seen(board_with(ready("a"), failed("b")), DIGEST), DIGEST)
    assert dealt_with(seen(board_with(), DIGEST, planned=False, error=(Reason.CONFIG_REJECTED, "no")), DIGEST)


async def test_a_long_poll_ends_when_the_document_was_dealt_with(client):
    board = seen(board_with(moving("a", Phase.LOADING)), DIGEST)
    async with serving(board) as url, asyncio.TaskGroup() as group, asyncio.timeout(5):
        polling = group.create_task(client.get(f"{url}/status?wait={DIGEST}&timeout=60"))
        await asyncio.sleep(0.1)
        board.post(ready("a"))
        answer = await polling
        assert (await answer.json())["waited"] is True


async def test_a_long_poll_ends_with_its_time(client):
    async with serving(board_with()) as url, client.get(f"{url}/status?wait={DIGEST}&timeout=0") as answer:
        assert json.loads(await answer.read())["waited"] is False


@pytest.mark.parametrize(
    "query", ["wait=x", f"wait={DIGEST}&timeout=-1", f"wait={DIGEST}&timeout=301", "timeout=x"]
)
async def test_what_cannot_be_waited_for_is_refused_in_words(client, query):
    async with serving(board_with()) as url, client.get(f"{url}/status?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["message"]


async def test_a_long_poll_ends_for_a_document_that_changes_nothing(client):
    board = seen(board_with(ready("a")), DIGEST, planned=False)
    async with serving(board) as url, asyncio.TaskGroup() as group, asyncio.timeout(5):
        polling = group.create_task(client.get(f"{url}/status?wait={DIGEST}&timeout=60"))
        await asyncio.sleep(0.1)
        board.say(
            config=replace(board.config, planned_digest=DIGEST)
        )  # the plan is made, and there is nothing to do
        answer = await polling
        assert (await answer.json())["waited"] is True


@pytest.mark.looptime
async def test_who_waits_and_hangs_up_gives_its_place_back():
    board, there = board_with(), [True]
    waiting = Waiting(board, Journal(board))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(waiting.wait(DIGEST, 300.0, lambda: there[0]))
        await asyncio.sleep(10)
        assert waiting.count == 1
        there[0] = False
        await asyncio.sleep(THERE_SECONDS)
        assert (waiting.count, await task) == (0, False)


async def test_who_hangs_up_is_noticed(client):
    board = board_with()
    waiting = Waiting(board, Journal(board))

    async def wait(request):
        await waiting.wait(DIGEST, 300.0, lambda: is_there(request))
        return web.Response()

    async with at_root(wait) as url:
        with pytest.raises(TimeoutError):
            await client.get(url, timeout=aiohttp.ClientTimeout(total=0.2))
        assert waiting.count == 1
        board.say(config=replace(board.config, digest="other"))  # have it look at once
        async with asyncio.timeout(5):
            while waiting.count:
                await asyncio.sleep(0.02)


class Worked:
    """A clock that work and rest move on."""

    def __init__(self):
        self.now, self.rested = 0.0, 0.0

    async def sleep(self, seconds):
        self.now += seconds
        self.rested += seconds


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=30))
def test_making_answers_takes_a_quarter_of_the_time_at_most(works):
    async def all_of_them():
        for work in works:
            async with share.turn():
                await share.rested()
                with share.making():
                    clock.now += work
                if work > 1:
                    with share.making():  # and compressing it
                        clock.now += work
        async with share.turn():
            await share.rested()

    clock = Worked()
    share = Share(lambda: clock.now, clock.sleep)
    asyncio.run(all_of_them())
    made = clock.now - clock.rested
    assert 4 * made <= clock.now + CREDIT_SECONDS + 1e-6
    assert clock.rested == 0 or 4 * made >= clock.now + CREDIT_SECONDS - 1e-6, (
        "it rests no longer than it must"
    )


async def test_for_who_has_gone_nothing_is_made(client):
    async def answer(request):
        return await tagged.answer(request, lambda: "now", lambda: made.append(1) or b"")

    made, share = [], Share()
    tagged = Tagged(share)
    async with at_root(answer) as url:
        async with share.turn():
            with pytest.raises(TimeoutError):
                await client.get(url, timeout=aiohttp.ClientTimeout(total=0.1))
            await asyncio.sleep(0.05)
        async with client.get(url) as response:
            assert response.status == 200
    assert made == [1]


async def test_however_many_ask_at_once_it_is_made_and_packed_once(plain):
    async def answer(request):
        return await tagged.answer(request, lambda: "now", make)

    def make():
        made.append(1)
        return b"x" * (INLINE_BYTES + 1)

    made, tagged = [], Tagged(Share())
    async with at_root(answer) as url:
        packed = []

        async def ask():
            async with plain.get(url, headers={"Accept-Encoding": "gzip"}) as response:
                packed.append(await response.read())

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(ask())
    assert (len(made), tagged.packs, len(packed), len(set(packed))) == (1, 1, 20, 1)
