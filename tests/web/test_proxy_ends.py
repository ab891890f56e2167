"""How connections end: draining, early answers, clients that stand still, and too many of them."""

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web

from agent.web import proxy as proxies
from agent.web.proxy_client import LEAVING
from agent.web.proxy_heads import PREFACE
from agent.web.proxy_main import affordable
from tests.web.relays import before, before_raw, closed

BIG = 8 << 20
PROBE = (b"User-Agent: kube-probe/1.33", b"K-Network-Probe: queue")
ASK = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def large(_):
    return web.Response(body=b"x" * BIG)


async def narrow(relay):
    """A connection whose client takes in little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", relay.proxy.port))
    return await asyncio.open_connection(sock=sock, limit=1 << 14)


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_an_answer_that_the_server_gave_whole_arrives_whole_though_the_proxy_drains():
    async with before(large, quiet=0.0) as relay:
        reader, writer = await narrow(relay)
        writer.write(ASK)
        got = b""
        client = await anext(joined(relay))
        while client.state != LEAVING:
            got += await reader.read(1 << 16)
        assert client.unsent
        relay.proxy.stop()
        await asyncio.sleep(3 * proxies.DRAIN_LOOK_SECONDS)
        got += await reader.read()
        assert len(got.partition(b"\r\n\r\n")[2]) == BIG
        await closed(writer)


async def joined(relay):
    await until(lambda: relay.proxy.clients)
    for client in tuple(relay.proxy.clients):
        yield client


async def test_an_early_answer_arrives_whole_however_slowly_it_is_read():
    """The server answers, and ends, before it has read the request."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % BIG)
        writer.write(b"x" * BIG)
        await writer.drain()
        await reader.read()

    async with before_raw(talk) as (relay, _):
        relay.proxy.linger_seconds = 0.1
        reader, writer = await narrow(relay)
        writer.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000000\r\n\r\n")
        client = await anext(joined(relay))
        got = b""
        while client.state != LEAVING:
            got += await reader.read(1 << 16)
        await asyncio.sleep(0.3)
        got += await reader.read()
        assert len(got.partition(b"\r\n\r\n")[2]) == BIG
        await until(lambda: not relay.proxy.clients)
        await closed(writer)


async def test_a_head_has_its_whole_time_on_a_connection_that_was_idle():
    async with before(large) as relay:
        _, writer = await relay.raw()
        client = await anext(joined(relay))
        client.since -= proxies.HEAD_SECONDS + 1
        writer.write(b"GET / HT")
        await until(lambda: client.begun)
        assert client.since > relay.proxy.now() - proxies.HEAD_SECONDS
        await closed(writer)


@pytest.mark.parametrize("fault", [b"zzz\r\n", b"5\r\nhelloX\r\n"])
async def test_a_fault_of_the_request_never_puts_a_second_answer_into_the_first(fault):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        await reader.read()

    async with before_raw(talk) as (relay, _):
        reader, writer = await relay.raw()
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        got = await reader.readuntil(b"begun")
        writer.write(fault)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                got += await reader.read()
        assert got.count(b"HTTP/1.1") == 1
        await closed(writer)


async def test_a_client_that_stands_still_is_let_go_of_in_time():
    async with before(large) as relay:
        relay.proxy.stall_seconds = 0.2
        _, writer = await narrow(relay)
        writer.write(ASK)
        await until(lambda: relay.proxy.clients)
        await until(lambda: not relay.proxy.clients)
        writer.transport.abort()


async def test_connections_are_limited_idle_ones_make_room_and_probes_are_always_answered():
    async with before(large) as relay:
        relay.proxy.most_clients = 2
        begun = [await relay.raw() for _ in range(2)]
        for _, writer in begun:
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
        await until(lambda: sum(client.busy for client in relay.proxy.clients) == 2)
        assert (await relay.ask(b"GET / HTTP/1.1", b"Host: h")).startswith(b"HTTP/1.1 503 ")
        assert (await relay.ask(b"GET / HTTP/1.1", b"Host: h", *PROBE)).startswith(b"HTTP/1.1 200 ")
        reader, writer = await relay.raw()
        writer.write(PREFACE)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await closed(writer)
        await closed(begun[0][1])
        await until(lambda: len(relay.proxy.clients) == 1)
        idle = await relay.raw()
        await until(lambda: len(relay.proxy.clients) == 2)
        assert (await relay.ask(b"GET / HTTP/1.1", b"Host: h")).startswith(b"HTTP/1.1 200 ")
        assert await idle[0].read() == b""
        for _, writer in (begun[1], idle):
            await closed(writer)


async def test_an_upgrade_that_nobody_asked_for_is_a_bad_gateway():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello")

    async with before_raw(talk) as (relay, _):
        assert (await relay.ask(b"GET / HTTP/1.1", b"Host: h")).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("count", [10, 256, 1024, 1 << 20])
def test_there_are_never_more_clients_than_descriptors_for_them(count):
    clients = affordable(count)
    assert 1 <= clients <= proxies.MOST_CLIENTS
    assert 2 * (clients + proxies.FOR_PROBES) + 64 <= max(count, 2 + 2 * proxies.FOR_PROBES + 64)


async def test_however_many_connect_no_more_are_held():
    async with before(large) as relay:
        relay.proxy.most_clients = 4
        opened = await asyncio.gather(*(relay.raw() for _ in range(300)))
        await until(lambda: len(relay.proxy.clients) <= 4 + proxies.FOR_PROBES)
        assert (await relay.ask(b"GET / HTTP/1.1", b"Host: h", *PROBE)).startswith(b"HTTP/1.1 200 ")
        for _, writer in opened:
            writer.transport.abort()
