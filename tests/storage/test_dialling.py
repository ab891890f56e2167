"""Fault X1 for libraries that dial by themselves: an address that is refused is never connected to."""

import asyncio
import contextlib
import socket
import threading
import urllib.request
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

import fsspec
import pytest
from aiohttp import ClientError, ClientSession
from fsspec.asyn import AsyncFileSystem
from hypothesis import given
from hypothesis import strategies as st

from agent.app import Providers
from agent.core.errors import AgentError, TerminalError
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.storage.addresses import AddressRefusedError, permit_all
from agent.storage.dialling import judged
from agent.storage.fsspec_provider import FsspecProvider
from agent.storage.gs import GsProvider
from agent.storage.hf import HfProvider
from agent.storage.proxies import Proxies
from agent.storage.s3 import S3Provider
from agent.storage.s3_client import S3Client
from agent.storage.s3_settings import s3_settings
from tests.fakes.origin import Origin, redirect

POD = Denied(networks("metadata,loopback"))
OTHER = Denied(networks("metadata,127.0.0.2"))
"""Permits where the tests' servers are, but for one more address of this machine."""


@contextmanager
def door(host="127.0.0.1"):
    """A port, and how many have come to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        server.setblocking(False)

        def came():
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
                    count += 1
            return count

        yield server.getsockname()[1], came


def plain(host, port):
    with socket.socket() as sock:
        sock.connect((host, port))


def without_raising(host, port):
    with socket.socket() as sock:
        sock.connect_ex((host, port))


def mapped(host, port):
    with socket.socket(socket.AF_INET6) as sock:
        sock.connect((f"::ffff:{host}", port))


def by_resolver(_, port):
    socket.create_connection(("localhost", port)).close()


def by_name(_, port):
    with socket.socket() as sock:
        sock.connect(("localhost", port))


def by_number(_, port):
    with socket.socket() as sock:
        sock.connect(("2130706433", port))


def by_http(host, port):
    urllib.request.urlopen(f"http://{host}:{port}/", timeout=5).close()


def on_a_loop(host, port):
    async def work():
        async with ClientSession() as session, session.get(f"http://{host}:{port}/"):
            pass

    asyncio.run(work())


WAYS = [plain, without_raising, mapped, by_resolver, by_name, by_number, by_http, on_a_loop]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_to_connect_leads_to_a_refused_address(way):
    with door() as (port, came):
        with judged(POD) as call, pytest.raises((OSError, ClientError)):
            way("127.0.0.1", port)
        assert came() == 0
        assert "may not be connected to" in call.refused


def test_no_datagram_goes_to_a_refused_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, judged(POD):
        there.bind(("127.0.0.1", 0))
        there.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            with pytest.raises(AddressRefusedError):
                here.sendto(b"x", there.getsockname())
            with pytest.raises(AddressRefusedError):
                here.sendmsg([b"x"], [], 0, there.getsockname())
        with pytest.raises(BlockingIOError):
            there.recv(1)


def test_what_is_connected_already_may_go_on_sending():
    with door() as (port, came), socket.create_connection(("127.0.0.1", port)) as sock, judged(POD):
        assert sock.sendmsg([b"x"]) == 1
        assert came() == 1


def test_all_others_connect_as_before_while_a_library_is_judged():
    """The agent's own connections to its server and to Kubernetes are on other threads and tasks."""
    inside, over = threading.Event(), threading.Event()

    def library():
        with judged(POD):
            inside.set()
            over.wait(5)

    thread = threading.Thread(target=library)
    thread.start()
    with door() as (port, came):
        assert inside.wait(5)
        for way in (plain, by_resolver, by_name):
            way("127.0.0.1", port)
        over.set()
        thread.join()
        assert came() == 3


def test_a_permitted_address_is_connected_to_and_nothing_is_remembered_of_a_call_that_is_over():
    with door() as (port, came):
        with judged(OTHER):
            plain("127.0.0.1", port)
        with judged(POD), pytest.raises(AddressRefusedError):
            plain("127.0.0.1", port)
        plain("127.0.0.1", port)
        with judged(permit_all):
            by_name("", port)
        assert came() == 3


