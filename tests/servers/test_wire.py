"""HTTP to a model server, against servers that do everything wrong that HTTP allows."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.servers.wire import Lost, Reply, Unreached, Wire, printable, quoted
from agent.telemetry.traces import within
from tests.fakes.spans import FakeTracer
from tests.servers.fakes import always, raw_server, request, response
from tests.servers.real import free_ports


@pytest.fixture
async def wire_to():
    wires = []

    def make(url, **options):
        wires.append(Wire(url, **options))
        return wires[-1]

    yield make
    for wire in wires:
        await wire.close()


@given(st.text())
def test_what_a_server_says_is_shown_on_one_printable_line_of_at_most_a_kib(text):
    shown = printable(text * 50)
    assert shown.isprintable()
    assert len(shown.encode()) <= 1024


@given(st.binary(max_size=3000))
def test_any_body_has_words(body):
    reply = Reply(500, body)
    assert reply.words().isprintable()
    assert len(reply.words().encode()) <= 1024


@given(st.text(min_size=1))
def test_a_quoted_name_is_one_segment_that_stays_where_it_is(name):
    segment = quoted(name)
    assert not set(segment) & set("/?# ")
    assert segment not in (".", "..")


def test_a_traceback_is_shown_by_what_was_raised():
    body = (
        b'Traceback (most recent call last):\n  File "x.py", line 1\n    boom()\nValueError: no such layer\n'
    )
    assert Reply(500, body).words() == "ValueError: no such layer"


async def test_a_body_is_read_to_the_limit_and_not_further(wire_to):
    async def talk(reader, writer):
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_server(talk) as url:
        reply = await wire_to(url).get("/", seconds=5)
    assert (len(reply.body), reply.truncated, reply.json()) == (65536, True, None)


async def test_a_request_tells_of_which_trace_it_is_a_part_and_none_where_there_is_none(wire_to):
    heads = []

    async def talk(reader, writer):
        while True:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(response(b"{}"))

    async with raw_server(talk) as url:
        wire = wire_to(url)
        await wire.get("/", seconds=5)
        with within(span := FakeTracer().begin("root", {})):
            await wire.get("/", seconds=5)
    assert "traceparent" not in heads[0]
    assert f"traceparent: {span.headers['traceparent']}" in heads[1]


async def test_a_body_that_trickles_ends_with_the_time_allowed(wire_to):
    async def talk(reader, writer):
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    started = time.monotonic()
    async with raw_server(talk) as url:
        with pytest.raises(Lost) as caught:
            await wire_to(url).get("/", seconds=0.3)
    assert caught.value.timed_out
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "answer",
    [b"\x16\x03\x01 this is no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", b""],
)
async def test_an_answer_that_is_none_is_a_lost_one(wire_to, answer):
    async def talk(reader, writer):
        await request(reader)
        writer.write(answer)
        await writer.drain()

    async with raw_server(talk) as url:
        with pytest.raises(Lost) as caught:
            await wire_to(url).post("/", b"{}", seconds=5)
    assert not caught.value.timed_out


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\x00broken", b"<html>\x1b[31mred\r\nnew line</html>", b"[" * 60000]
)
async def test_bytes_that_are_no_json_are_words_at_most(wire_to, body):
    async with raw_server(always(response(body))) as url:
        reply = await wire_to(url).get("/", seconds=5)
    assert reply.json() is None
    assert reply.words().isprintable()


async def test_a_redirect_is_an_answer_and_is_not_followed(wire_to):
    seen = []

    async def talk(reader, writer):
        seen.append(await request(reader))
        writer.write(response(b"", "307 Temporary Redirect", "Location: /elsewhere\r\n"))
        await writer.drain()

    async with raw_server(talk) as url:
        assert (await wire_to(url).post("/here", b"{}", seconds=5)).status == 307
    assert seen == ["POST /here HTTP/1.1"]


async def test_a_kept_connection_that_died_is_replaced_once_and_unseen(wire_to):
    """Fault M11: the server closes an idle connection at the moment it is used again."""
    requests = []

    async def talk(reader, writer):
        requests.append(await request(reader))
        writer.write(response(b"first"))
        await writer.drain()
        requests.append(await request(reader))  # and hang up without an answer

    async with raw_server(talk) as url:
        wire = wire_to(url)
        assert (await wire.post("/", b"{}", seconds=5)).body == b"first"
        assert (await wire.post("/", b"{}", seconds=5)).body == b"first"
    assert len(requests) == 3


async def test_an_order_is_sent_once_and_says_whether_its_connection_may_have_been_dead(wire_to):
    connections = []

    async def talk(reader, writer):
        lines = []
        connections.append(lines)
        while True:
            line = await request(reader)
            lines.append(line)
            if "order" in line:
                return
            writer.write(response(b"here"))
            await writer.drain()

    async with raw_server(talk) as url:
        wire = wire_to(url)
        await wire.get("/ask", seconds=5)
        with pytest.raises(Lost) as kept:
            await wire.order("/order", b"{}", seconds=5)
        with pytest.raises(Lost) as fresh:
            await wire.order("/order", b"{}", seconds=5, fresh=True)
    assert (kept.value.stale, fresh.value.stale) == (True, False)
    assert connections == [["GET /ask HTTP/1.1", "POST /order HTTP/1.1"], ["POST /order HTTP/1.1"]]


async def test_a_fresh_connection_that_breaks_is_not_tried_again(wire_to):
    connections = []

    async def talk(reader, writer):
        connections.append(await request(reader))

    async with raw_server(talk) as url:
        with pytest.raises(Lost):
            await wire_to(url).post("/", b"{}", seconds=5)
    assert len(connections) == 1


async def test_a_wire_that_keeps_nothing_asks_again_where_one_connection_is_not_served(wire_to):
    connections = []

    async def talk(reader, writer):
        connections.append(await request(reader))
        if len(connections) == 1:
            await asyncio.Event().wait()
        writer.write(response(b"here"))
        await writer.drain()

    async with raw_server(talk) as url:
        wire = wire_to(url, keep=False)
        assert (await wire.get("/", seconds=2)).body == b"here"
        assert (await wire.post("/", b"{}", seconds=2)).body == b"here"
    assert len(connections) == 3


async def test_a_server_that_is_not_there_was_not_reached(wire_to, tmp_path):
    (port,) = free_ports(1)
    nobody = {f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"unix://{tmp_path}/none.sock"}
    for url in (*nobody, "http://no-such-host.invalid:80"):
        with pytest.raises(Unreached) as caught:
            await wire_to(url).get("/", seconds=5)
        assert caught.value.refused == (url in nobody)


async def test_a_unix_socket_is_spoken_to_by_its_path(wire_to, tmp_path):
    path = str(tmp_path / "server.sock")
    async with raw_server(always(response(b"hello")), path=path) as url:
        wire = wire_to(url)
        assert (await wire.get("/v2", seconds=5)).body == b"hello"
        assert wire.where == f"unix://{path}"


async def test_no_proxy_of_the_environment_is_asked(wire_to, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw_server(always(response(b"direct"))) as url:
        assert (await wire_to(url).get("/", seconds=5)).body == b"direct"


async def test_credentials_in_the_url_are_sent_and_never_shown(wire_to):
    heads = []

    async def talk(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(response(b"ok"))
        await writer.drain()

    async with raw_server(talk) as url:
        wire = wire_to(url.replace("http://", "http://user:canary@") + "/prefix/?token=canary")
        await wire.get("/v2", seconds=5)
    assert "canary" not in wire.where
    assert heads[0].startswith("GET /prefix/v2 HTTP/1.1")
    assert "Authorization: Basic dXNlcjpjYW5hcnk=" in heads[0]


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://x", "unix://relative", "http://", "unix:socket"]
)
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match=r"unix:///|http://"):
        Wire(url)


async def test_what_the_server_asks_for_before_a_retry_is_read(wire_to):
    async with raw_server(always(response(b"", "429 Too Many", "Retry-After: 7\r\n"))) as url:
        assert (await wire_to(url).get("/", seconds=5)).retry_after_seconds == 7
