"""What becomes of a load whose answer is late, lost, garbled or a lie: looked up before anything is said."""

import asyncio
import contextlib
import shutil
import time
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.demo.dummy_models import Dialect, Faults
from agent.demo.dummy_server import DummyServer
from agent.servers.base import ModelState
from agent.servers.detect import PROTOCOLS
from agent.servers.v2 import Patience, states
from agent.servers.wire import Wire
from tests.servers.fakes import always, raw_server, request, response

QUICK = Patience(read=0.5, load=0.4, unload=0.5, settle=0.3)


@contextlib.asynccontextmanager
async def running(dummy, port=None):
    server = TestServer(dummy.app(), port=port)
    await server.start_server(shutdown_timeout=0)
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


@pytest.fixture(params=list(Dialect))
def dummy(request, tmp_path):
    for name in ("m", "n"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("one")
        (tmp_path / name / "model-settings.json").write_text(f'{{"name": "{name}"}}')
    return DummyServer(tmp_path, request.param)


@contextlib.asynccontextmanager
async def connected(dummy, patience=None):
    async with running(dummy) as url:
        server = PROTOCOLS[dummy.dialect](Wire(url), patience or Patience())
        try:
            yield server
        finally:
            await server.close()


async def test_a_first_load_whose_answer_was_lost_is_found_to_be_done(dummy):
    dummy.faults = Faults(drop="m")
    async with connected(dummy) as server:
        await server.read()
        await server.load("m")
    assert dummy.counts.loads == {"m": 1}


async def test_an_update_whose_answer_was_lost_is_repeated_to_learn_its_outcome(dummy):
    """READY would be the old one's: only a second answer tells."""
    async with connected(dummy) as server:
        await server.load("m")
        dummy.faults = Faults(drop="m")
        with pytest.raises(RetryableError, match="twice") as caught:
            await server.load("m")
        assert caught.value.reason is Reason.SERVER_UNAVAILABLE
        assert dummy.counts.loads == {"m": 3}
        dummy.faults = Faults()
        await server.load("m")


async def test_a_lost_update_that_was_bad_is_rejected_at_the_second_answer(dummy):
    async with connected(dummy) as server:
        await server.load("m")
        (dummy.model_dir / "m" / "model").write_text("broken")
        original = dummy._load
        asked = []

        async def lose_the_first(request):
            asked.append(request.path)
            if len(asked) == 1:
                request.transport.abort()
                return web.Response()
            return await original(request)

        dummy._load = lose_the_first
        async with running(dummy) as url:
            other = PROTOCOLS[dummy.dialect](Wire(url))
            await other.read()
            with pytest.raises(TerminalError) as caught:
                await other.load("m")
            await other.close()
    assert caught.value.reason is Reason.LOAD_REJECTED
    assert len(asked) == 2


async def test_a_load_that_is_never_answered_times_out_and_others_go_on(dummy):
    dummy.faults = Faults(hang="m")
    async with connected(dummy, QUICK) as server:
        await server.read()
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
        assert caught.value.reason is Reason.LOAD_TIMEOUT
        await server.load("n")


async def test_a_load_that_was_answered_late_but_done_is_done(dummy):
    dummy.faults = Faults(load_seconds=0.5)
    async with connected(dummy, QUICK) as server:
        await server.read()
        await server.load("m")
    assert dummy.counts.loads == {"m": 1}


async def test_an_accepted_load_that_never_becomes_ready_times_out(dummy):
    dummy.faults = Faults(unready="m")
    async with connected(dummy, QUICK) as server:
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
    assert caught.value.reason is Reason.LOAD_TIMEOUT


async def test_a_server_that_ends_while_loading_has_crashed(dummy):
    port = unused_port()
    ended = asyncio.Event()

    def leave(_code):
        ended.set()
        raise asyncio.CancelledError

    crashing = DummyServer(dummy.model_dir, dummy.dialect, Faults(crash="m"), leave=leave)
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(crashing, port))
        server = PROTOCOLS[dummy.dialect](Wire(url), QUICK)
        await server.read()
        load = asyncio.ensure_future(server.load("m"))
        await ended.wait()
        await stack.aclose()
        with pytest.raises(RetryableError) as caught:
            await load
        await server.close()
    assert caught.value.reason is Reason.SERVER_CRASHED


async def test_a_server_that_came_back_without_the_model_has_crashed(dummy):
    """The connection breaks, and the next question finds an empty server."""

    async def lose(request):
        dummy.forget()
        request.transport.abort()
        return web.Response()

    dummy._load = lose
    async with connected(dummy, QUICK) as server:
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
    assert caught.value.reason is Reason.SERVER_CRASHED


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("accepted", [False, True])
async def test_a_server_that_is_away_behind_a_relay_is_not_waited_for(protocol, accepted):
    """The relay takes connections and breaks them. What was published would end the server at its start."""
    asked = []

    async def talk(reader, writer):
        line = await request(reader)
        asked.append(line)
        if "/load" in line and accepted:
            writer.write(response(b"{}", headers="Connection: close\r\n"))

    async with raw_server(talk) as url:
        server = PROTOCOLS[protocol](Wire(url), Patience(settle=3600))
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is Reason.SERVER_CRASHED
    assert len(asked) < 5


