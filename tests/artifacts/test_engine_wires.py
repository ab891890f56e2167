"""The ways to an origin: TLS with a CA of our own, client certificates, proxies, IPv6, lost connections."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import select
import socket
import ssl
import threading

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.wire import TlsWire
from agent.core.errors import AgentError
from agent.core.reasons import Reason
from tests.artifacts.engine_orders import FAST, LARGE, SMALL, Orders
from tests.fakes.faulty_origin import Fault, FaultyOrigin
from tests.fakes.proxy import Proxy

PATHS = ("/large", "/small", "/empty")


@pytest.fixture
def engine():
    engine = Engine(FAST)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def server_context(ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(ca):
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def all_of(origin, engine, folder, **provider):
    for path, content in zip(PATHS, (LARGE, SMALL, b""), strict=True):
        origin.put(path, content)
    orders = Orders(origin, folder, **provider)
    await engine.move(await orders.of(*PATHS))
    assert [orders.read(path) for path in PATHS] == [LARGE, SMALL, b""]


async def test_tls_with_a_ca_of_our_own(engine, tmp_path, server_context, client_context):
    with FaultyOrigin(context=server_context) as origin:
        await all_of(origin, engine, tmp_path, ssl_context=client_context)


@pytest.mark.parametrize(
    "fault", [Fault(cut=3_000_000), Fault(reset=3_000_000), Fault(hang_up=True)], ids=repr
)
async def test_tls_that_breaks_off_is_got_over(engine, tmp_path, server_context, client_context, fault):
    with FaultyOrigin(context=server_context) as origin:
        origin.put("/large", LARGE, [Fault(), fault, fault])
        orders = Orders(origin, tmp_path, ssl_context=client_context)
        await engine.move(await orders.of("/large"))
        assert orders.read("/large") == LARGE


async def test_tls_1_2_is_spoken_too(engine, tmp_path, server_context, client_context):
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with FaultyOrigin(context=server_context) as origin:
        await all_of(origin, engine, tmp_path, ssl_context=client_context)


async def test_a_ca_that_is_not_trusted_is_a_tls_error_at_once(engine, tmp_path, server_context):
    with FaultyOrigin(context=server_context) as origin:
        origin.put("/small", SMALL)
        orders = Orders(origin, tmp_path, ssl_context=ssl.create_default_context())
        with pytest.raises(AgentError) as caught:
            await engine.move(await orders.of("/small"))
        assert caught.value.reason is Reason.TLS_ERROR
        assert "127.0.0.1" in caught.value.message


async def test_a_client_certificate_is_shown(engine, tmp_path, ca, server_context, client_context):
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    ca.issue_cert("client.test").configure_cert(client_context)
    with FaultyOrigin(context=server_context) as origin:
        await all_of(origin, engine, tmp_path, ssl_context=client_context)


async def test_https_goes_through_a_connect_proxy_with_its_password(
    engine, tmp_path, server_context, client_context
):
    with FaultyOrigin(context=server_context) as origin, Proxy(password="s3cret&") as proxy:
        url = proxy.url.replace("&", "%26")
        await all_of(origin, engine, tmp_path, ssl_context=client_context, proxy=url)
        assert {line.split()[0] for line in proxy.asked} == {"CONNECT"}


async def test_http_goes_through_a_proxy_in_absolute_form(engine, tmp_path):
    with FaultyOrigin() as origin, Proxy(password="s3cret") as proxy:
        await all_of(origin, engine, tmp_path, proxy=proxy.url)
        assert all(line.startswith("GET http://127.0.0.1") for line in proxy.asked)


@pytest.mark.parametrize(
    ("status", "reason"), [(407, Reason.ACCESS_DENIED), (502, Reason.STORAGE_UNAVAILABLE)]
)
async def test_a_proxy_that_refuses_is_named_without_its_password(
    engine, tmp_path, server_context, client_context, status, reason
):
    with FaultyOrigin(context=server_context) as origin, Proxy(password="s3cret", refuse=status) as proxy:
        origin.put("/small", SMALL)
        orders = Orders(origin, tmp_path, ssl_context=client_context, proxy=proxy.url)
        with pytest.raises(AgentError) as caught:
            await engine.move(await orders.of("/small"))
        assert caught.value.reason is reason
        assert "proxy 127.0.0.1" in caught.value.message
        assert "s3cret" not in str(caught.value)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_ipv6_literals_are_reached(engine, tmp_path):
    with FaultyOrigin(host="::1") as origin:
        await all_of(origin, engine, tmp_path)


async def test_nobody_listening_is_unavailable_and_names_the_place(engine, tmp_path):
    with FaultyOrigin() as origin:
        origin.put("/small", SMALL)
        orders = Orders(origin, tmp_path)
        wanted = await orders.of("/small")
    with pytest.raises(AgentError) as caught:
        await engine.move(wanted)
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert f"127.0.0.1:{origin.port}" in caught.value.message


async def test_a_connection_that_was_closed_while_idle_is_replaced_unseen(engine, tmp_path):
    with FaultyOrigin() as origin:
        for number in range(40):
            origin.put(f"/{number}", SMALL, [Fault(), Fault(hang_up=True)] if number % 3 == 0 else [])
        orders = Orders(origin, tmp_path)
        paths = [f"/{number}" for number in range(40)]
        await engine.move(await orders.of(*paths))
        for number in range(0, 40, 3):
            (tmp_path / str(number)).unlink()
        await engine.move(await orders.of(*paths[::3]))
        assert all(orders.read(path) == SMALL for path in paths)


async def test_an_address_that_the_policy_refuses_is_never_connected_to(tmp_path):
    engine = Engine(FAST, policy=lambda address: "it is loopback" if address.is_loopback else None)
    with FaultyOrigin() as origin:
        origin.put("/small", SMALL)
        orders = Orders(origin, tmp_path)
        with pytest.raises(AgentError) as caught:
            await engine.move(await orders.of("/small"))
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        assert origin.connected == 0
    engine.close()


async def test_a_cancel_while_a_connection_is_being_made_keeps_the_partial(tmp_path):
    blocked, dialled = threading.Event(), threading.Event()

    def policy(address):  # asked between the name and the connection
        if dialled.is_set():
            blocked.wait(20)

    engine = Engine(FAST, policy=policy)
    with FaultyOrigin() as origin:
        origin.put("/large", LARGE, [Fault(cut=3_000_000)])
        origin.on_request = lambda _: dialled.set()
        orders = Orders(origin, tmp_path)
        task = asyncio.ensure_future(engine.move(await orders.of("/large")))
        while orders.meters["/large"].done < 2_900_000:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert len(orders.litter()) == 2
        blocked.set()
    engine.close()


@contextlib.contextmanager
def tls_pair(server_context, client_context):
    """A wire, and the server's end of it once it shook hands."""
    ours, theirs = socket.socketpair()
    shaken = concurrent.futures.ThreadPoolExecutor(1)
    server = shaken.submit(server_context.wrap_socket, theirs, server_side=True)
    wire = TlsWire(ours, client_context, "127.0.0.1", 5)
    with server.result(), contextlib.closing(wire), shaken:
        yield wire, server.result()


