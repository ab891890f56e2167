"""The status port under attack: rebinding browsers, strangers, slow and many connections (faults X5, X6)."""

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent.aio.door import Door, DoorLimits
from agent.web.guard import guard, host_is_safe

SECRET = "s3cr3t"


async def words(_):
    return web.Response(text="ok")


@asynccontextmanager
async def serving(*, limits=None, body=b"ok", **given):
    async def much(_):
        return web.Response(body=body)

    application = web.Application(middlewares=[guard(**given)])
    for path in ("/status", "/healthz", "/readyz", "/", "/favicon.ico", "/page/{name}"):
        application.router.add_get(path, words)
    application.router.add_get("/much", much)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    server = await asyncio.get_running_loop().create_server(Door(runner.server, limits), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await runner.cleanup()


def port_of(url):
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize("host", ["evil.test", "evil.test:9082", "127.0.0.1.evil.test", "a.svc.evil.test"])
async def test_a_web_page_cannot_have_a_browser_read_it(client, host):
    async with serving() as url, client.get(url + "/status", headers={"Host": host}) as answer:
        assert answer.status == 421
        assert "--status-allow-host" in (await answer.json())["message"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9082",
        "[::1]:9082",
        "10.1.2.3",
        "localhost:9082",
        "agent",
        "a.b.svc",
        "a.b.svc.cluster.local",
    ],
)
async def test_probes_scrapers_and_people_in_the_cluster_are_let_in(client, host):
    async with serving() as url, client.get(url + "/status", headers={"Host": host}) as answer:
        assert answer.status == 200


def test_a_name_that_the_operator_gives_is_let_in():
    assert host_is_safe("status.shop.test:443", ("*.shop.test",))
    assert not host_is_safe("status.shop.test:443")


@given(st.text(max_size=30))
def test_any_host_is_judged(text):
    assert host_is_safe(text) in {True, False}


async def test_without_the_token_only_the_probes_are_answered(client, tmp_path):
    (tmp_path / "token").write_text(SECRET + "\n")
    async with serving(token_file=tmp_path / "token") as url:
        for path, header, expected in [
            ("/status", None, 401),
            ("/status", "Bearer wrong", 401),
            ("/status", "Bearer ", 401),
            ("/readyz?verbose", None, 401),
            ("/status", f"Bearer {SECRET}", 200),
            ("/healthz", None, 200),
            ("/readyz", None, 200),
        ]:
            headers = {"Authorization": header} if header else {}
            async with client.get(url + path, headers=headers) as answer:
                assert (answer.status, SECRET in await answer.text()) == (expected, False), path


async def test_a_rotated_token_counts_at_once_and_a_missing_one_lets_nobody_in(client, tmp_path):
    file = tmp_path / "token"
    async with serving(token_file=file) as url:
        for content, status in [(None, 401), ("one", 401), ("two", 200), ("", 401)]:
            if content is not None:
                file.write_text(content)
            async with client.get(url + "/status", headers={"Authorization": "Bearer two"}) as answer:
                assert answer.status == status, content


async def test_connections_that_say_nothing_keep_no_probe_out_however_many_they_are(client):
    async with serving(limits=DoorLimits(connections=20, head_seconds=60)) as url:
        hoard = [await asyncio.open_connection("127.0.0.1", port_of(url)) for _ in range(200)]
        async with client.get(url + "/healthz") as answer:
            assert answer.status == 200
        ended = [reader for reader, _ in hoard[:150] if await _ends(reader)]
        assert len(ended) == 150
        for _, writer in hoard:
            writer.close()


async def test_a_request_that_drips_is_put_out(client):
    async with serving(limits=DoorLimits(head_seconds=0.2)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 5:
            try:
                writer.write(b"G")
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.02)  # the pace of the attack
        assert loop.time() - began < 3
        assert await _ends(reader)
        writer.close()


