"""HttpProvider passes the storage contract on every kind of server that is found in the wild."""

import json
import os
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack
from typing import ClassVar
from urllib.parse import quote, urlsplit

import pytest
import trustme
from aiohttp import web

from agent.storage.http import HttpProvider
from tests.contracts.storage import CONTENT, ObjectContract, one, read
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.origin import Origin
from tests.fakes.tls import server_tls

SECRETS = ("CANARYquery", "CANARYpass", "CANARYheader")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class WebTree:
    """Puts files into an origin; the URIs carry secrets in userinfo and query."""

    def __init__(self, origin: Origin, base: str) -> None:
        self._origin = origin
        self._base = base

    async def put(self, path: str, content: bytes) -> None:
        self._origin.put(f"/{path}", content)

    async def remove(self, path: str) -> None:
        del self._origin.files[f"/{path}"]

    def uri(self, path: str = "") -> str:
        return f"{self._base.format(port=self._origin.port)}/{quote(path)}?signature=CANARYquery#fragment"


class WebContract(ObjectContract):
    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture
    def secrets(self):
        return SECRETS

    @pytest.fixture
    async def origin(self):
        async with Origin(**self.options).serving() as origin:
            yield origin

    @pytest.fixture
    def tree(self, origin):
        return WebTree(origin, "http://user:CANARYpass@127.0.0.1:{port}")

    @pytest.fixture
    def environ(self):
        return {"127.0.0.1-headers": json.dumps({"X-Api-Key": "CANARYheader"})}

    @pytest.fixture
    async def provider(self, environ):
        provider = HttpProvider(environ)
        yield provider
        await provider.close()


class TestPlainServer(WebContract):
    async def test_the_type_is_told_without_its_parameters(self, provider, tree):
        await tree.put("model.zip", CONTENT)
        assert (await one(provider, tree.uri("model.zip"))).media_type == "application/x-model"


class TestServerThatRefusesHead(WebContract):
    options: ClassVar = {"head": 405}


class TestServerThatForbidsHead(WebContract):
    options: ClassVar = {"head": 403}


class TestServerThatHasNoHead(WebContract):
    options: ClassVar = {"head": 501}


class TestServerWithoutRanges(WebContract):
    options: ClassVar = {"ranges": False}


class TestServerWithoutRangesThatRefusesHead(WebContract):
    options: ClassVar = {"ranges": False, "head": 405}


class TestServerOfWeakTags(WebContract):
    options: ClassVar = {"validator": "weak"}


class TestServerOfDates(WebContract):
    options: ClassVar = {"validator": "date"}


class TestServerThatChunksButTellsTheTotal(WebContract):
    options: ClassVar = {"chunked": True}

    async def test_a_zero_byte_object_is_a_file(self, provider, tree):
        await tree.put("empty.bin", b"")
        obj = await one(provider, tree.uri("empty.bin"))
        assert obj.size is None  # there is no byte whose range would tell the total
        assert await read(provider, obj) == b""


