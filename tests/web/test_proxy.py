"""The proxy between real clients and real servers: what passes, as it passes, and what does not."""

import asyncio
import contextlib
import hashlib
import io
import random
import socket

import aiohttp
import pytest
from aiohttp import web

from agent.web.proxy_heads import PREFACE
from tests.web.relays import before, before_raw, closed, relayed

HOST = b"Host: h"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(request):
    return web.Response(body=await request.read(), headers={"X-Method": request.method})


async def takes(writer, data):
    """Write, and tell whether that went anywhere."""
    writer.write(data)
    try:
        async with asyncio.timeout(0.5):
            await writer.drain()
    except TimeoutError:
        return False
    return True


async def head_of(reader):
    return await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 3 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass_both_ways_unchanged(size, chunked):
    content = hashlib.shake_128(b"").digest(size)

    async def pieces():
        for at in range(0, size, 100_000):
            yield content[at : at + 100_000]

    async with before(echo) as relay, aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post(relay.url, data=pieces() if chunked else io.BytesIO(content)) as answer:
                assert answer.status == 200
                assert await answer.read() == content


async def test_requests_cut_anywhere_and_sent_ahead_are_answered_in_order():
    bodies = [b"a" * 700, b"", b"b" * 3]
    sent = b"".join(
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies
    )
    sent += b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    sent += b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    cuts = random.Random(1)  # noqa: S311 - the same cuts each time
    async with before(echo) as relay:
        for _ in range(10):
            reader, writer = await relay.raw()
            rest = sent
            while rest:
                size = cuts.choice([1, 5, 60, len(rest)])
                writer.write(rest[:size])
                rest = rest[size:]
                await asyncio.sleep(0)
            answer = await reader.read()
            await closed(writer)
            parts = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
            assert parts == [*bodies, b"abc", b""]


async def test_nothing_waits_for_a_whole_body():
    got = asyncio.Event()

    async def talk(request):
        assert await request.content.read(4) == b"ping"
        got.set()
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"pong")
        assert await request.content.read() == b"rest"
        await answer.write(b"done")
        return answer

    async with before(talk) as relay:
        reader, writer = await relay.raw()
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nping")
        await got.wait()
        assert b"200 OK" in await head_of(reader)
        assert await reader.readuntil(b"pong")
        writer.write(b"rest")
        assert await reader.readuntil(b"done")
        await closed(writer)


async def test_a_client_that_does_not_read_stops_the_server_and_not_the_memory():
    written = 0

    async def talk(reader, writer):
        nonlocal written
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with before_raw(talk) as (relay, _):
        reader, writer = await relay.raw()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        last = -1
        while written != last or not written:
            last = written
            await asyncio.sleep(0.2)
        assert written < 40 << 20  # the kernel's buffers, ours are a quarter of a MiB
        assert (await reader.read(100)).startswith(b"HTTP/1.1 200 OK")
        writer.transport.abort()


async def test_a_server_that_does_not_read_stops_the_client():
    async def talk(reader, writer):
        await asyncio.sleep(5)

    async with before_raw(talk) as (relay, _):
        _, writer = await relay.raw()
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        while await takes(writer, b"x" * 65536):
            sent += 65536
        assert sent < 40 << 20
        writer.transport.abort()


