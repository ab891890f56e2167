"""/events over a real connection: what changes arrives, a reader can go on, a slow one is bounded."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from agent.core.model import ModelName
from agent.core.progress import ProgressReading
from agent.core.status import Phase
from agent.telemetry.board import Board, MemoryWord
from agent.telemetry.metrics import Metrics
from agent.web.events import MOST_MODELS, Bounds, EventStream
from agent.web.guard import guard
from agent.web.journal import Journal
from agent.web.render import Renderer
from agent.web.server import StatusSite
from tests.web.boards import board_with, failed, moving, ready


@asynccontextmanager
async def serving(board: Board, *middlewares, port: int = 0):
    site = StatusSite(board, Renderer(board, lambda at: at), lambda: True, Metrics(board, lambda: 0.0).scrape)
    application = site.application()
    application.middlewares.extend(middlewares)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def guarded(board: Board, token_file: Path):
    """Serve as `serving` does, to who shows the token in the file."""
    return serving(board, guard(token_file=token_file))


async def told(answer) -> tuple[str, str | None, dict]:
    """Return the next event: kind, id, data."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(5):
        while "data" not in fields:
            line = (await answer.content.readline()).decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" not in fields:
                fields = {}
        await answer.content.readline()
    return fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])


async def test_a_new_reader_reads_all_and_then_hears_what_changes(client):
    board = board_with(ready("a"))
    async with serving(board) as url, client.get(f"{url}/events") as answer:
        assert answer.content_type == "text/event-stream"
        assert (await told(answer))[0] == "resync"
        board.post(failed("b"))
        board.drop(ModelName("a"))
        board.say(memory=MemoryWord(7))
        kind, _, data = await told(answer)
        assert kind == "changes"
        assert ([model["name"] for model in data["models"]], data["gone"]) == (["b"], ["a"])
        assert data["memory"]["budgetBytes"] == 7


async def test_the_config_is_told_only_where_it_changed_since_it_may_be_long(client):
    board = board_with(ready("a"))
    async with serving(board) as url, client.get(f"{url}/events") as answer:
        await told(answer)
        board.say(memory=MemoryWord(7))
        _, mark, memory = await told(answer)
        board.say(config=replace(board.config, accepted=5))
        _, _, config = await told(answer)
        async with client.get(f"{url}/events", headers={"Last-Event-ID": mark}) as again:
            _, _, missed = await told(again)
    assert memory.keys() == {"models", "gone", "server", "memory"}
    assert (config["config"]["accepted"], missed["config"]["accepted"]) == (5, 5)


async def test_a_reader_that_comes_back_hears_what_it_missed(client):
    board = board_with(ready("a"))
    async with serving(board) as url:
        async with client.get(f"{url}/events") as answer:
            _, mark, _ = await told(answer)
        board.post(ready("b"))
        board.post(failed("a"))
        async with client.get(f"{url}/events", headers={"Last-Event-ID": mark}) as answer:
            kind, _, data = await told(answer)
    assert kind == "changes"
    assert [model["name"] for model in data["models"]] == ["b", "a"]


async def test_a_reader_of_the_life_before_reads_all(client):
    async with (
        serving(board_with()) as url,
        client.get(f"{url}/events", headers={"Last-Event-ID": "gone-5"}) as answer,
    ):
        assert (await told(answer))[0] == "resync"


async def test_progress_is_told_while_bytes_move(client):
    board = board_with(moving("a", Phase.DOWNLOADING))
    board.progress = lambda _: ProgressReading(1, 4, 2.0, 1.5)
    async with serving(board) as url, client.get(f"{url}/events") as answer:
        assert (await told(answer))[0] == "resync"
        kind, mark, data = await told(answer)
    assert (kind, mark) == ("progress", None)
    assert data == {"a": {"bytes": 1, "totalBytes": 4, "bytesPerSecond": 2.0, "etaSeconds": 1.5}}


async def test_ten_thousand_changes_come_in_pieces_and_whole(client):
    board = board_with()
    async with serving(board) as url, client.get(f"{url}/events") as answer:
        await told(answer)
        names = [f"m{number:05}" for number in range(2000)]
        for name in names:
            board.post(ready(name))
        heard = []
        while len(heard) < len(names):
            _, _, data = await told(answer)
            assert len(data["models"]) <= MOST_MODELS
            heard += [model["name"] for model in data["models"]]
    assert heard == names


async def test_the_agent_ends_at_once_with_readers_there(client):
    async with serving(board_with()) as url:
        answer = await client.get(f"{url}/events")
        await told(answer)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1
    answer.close()


@asynccontextmanager
async def streaming(board: Board, bounds: Bounds):
    journal = Journal(board)
    stream = EventStream(journal, Renderer(board, lambda at: at), bounds)
    application = web.Application()
    application.router.add_get("/events", stream.serve)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield stream, runner.addresses[0][1]
    finally:
        journal.close()
        await runner.cleanup()


async def test_one_reader_too_many_is_told_so(client):
    async with streaming(board_with(), Bounds(readers=2)) as (stream, port):
        url = f"http://127.0.0.1:{port}/events"
        async with client.get(url), client.get(url):
            assert stream.readers == 2
            async with client.get(url) as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"]


async def test_a_reader_that_hangs_up_gives_its_place_back_though_nothing_changes(client):
    async with streaming(board_with(), Bounds(readers=1)) as (stream, port):
        answer = await client.get(f"http://127.0.0.1:{port}/events")
        await told(answer)
        assert stream.readers == 1
        answer.close()
        async with asyncio.timeout(6):
            while stream.readers:
                await asyncio.sleep(0.05)


async def test_a_reader_that_takes_nothing_is_let_go():
    board = board_with()
    async with streaming(board, Bounds(patience_seconds=0.2)) as (stream, port):
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            reader.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(20):
                while not stream.readers:
                    await asyncio.sleep(0.01)
                while stream.readers:
                    for number in range(200):
                        board.post(ready(f"m{number}", uri=f"s3://bucket/{board.version}/{'x' * 2000}"))
                    await asyncio.sleep(0.02)
