"""The model server's readiness probe, asked for real: each kind against a server of its kind."""

import asyncio
import contextlib

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.core.probe import GrpcCheck, HttpCheck, Probe, TcpCheck
from agent.web.proxy_health import Health
from agent.web.proxy_tls import trusting
from tests.fakes.tls import server_tls
from tests.web.relays import before_raw


async def ready(*probes):
    health = Health(probes)
    try:
        return await health.ready()
    finally:
        await health.close()


def once(check):
    return Probe(check, period_seconds=10)


@contextlib.asynccontextmanager
async def answering(status, context=None):
    seen = []

    async def handle(request):
        seen.append(request)
        return web.Response(status=status[0] if isinstance(status, list) else status)

    app = web.Application()
    app.router.add_get("/ready", handle)
    server = TestServer(app, host="127.0.0.1", scheme="https" if context else "http")
    await server.start_server(ssl=context)
    try:
        yield server.port, seen
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (302, True), (399, True), (400, False), (503, False)]
)
async def test_http_is_ready_from_200_to_399(status, good):
    async with answering(status) as (port, seen):
        headers = (("Host", "model"), ("X-A", "b"))
        assert await ready(once(HttpCheck("127.0.0.1", port, "/ready", headers=headers))) == good
        assert (seen[0].headers["Host"], seen[0].headers["X-A"]) == ("model", "b")


async def test_https_is_asked_of_anybody():
    async with answering(200, server_tls(trustme.CA(), "elsewhere.test")) as (port, _):
        assert await ready(once(HttpCheck("127.0.0.1", port, "/ready", tls=True)))


def test_asking_over_https_reads_no_certificates_of_the_machine():
    """Reading them takes a hundredth of a second and more, in which no inference would pass."""
    assert trusting().cert_store_stats()["x509"] == 0


async def test_a_port_that_takes_connections_is_ready():
    async with answering(200) as (port, _):
        assert await ready(once(TcpCheck("127.0.0.1", port)))
    assert not await ready(once(TcpCheck("127.0.0.1", port)))
    assert not await ready(once(HttpCheck("127.0.0.1", port, "/ready")))
    assert not await ready(once(GrpcCheck("127.0.0.1", port)))


async def test_all_containers_must_be_ready():
    async with answering(200) as (port, _), answering(500) as (other, _):
        good, bad = (once(HttpCheck("127.0.0.1", each, "/ready")) for each in (port, other))
        assert await ready(good, good)
        assert not await ready(good, bad)
    assert await ready()


async def test_a_probe_without_period_is_repeated_until_it_passes():
    status = [500]
    async with answering(status) as (port, seen):
        asking = asyncio.ensure_future(ready(Probe(HttpCheck("127.0.0.1", port, "/ready"), successes=2)))
        while len(seen) < 3:
            await asyncio.sleep(0.01)
        status[0] = 200
        assert await asking


async def test_asks_at_the_same_time_are_one_look():
    async with answering(200) as (port, seen):
        health = Health([once(HttpCheck("127.0.0.1", port, "/ready"))])
        assert all(await asyncio.gather(*(health.ready() for _ in range(20))))
        assert len(seen) == 1


async def test_a_server_that_says_nothing_is_not_ready_in_time():
    async def talk(*_):
        await asyncio.sleep(5)

    async with before_raw(talk) as (relay, _):
        for check in (HttpCheck, GrpcCheck):
            silent = check("127.0.0.1", relay.component_port, "")
            assert not await ready(Probe(silent, timeout_seconds=0.1, period_seconds=1))


async def grpc_health(reader, writer, status, services):
    """Answer grpc.health.v1 with a real HTTP/2 library; `status` None: a refusal with no message."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                assert dict(event.headers)[b":path"] == b"/grpc.health.v1.Health/Check"
            if isinstance(event, h2.events.DataReceived):
                services.append(event.data[7:].decode())
                head = [(":status", "200"), ("content-type", "application/grpc")]
                if status is None:
                    connection.send_headers(event.stream_id, [*head, ("grpc-status", "5")], end_stream=True)
                else:
                    connection.send_headers(event.stream_id, head)
                    message = b"\x08" + bytes([status]) if status else b""
                    connection.send_data(event.stream_id, b"\0" + len(message).to_bytes(4) + message)
                    connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        writer.write(connection.data_to_send())


@pytest.mark.parametrize(("status", "good"), [(1, True), (2, False), (0, False), (None, False)])
async def test_grpc_is_ready_when_its_health_service_says_serving(status, good):
    services = []
    async with before_raw(lambda reader, writer: grpc_health(reader, writer, status, services)) as (relay, _):
        assert await ready(once(GrpcCheck("127.0.0.1", relay.component_port, "inference.Service"))) == good
        assert await ready(once(GrpcCheck("127.0.0.1", relay.proxy.port))) == good  # through the proxy
    assert services == ["inference.Service", ""]