async def test_a_kept_connection_may_rest_and_ask_again_but_not_drip():
    async with serving(limits=DoorLimits(head_seconds=0.2)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in await reader.readline()
            assert await reader.readuntil(b"ok")
            await asyncio.sleep(0.5)  # longer than a head may take
        writer.write(b"GET /heal")
        assert await _ends(reader)
        writer.close()


@pytest.mark.parametrize("line", ["x" * 2_000_000, "x: " + "y" * 2_000_000, "x: y\r\n" * 100_000])
async def test_large_requests_are_refused_without_being_read_to_their_end(line):
    async with serving() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        head = f"GET /status HTTP/1.1\r\nHost: localhost\r\n{line}"
        writer.write(head.encode())
        answer = await asyncio.wait_for(_first_line(reader), 5)
        assert answer == b"" or b" 400 " in answer or b" 431 " in answer
        writer.transport.abort()


async def _first_line(reader):
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _ends(reader, seconds=5):
    try:
        async with asyncio.timeout(seconds):
            return await reader.read() is not None
    except ConnectionError:
        return True


async def asked_for_much(url, *, window=16_384):
    """Ask for a large answer over a line that holds little; return who has to read it."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port_of(url)))
    reader, writer = await asyncio.open_connection(sock=line, limit=window)
    writer.write(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return reader, writer


async def test_who_takes_its_answer_too_slowly_is_put_out_though_nobody_else_comes():
    limits = DoorLimits(take_seconds=0.1)
    async with serving(limits=limits, body=b"x" * 8_000_000) as url:
        reader, writer = await asked_for_much(url)
        assert await reader.readexactly(100)
        writer.transport.pause_reading()
        await asyncio.sleep(0.6)  # the reader that takes nothing
        writer.transport.resume_reading()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.wait_for(reader.readexactly(8_000_000), 5)
            pytest.fail("the whole answer came all the same")
        writer.close()


async def test_requests_that_come_together_are_answered_in_their_order():
    paths = ["/status", "/nothing"] * 100
    async with serving() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths))
        for path in paths:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.split()[1] == (b"200" if path == "/status" else b"404")
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(int(length.split()[1]))
        writer.close()


async def asked_on(writer):
    """Ask and ask, until the connection breaks; yield what was taken of it."""
    request = b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(request)
            await writer.drain()
            yield len(request)


async def test_who_asks_on_and_takes_no_answer_is_not_listened_to_any_more_and_put_out(client):
    async with serving(limits=DoorLimits(take_seconds=1.0), body=b"x" * 65536) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), limit=1)
        async with asyncio.timeout(20):
            taken = sum([count async for count in asked_on(writer)])
        async with client.get(url + "/healthz") as answer:
            assert answer.status == 200
        assert taken < 20_000_000  # what the kernel's buffers and ours took, and nothing more
        writer.close()


class Line(asyncio.Transport):
    """A line on which so many bytes wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__()
        self.waiting, self.aborted = waiting, False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.looptime
async def test_who_takes_its_answer_slowly_but_steadily_is_left_alone_until_it_stops():
    limits = DoorLimits(head_seconds=1e6)
    guest, line = Door(asyncio.Protocol, limits)(), Line(10_000_000)
    guest.connection_made(line)
    guest.pause_writing()
    for _ in range(100):
        await asyncio.sleep(limits.take_seconds / 4)
        line.waiting -= limits.taken_bytes
        assert not line.aborted
    await asyncio.sleep(2 * limits.take_seconds + 1)
    assert line.aborted
    guest.connection_lost(None)


@pytest.mark.looptime
async def test_who_has_taken_its_answer_may_rest():
    guest, line = Door(asyncio.Protocol, DoorLimits(head_seconds=1e6))(), Line(10_000)
    guest.connection_made(line)
    guest.pause_writing()
    guest.resume_writing()
    await asyncio.sleep(3600)
    assert not line.aborted
    guest.connection_lost(None)


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/favicon.ico"])
async def test_the_page_comes_without_a_token_and_what_it_shows_does_not(client, tmp_path, path):
    (tmp_path / "token").write_text(SECRET)
    async with serving(token_file=tmp_path / "token") as url:
        async with client.get(url + path) as answer:
            assert answer.status == 200
        async with client.get(url + "/status") as answer:
            assert answer.status == 401


@pytest.mark.parametrize(
    "path",
    ["/page/../status", "/page/%2e%2e/status", "//status", "/healthz/../status", "/page/x/../../status"],
)
async def test_no_spelling_of_a_path_gets_round_the_token(tmp_path, path):
    (tmp_path / "token").write_text(SECRET)
    async with serving(token_file=tmp_path / "token") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