def test_paths_of_sockets_are_no_addresses(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client, judged(POD):
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


async def refused(provider, uri):
    try:
        with pytest.raises(TerminalError) as caught:
            await provider.resolve(uri)
    finally:
        await provider.close()
    assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
    assert "--deny-address" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[0:0:0:0:0:ffff:7f00:1]", "2130706433", "0"])
async def test_no_library_lists_at_a_refused_address_however_it_is_written(host):
    with door() as (port, came):
        await refused(FsspecProvider(policy=POD), f"webhdfs://{host}:{port}/m")
        assert came() == 0


@pytest.mark.parametrize("scheme", ["ftp", "webhdfs"])
async def test_what_the_operator_denies_reaches_the_libraries(scheme):
    with door() as (port, came):
        providers = Providers({}, (), POD)
        await refused(providers(scheme), f"{scheme}://127.0.0.1:{port}/m")
        assert came() == 0


STATUS = b'{"FileStatus": {"type": "FILE", "length": 3, "modificationTime": 1, "pathSuffix": ""}}'


async def test_a_redirect_to_a_refused_address_is_not_followed_by_a_library_that_follows_redirects():
    """As webhdfs does: its name node sends whoever reads to a data node of its choice."""
    with door("127.0.0.2") as (port, came):
        async with Origin().serving() as origin:
            origin.scripts["/webhdfs/v1/m"] = redirecting_reads(f"http://127.0.0.2:{port}/secret")
            provider = FsspecProvider(policy=OTHER)
            listing = await provider.resolve(f"webhdfs://127.0.0.1:{origin.port}/m")
            source = await provider.source(listing.objects[0])
            with pytest.raises(TerminalError) as caught:
                await asyncio.to_thread(source.read, 0, 3)
            await provider.close()
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        assert came() == 0


def redirecting_reads(elsewhere):
    from aiohttp import web  # noqa: PLC0415

    async def answer(request):
        if request.query["op"] == "GETFILESTATUS":
            return web.Response(body=STATUS, content_type="application/json")
        return await redirect(elsewhere, 307)(request)

    return answer


class Asking(AsyncFileSystem):
    """A library that works on fsspec's own loop, which is a thread of all such libraries."""

    protocol = "asking"
    port = 0

    async def _info(self, path, **_):
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/") as answer:
            return {"name": path, "size": int(await answer.text()), "type": "file"}


async def test_a_library_on_the_loop_of_all_libraries_is_judged_call_by_call():
    fsspec.register_implementation("asking", Asking, clobber=True)
    async with Origin().serving() as origin:
        origin.put("/", b"7")
        Asking.port = origin.port
        free, held = FsspecProvider(), FsspecProvider(policy=POD)
        for _ in range(2):
            assert (await free.resolve("asking://m/x")).objects[0].size == 7
            with pytest.raises(AgentError) as caught:
                await held.resolve("asking://m/x")
            assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        await free.close()
        await held.close()
        assert len(origin.received) == 2


def test_addresses_are_judged_as_they_are_everywhere_else():
    assert POD(ip_address("169.254.169.254"))
    with judged(POD), pytest.raises(AddressRefusedError):
        plain("169.254.169.254", 80)


def only_here(address):
    return None if str(address) == "127.0.0.1" else "it is elsewhere"


CLIMBS = [
    "169.254.169.254/latest/meta-data", "169.254.169.254", "user@169.254.169.254/x", "b@169.254.169.254:80/x",
    "169.254.169.254#/x", "169.254.169.254?/x", "b/../../169.254.169.254", "b//169.254.169.254/x",
    "b%2f@169.254.169.254/x", "b\\@169.254.169.254/x", "b/http://169.254.169.254/x",
    "arn:aws:s3:169.254.169.254#:123456789012:accesspoint:a/x",
    "arn:aws:s3:us-east-1:123456789012:accesspoint/@169.254.169.254/x",
    "arn:aws:s3-outposts:us-east-1:123456789012:outpost:@169.254.169.254:accesspoint:a/x",
]  # fmt: skip


@pytest.mark.parametrize("rest", CLIMBS)
@pytest.mark.parametrize("scheme", ["s3", "s3 with virtual hosts", "gs", "hf"])
async def test_no_bucket_and_no_key_takes_a_library_elsewhere_than_to_the_operators_endpoint(scheme, rest):
    """They are not judged: credentials are at metadata services, storage is where the operator says."""
    async with Origin().serving() as origin:
        endpoint = f"http://localhost:{origin.port}"
        if scheme == "gs":
            provider = GsProvider({"STORAGE_EMULATOR_HOST": endpoint})
        elif scheme == "hf":
            provider = HfProvider({"HF_ENDPOINT": endpoint})
        else:
            keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": endpoint}
            virtual = {"S3_USER_VIRTUAL_BUCKET": "true" if "virtual" in scheme else "false"}
            provider = S3Provider(keys | virtual)
        with judged(only_here) as call, pytest.raises(AgentError):
            await provider.resolve(f"{scheme.partition(' ')[0]}://{rest}")
        await provider.close()
        assert call.refused is None


@given(st.text(min_size=1, max_size=70) | st.from_regex(r"[a-z0-9.@:#?/\\%-]{1,63}", fullmatch=True))
def test_whatever_a_bucket_is_called_its_host_is_amazons(amazon, bucket):
    try:
        base = amazon.address(bucket).base
    except AgentError:
        return
    parts = urlsplit(base)
    assert parts.hostname.endswith((".amazonaws.com", ".aws.dev"))
    assert (parts.scheme, parts.port, parts.username) == ("https", None, None)


@pytest.fixture(scope="module")
def amazon():
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-central-1"}
    return S3Client(s3_settings(environ), Proxies())