def read_all(wire, rooms):
    """Read to the end, so much at once as *rooms* say in turn; only when there is something."""
    came, turns, poll = b"", itertools.cycle(rooms), select.poll()
    poll.register(wire.descriptor, select.POLLIN)
    while True:
        if not wire.buffered:
            assert poll.poll(5000)
        buffer = bytearray(next(turns))
        count = wire.read(memoryview(buffer))
        if count == 0:
            return came
        assert count is None or count <= len(buffer)
        came += buffer[: count or 0]


@pytest.mark.parametrize("farewell", [True, False])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(st.integers(1, 100_000), min_size=1, max_size=6),
    rooms=st.lists(st.integers(1 << 10, 1 << 20), min_size=1),
)
def test_tls_brings_what_was_sent_however_it_is_cut(server_context, client_context, farewell, sent, rooms):
    parts = [bytes([number]) * size for number, size in enumerate(sent)]

    def send(server):
        for part in parts:
            server.sendall(part)
        if farewell:
            with contextlib.suppress(OSError):  # the other side does not answer it
                server.settimeout(0.01)
                server.unwrap()
        server.shutdown(socket.SHUT_WR)

    with tls_pair(server_context, client_context) as (wire, server):
        sender = threading.Thread(target=send, args=(server,))
        sender.start()
        assert read_all(wire, rooms) == b"".join(parts)
        sender.join()


def test_a_tls_request_that_the_kernel_takes_bit_by_bit_goes_out_once(server_context, client_context):
    request = bytes(range(251)) * 8192
    came = bytearray()

    def read(server):
        while len(came) < len(request) and (part := server.recv(1 << 14)):
            came.extend(part)

    with tls_pair(server_context, client_context) as (wire, server):
        assert wire.write(request) == 0  # it is more than the kernel takes
        reader = threading.Thread(target=read, args=(server,))
        reader.start()
        poll = select.poll()
        poll.register(wire.descriptor, select.POLLOUT)
        while not (count := wire.write(request)):
            assert poll.poll(5000)
        reader.join()
    assert (count, bytes(came)) == (len(request), request)


def test_a_peer_that_says_nothing_ends_the_tls_handshake_in_time(client_context):
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        TlsWire(ours, client_context, "127.0.0.1", 0.05)


def test_a_peer_that_drips_ends_the_tls_handshake_in_time(client_context):
    """The time is for all of it, not for each byte."""
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def drip():
        for byte in b"\x16\x03\x03\x40\x00" + bytes(2000):
            if over.wait(0.001):
                return
            theirs.send(bytes([byte]))

    dripping = threading.Thread(target=drip)
    dripping.start()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            TlsWire(ours, client_context, "127.0.0.1", 0.2)
        assert dripping.is_alive()  # there was always more to come
        over.set()
        dripping.join()