async def test_a_websocket_passes():
    async def talk(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_bytes(message.data[::-1])
        return ws

    async with before(talk) as relay, aiohttp.ClientSession() as session, session.ws_connect(relay.url) as ws:
        for size in (1, 70_000):
            await ws.send_bytes(b"ab" * size)
            assert await ws.receive_bytes() == b"ba" * size


async def test_a_request_that_is_given_up_is_given_up_at_the_server():
    begun, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await head_of(reader)
        begun.set()
        await reader.read()
        gone.set()

    async with before_raw(talk) as (relay, _):
        _, writer = await relay.raw()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await begun.wait()
        await closed(writer)
        async with asyncio.timeout(5):
            await gone.wait()


async def test_http2_passes_byte_for_byte_both_ways():
    async def talk(reader, writer):
        assert await reader.readexactly(len(PREFACE) + 9) == PREFACE + b"\x00" * 9
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert await reader.read() == b"more"
        writer.write(b"last")

    async with before_raw(talk) as (relay, _):
        reader, writer = await relay.raw()
        for piece in (PREFACE[:3], PREFACE[3:20], PREFACE[20:] + b"\x00" * 9):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert await reader.readexactly(9) == b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        writer.write(b"more")
        writer.write_eof()
        assert await reader.read() == b"last"
        await closed(writer)


async def test_interim_answers_and_early_ends_pass():
    async def talk(reader, writer):
        assert b"Expect: 100-continue" in await head_of(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(2) == b"ab"
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async with before_raw(talk) as (relay, _):
        reader, writer = await relay.raw()
        writer.write(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 900000\r\n\r\n")
        assert await head_of(reader) == b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert b"Connection: close" in await head_of(reader)
        assert await reader.read() == b"no"
        await closed(writer)


@pytest.mark.parametrize(
    ("method", "said", "passed"),
    [
        (b"GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", CHUNKED + b"1\r\na\r\n0\r\nT: 1\r\n\r\n", b"1\r\na\r\n0\r\nT: 1\r\n\r\n"),
    ],
)  # fmt: skip
async def test_every_framing_of_an_answer_passes(method, said, passed):
    async def talk(reader, writer):
        await head_of(reader)
        writer.write(said)

    async with before_raw(talk) as (relay, _):
        answer = await relay.ask(method + b" / HTTP/1.1", HOST)
        assert answer.partition(b"\r\n\r\n")[2] == passed


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", b"502"),
        (b"HTTP/1.1 2", b"502"),
        (b"ICY 200 OK\r\n\r\n", b"502"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"502"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, b"502"),
    ],
)
async def test_an_answer_that_is_none_is_a_bad_gateway(said, status):
    async def talk(reader, writer):
        await head_of(reader)
        writer.write(said)

    async with before_raw(talk) as (relay, _):
        assert (await relay.ask(b"GET / HTTP/1.1", HOST)).split()[1] == status


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_half_an_answer_is_not_taken_for_a_whole_one(framing):
    async def talk(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")

    async with before_raw(talk) as (relay, _), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(relay.url) as answer:
                await answer.read()


async def test_a_server_that_is_not_there_is_a_bad_gateway():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with relayed(taken.getsockname()[1]) as relay:
            assert (await relay.ask(b"POST / HTTP/1.1", HOST, b"Content-Length: 3", body=b"abc")).split()[
                1
            ] == b"502"


async def test_http2_to_a_server_that_is_not_there_ends_without_words_of_http1():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with relayed(taken.getsockname()[1]) as relay:
            reader, writer = await relay.raw()
            writer.write(PREFACE)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await closed(writer)


@pytest.mark.parametrize(("method", "status", "connections"), [("GET", 200, 2), ("POST", 502, 1)])
async def test_only_what_may_be_repeated_is_sent_again_over_a_connection_that_died(
    method, status, connections
):
    """A kept connection is closed as the next request comes; a POST may have been carried out."""

    async def talk(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if len(seen) == 1:
            await head_of(reader)

    async with before_raw(talk) as (relay, seen), aiohttp.ClientSession() as session:
        for expected in (200, status):
            async with session.request(method, relay.url) as answer:
                assert answer.status == expected
        assert len(seen) == connections


async def test_a_hidden_request_is_refused_and_the_connection_ends():
    async with before(echo) as relay:
        answer = await relay.ask(
            b"POST / HTTP/1.1",
            HOST,
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            body=b"0\r\n\r\nGET /x",
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1


async def test_a_head_without_end_is_refused():
    async with before(echo) as relay:
        answer = await relay.ask(b"GET / HTTP/1.1", HOST, b"X: " + b"x" * 70_000)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_the_server_sees_who_asks_and_the_host_that_was_asked():
    async def tell(request):
        return web.json_response(dict(request.headers))

    headers = {"Host": "model.example", "X-Forwarded-For": "1.2.3.4"}
    async with before(tell) as relay, aiohttp.ClientSession(headers=headers) as session:
        told = await (await session.get(relay.url)).json()
    assert (told["Host"], told["X-Forwarded-For"]) == ("model.example", "1.2.3.4, 127.0.0.1")


PROBE = b"User-Agent: kube-probe/1.31"
QUEUE = b"K-Network-Probe: queue"
NO_HASH = b'a probe request must contain a non-empty "K-Network-Hash" header\n'


@pytest.mark.parametrize(
    ("fields", "ready", "status", "body"),
    [
        ([PROBE, QUEUE], True, b"200", b"queue"),
        ([b"K-Kubelet-Probe: queue", QUEUE], True, b"200", b"queue"),
        ([b"User-Agent: Knative-Activator-Probe", QUEUE], True, b"200", b"queue"),
        ([PROBE, QUEUE], False, b"503", b"not ready\n"),
        ([PROBE], True, b"400", b"unexpected probe header value\n"),
        ([PROBE, b"K-Network-Probe: activator"], True, b"400", b"unexpected probe header value\n"),
        ([b"K-Network-Probe: probe", b"K-Network-Hash: abc"], False, b"200", b""),
        ([b"K-Network-Probe: probe"], True, b"400", NO_HASH),
        ([QUEUE], False, b"200", b"from the server"),
        ([b"User-Agent: kube-prob"], False, b"200", b"from the server"),
    ],
)  # fmt: skip
async def test_the_probe_protocol(fields, ready, status, body):
    async def tell(request):
        return web.Response(text="from the server")

    async with before(tell) as relay:
        relay.ready[0] = ready
        answer = await relay.ask(b"GET /v1/models/m HTTP/1.1", HOST, *fields)
        head, _, said = answer.partition(b"\r\n\r\n")
        assert (head.split()[1], said) == (status, body)
        assert (b"K-Network-Hash: abc" in head) == (b"K-Network-Hash: abc" in fields)


async def test_draining_refuses_probes_serves_requests_and_waits_for_what_is_under_way():
    go = asyncio.Event()

    async def slow(request):
        await go.wait()
        return web.Response(text="done")

    async with before(slow, quiet=0.3) as relay, aiohttp.ClientSession() as session:
        first = asyncio.ensure_future(session.get(relay.url))
        await asyncio.sleep(0.05)
        relay.proxy.stop()
        await asyncio.sleep(0)
        probe = await relay.ask(b"GET / HTTP/1.1", HOST, PROBE, QUEUE)
        assert (probe.split()[1], probe.partition(b"\r\n\r\n")[2]) == (b"503", b"shutting down\n")
        second = asyncio.ensure_future(session.get(relay.url))
        done, _ = await asyncio.wait([relay.serving], timeout=0.6)
        assert not done
        go.set()
        for answer in (await first, await second):
            assert await answer.text() == "done"
            assert answer.headers["Connection"] == "close"
        await asyncio.wait_for(relay.serving, 2)


async def test_kserves_abstract_socket_is_there_too():
    name = f"@/agent-test/{hashlib.sha256(str(id(object())).encode()).hexdigest()}"
    async with before(echo, socket_name=name):
        reader, writer = await asyncio.open_unix_connection("\0" + name[1:])
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        await closed(writer)