async def test_an_unload_whose_answer_is_lost_is_looked_up(dummy):
    async with connected(dummy) as server:
        await server.load("m")
        original = dummy._unload

        async def lose(request):
            await original(request)
            request.transport.abort()
            return web.Response()

        dummy._unload = lose
        async with running(dummy) as url:
            other = PROTOCOLS[dummy.dialect](Wire(url))
            await other.unload("m")
            assert (await other.read()).models.get("m", ModelState.UNAVAILABLE) is ModelState.UNAVAILABLE
            await other.close()


async def test_a_model_that_cannot_be_unloaded_in_time_is_said_to_be_held(dummy):
    async with connected(dummy, QUICK) as server:
        await server.load("m")

        async def pretend(_request):
            return web.json_response({})

        dummy._unload = pretend
        async with running(dummy) as url:
            other = PROTOCOLS[dummy.dialect](Wire(url), QUICK)
            with pytest.raises(RetryableError, match="still holds m") as caught:
                await other.unload("m")
            await other.close()
    assert caught.value.reason is Reason.UNLOAD_FAILED


async def test_a_deaf_server_is_unavailable_within_the_time_for_a_reading(dummy):
    dummy.faults = Faults(deaf=True)
    started = time.monotonic()
    async with connected(dummy, QUICK) as server:
        with pytest.raises(RetryableError) as caught:
            await server.read()
    assert caught.value.reason is Reason.SERVER_UNAVAILABLE
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>hello</html>", b"{", b"null", b'{"models": 7}', b'"x"', b"[" * 100_000, b"\xff" * 99],
)
async def test_garbage_instead_of_a_list_is_an_unavailable_server(protocol, body):
    async with raw_server(always(response(body))) as url:
        server = PROTOCOLS[protocol](Wire(url), QUICK)
        with pytest.raises(RetryableError) as caught:
            await server.read()
        await server.close()
    assert caught.value.reason is Reason.SERVER_UNAVAILABLE
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("409 Conflict", RetryableError, Reason.SERVER_UNAVAILABLE),
        ("429 Too Many Requests", RetryableError, Reason.SERVER_UNAVAILABLE),
        ("401 Unauthorized", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("403 Forbidden", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("405 Method Not Allowed", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("501 Not Implemented", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("301 Moved Permanently", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("404 Not Found", TerminalError, Reason.LOAD_NOT_SUPPORTED),
        ("400 Bad Request", TerminalError, Reason.LOAD_REJECTED),
        ("422 Unprocessable Entity", TerminalError, Reason.LOAD_REJECTED),
        ("500 Internal Server Error", TerminalError, Reason.LOAD_REJECTED),
    ],
)
async def test_a_refusal_is_told_by_its_status(protocol, status, kind, reason):
    async with raw_server(refusing(status, b'{"detail": "no"}', "200 OK")) as url:
        server = PROTOCOLS[protocol](Wire(url), QUICK)
        with pytest.raises(kind) as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is reason


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    "status", ["500 Internal Server Error", "503 Service Unavailable", "400 Bad Request"]
)
async def test_a_refusal_of_a_server_that_is_not_fit_says_nothing_about_the_model(protocol, status):
    async with raw_server(refusing(status, b'{"error": "Error type: x"}', "503 Service Unavailable")) as url:
        server = PROTOCOLS[protocol](Wire(url), QUICK)
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is Reason.SERVER_UNAVAILABLE


async def test_a_model_that_the_gpu_has_no_room_for_may_come_later():
    words = b'{"error":"memory limit set for GPU 0 has exceeded, model loading is rejected."}'
    async with raw_server(refusing("400 Bad Request", words, "200 OK")) as url:
        server = PROTOCOLS["triton"](Wire(url), QUICK)
        with pytest.raises(RetryableError) as caught:
            await server.load("m")
        await server.close()
    assert caught.value.reason is Reason.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
async def test_the_word_of_a_gateway_is_no_word_of_the_server(status):
    """A proxy gave up; the model is ready all the same, and was not before."""
    async with raw_server(refusing(status, b"<html>", "200 OK", ready=True)) as url:
        server = PROTOCOLS["triton"](Wire(url), QUICK)
        await server.read()
        await server.load("m")
        await server.close()


def refusing(status, body, health, *, ready=False):
    """Answer a load with a status, health with another, an empty index, and readiness as told."""

    async def talk(reader, writer):
        while True:
            line = await request(reader)
            if line.startswith("POST") and "/load" in line:
                writer.write(response(body, status, "Location: /x\r\n"))
            elif "/health/" in line:
                writer.write(response(b"{}", health))
            elif "/index" in line:
                writer.write(response(b"[]"))
            else:
                writer.write(response(b"{}", "200 OK" if ready else "404 Not Found"))
            await writer.drain()

    return talk


def test_the_best_version_of_a_name_counts_and_an_entry_with_only_a_name_is_not_loaded():
    entries = [
        {"name": "never"},
        {"name": "two", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "two", "version": "2", "state": "READY"},
        {"name": "two", "version": "3", "state": "UNLOADING"},
        {"name": "going", "version": "1", "state": "UNLOADING"},
        {"name": "odd", "state": 7},
        {"state": "READY"},
        "text",
    ]
    assert states(entries) == {
        "never": ModelState.UNAVAILABLE,
        "two": ModelState.READY,
        "going": ModelState.UNLOADING,
        "odd": ModelState.UNAVAILABLE,
    }


async def test_a_reading_of_an_idle_kserve_server_is_one_request(tmp_path):
    for number in range(50):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}" / "model").write_text("x")
    dummy = DummyServer(tmp_path, Dialect.KSERVE, load_all=True)
    async with connected(dummy) as server:
        assert len((await server.read()).models) == 50
        before = sum(dummy.counts.requests.values())
        for _ in range(3):
            await server.read()
        assert sum(dummy.counts.requests.values()) == before + 3


async def test_a_model_whose_folder_is_gone_is_told_of_as_long_as_it_is_in_doubt(dummy):
    """MLServer makes its index from folders: what it holds beside them takes memory all the same."""
    async with connected(dummy) as server:
        await server.load("m")
        shutil.rmtree(dummy.model_dir / "m")
        async with running(dummy) as url:
            other = PROTOCOLS[dummy.dialect](Wire(url))
            other.doubt(["m", "absent"])
            for _ in range(2):
                assert (await other.read()).models["m"] is ModelState.READY
            await other.unload("m")
            assert (await other.read()).models.get("m", ModelState.UNAVAILABLE) is ModelState.UNAVAILABLE
            await other.close()


@pytest.fixture
async def costly(tmp_path):
    """MLServer with 30 models, whose index takes so long that it is not asked for again in this test."""
    for number in range(30):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}" / "model-settings.json").write_text(f'{{"name": "m{number}"}}')
    dummy = DummyServer(tmp_path, Dialect.MLSERVER, load_all=True)
    original = dummy._index

    async def slow(request):
        await asyncio.sleep(0.2)
        return await original(request)

    dummy._index = slow
    return dummy


INDEX = "POST /v2/repository/index"


async def test_a_costly_index_is_left_alone_and_a_few_models_are_asked_instead(costly):
    async with connected(costly) as server:
        whole = (await server.read()).models
        before = sum(costly.counts.requests.values())
        for _ in range(10):
            assert (await server.read()).models == whole
        assert costly.counts.requests[INDEX] == 1
        assert costly.counts.requests["GET /v2/models/{name}/ready"] >= 30
        assert sum(costly.counts.requests.values()) - before <= 100


async def test_a_restart_is_seen_at_once_while_the_index_is_left_alone(costly):
    async with connected(costly) as server:
        await server.read()
        costly.forget()
        assert set((await server.read()).models.values()) == {ModelState.UNAVAILABLE}


async def test_a_single_lost_model_is_seen_within_a_round(costly):
    async with connected(costly) as server:
        await server.read()
        costly.forget("m17")
        readings = [(await server.read()).models["m17"] for _ in range(5)]
    assert readings[-1] is ModelState.UNAVAILABLE


async def test_what_we_did_is_known_while_the_index_is_left_alone(costly):
    async with connected(costly) as server:
        await server.read()
        await server.unload("m1")
        assert "m1" not in (await server.read()).models
        await server.load("m1")
        assert (await server.read()).models["m1"] is ModelState.READY
        costly.faults = Faults(fail="m2")
        with pytest.raises(TerminalError):
            await server.load("m2")
        assert (await server.read()).models["m2"] is ModelState.READY
    assert costly.counts.requests[INDEX] == 1


async def test_a_kserve_model_that_is_listed_but_not_ready_is_asked_again(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model").write_text("x")
    dummy = DummyServer(tmp_path, Dialect.KSERVE, Faults(unready="m"), load_all=True)
    async with connected(dummy) as server:
        assert (await server.read()).models == {"m": ModelState.UNAVAILABLE}
        dummy.faults = replace(dummy.faults, unready="")
        assert (await server.read()).models == {"m": ModelState.READY}
