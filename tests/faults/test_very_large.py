"""Faults S17, S19, B6: very many objects, one beyond 32 bits, a server far over what was declared."""

import asyncio
import hashlib
import os
import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.http import HttpProvider
from agent.storage.s3 import S3Provider
from tests.e2e.rig import started
from tests.storage.test_s3_odd import MORE, entry

GIB = 1 << 30


@pytest.mark.parametrize("thousands", [5, pytest.param(100, marks=pytest.mark.soak)])
async def test_a_listing_of_very_many_objects_costs_some_hundred_bytes_each(thousands):
    async def answer(request):
        if request.method == "HEAD":
            return web.Response(status=404)
        page = int(request.query.get("continuation-token", "0"))
        body = "".join(entry(f"m/{page:03}/{number:03}.bin") for number in range(1000))
        more = MORE.format(page + 1) if page + 1 < thousands else ""
        return web.Response(
            text=f"<ListBucketResult>{body}{more}</ListBucketResult>", content_type="text/xml"
        )

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "awsAnonymousCredential": "true"}
        provider = S3Provider(environ)
        await provider.resolve("s3://b/m/") if thousands > 5 else None  # what libraries take once
        before = psutil.Process().memory_info().rss
        listing = await provider.resolve("s3://b/m/")
        grown = psutil.Process().memory_info().rss - before
        await provider.close()
    assert len(listing.objects) == 1000 * thousands
    assert grown < 64 << 20 if thousands == 5 else grown < 1000 * thousands * 1500


class Zeros(BaseHTTPRequestHandler):
    """Serves ranges of a sparse file."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._head(200, self.server.size)

    def do_GET(self):
        start, _, stop = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(start), int(stop or self.server.size - 1) + 1
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{self.server.size}"}
        self._head(206, stop - start, **span)
        while start < stop:
            start += os.sendfile(self.connection.fileno(), self.server.descriptor, start, stop - start)

    def _head(self, status, length, **more):
        self.send_response(status)
        for name, value in {"Content-Length": length, "ETag": '"zeros"', **more}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *_):
        pass


@contextmanager
def zeros(path, size):
    with path.open("w+b") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"last")
        file.flush()
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Zeros)
        server.daemon_threads, server.size, server.descriptor = True, size, file.fileno()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/large.bin"
        finally:
            server.shutdown()
            server.server_close()


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_an_object_beyond_32_bits_comes_whole(tmp_path):
    size = 4 * GIB + 12_345
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 6 * GIB:
        pytest.skip("6 GiB of disk are needed")
    with zeros(tmp_path / "sparse", size) as uri, Store.open(tmp_path / "m", tmp_path / "s") as store:
        provider = HttpProvider({})
        fetcher = Fetcher(lambda _: provider, store, Engine())
        stored = await fetcher.fetch(uri, Progress(), relist=False)
        await fetcher.close()
        await provider.close()
        (item,) = store.manifest(uri, stored.revision).entries
        digests = [
            await asyncio.to_thread(digest, each)
            for each in (store.blob_path(item.blob), tmp_path / "sparse")
        ]
    assert (item.size, digests[0]) == (size, digests[1])


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


async def test_a_server_that_outgrows_what_was_declared_is_shown_and_nothing_is_taken_away_for_it(tmp_path):
    """The budget counts what documents declare; what the server really takes stands beside it on /status."""
    async with started(tmp_path, flags={"memory-budget": "2Mi", "resync-interval": "1s"}) as rig:
        rig.put("one", b"1")
        rig.want(a="one")
        status = await rig.agent.wait(
            lambda status: (status["memory"]["serverRssBytes"] or 0) > 2 << 20 and status.done == {"a"}
        )
        assert status["memory"]["agentRssBytes"] > 2 << 20
        assert await rig.unloads() == 0