class TestServerWithoutValidator(WebContract):
    options: ClassVar = {"validator": "none"}
    unpinned = True

    async def test_what_has_no_validator_is_not_pinned(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        assert not (await one(provider, tree.uri("model.bin"))).pinned


class TestServerThatChunksWithNoLengthAtAll(WebContract):
    options: ClassVar = {"chunked": True, "ranges": False}

    async def test_a_single_object_gives_a_file_of_its_base_name(self, provider, tree):
        await tree.put("folder/model.joblib", CONTENT)
        obj = await one(provider, tree.uri("folder/model.joblib"))
        assert (obj.path, obj.size) == ("model.joblib", None)

    async def test_a_zero_byte_object_is_a_file(self, provider, tree):
        await tree.put("empty.bin", b"")
        obj = await one(provider, tree.uri("empty.bin"))
        assert obj.size is None
        assert await read(provider, obj) == b""


class TestHttpsWithItsOwnAuthority(WebContract):
    @pytest.fixture
    async def origin(self, authority):
        async with Origin().serving(server_tls(authority, "127.0.0.1")) as origin:
            yield origin

    @pytest.fixture
    def environ(self, authority, tmp_path):
        authority.cert_pem.write_to_path(tmp_path / "cabundle.crt")
        return {"CA_BUNDLE_CONFIGMAP_NAME": "global-ca", "CA_BUNDLE_VOLUME_MOUNT_POINT": str(tmp_path)}

    @pytest.fixture
    def tree(self, origin):
        return WebTree(origin, "https://user:CANARYpass@127.0.0.1:{port}")


class TestHttpsThroughAProxy(TestHttpsWithItsOwnAuthority):
    @pytest.fixture
    async def origin(self, authority):
        async with Origin().serving(server_tls(authority, "models.test")) as origin:
            yield origin

    @pytest.fixture
    async def proxy(self, origin):
        async with ForwardProxy({"models.test": origin.port}, "Basic dTpwOnc=").serving() as proxy:
            yield proxy

    @pytest.fixture
    def environ(self, authority, tmp_path, proxy):
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        return {
            "HTTPS_PROXY": f"http://u:p%3Aw@127.0.0.1:{proxy.port}",
            "CA_BUNDLE": str(tmp_path / "ca.pem"),
        }

    @pytest.fixture
    def tree(self, origin):
        return WebTree(origin, "https://user:CANARYpass@models.test")


class TestHttpThroughAProxy(WebContract):
    @pytest.fixture
    async def proxy(self, origin):
        async with ForwardProxy({"models.test": origin.port}).serving() as proxy:
            yield proxy

    @pytest.fixture
    def environ(self, proxy):
        return {"http_proxy": f"127.0.0.1:{proxy.port}"}

    @pytest.fixture
    def tree(self, origin):
        return WebTree(origin, "http://user:CANARYpass@models.test")


class TestRedirectToASignedTarget(WebContract):
    """The URI's own server only redirects, with another signature each time."""

    @pytest.fixture
    async def front(self, origin):
        front = Origin()

        async def sign(request: web.BaseRequest) -> web.StreamResponse:
            signed = f"http://127.0.0.1:{origin.port}{request.rel_url.raw_path}?sig=CANARYquery{len(front.received)}"
            return web.Response(status=307, headers={"Location": signed})

        front.handle = sign
        async with front.serving() as front:
            yield front

    @pytest.fixture
    def tree(self, origin, front):
        class FrontTree(WebTree):
            def uri(self, path: str = "") -> str:
                port = urlsplit(super().uri(path)).port
                return super().uri(path).replace(f":{port}/", f":{front.port}/")

        return FrontTree(origin, "http://user:CANARYpass@127.0.0.1:{port}")


class NginxTree:
    def __init__(self, folder, port) -> None:
        self._folder = folder
        self._port = port
        self._puts = 0

    async def put(self, path: str, content: bytes) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self._puts += 1
        # nginx's ETag counts whole seconds
        os.utime(target, (1.7e9 + self._puts, 1.7e9 + self._puts))

    async def remove(self, path: str) -> None:
        (self._folder / path).unlink()

    def uri(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self._port}/{quote(path)}"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    """The folder and the port of an nginx that was given its listening socket: ready as soon as it runs."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (folder / "nginx.conf").write_text(
            f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events {}\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}/www;\n"
            f"client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n"
            f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; }} }}\n"
        )
        process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,  # it says that it inherited a socket
        )
    yield folder / "www", port
    process.terminate()
    process.wait(10)


class TestNginx(ObjectContract):
    @pytest.fixture
    def tree(self, nginx):
        folder, port = nginx
        yield NginxTree(folder, port)
        shutil.rmtree(folder)
        folder.mkdir()

    @pytest.fixture
    async def provider(self):
        async with AsyncExitStack() as stack:
            provider = HttpProvider({})
            stack.push_async_callback(provider.close)
            yield provider
