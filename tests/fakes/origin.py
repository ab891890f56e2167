"""A real http server of files on 127.0.0.1, port 0, that can be told to behave like odd ones."""

import hashlib
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from aiohttp import web

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Origin:
    """Files by decoded path; `scripts` answer in their stead, by path without the query.

    `validator` is one of etag, weak, date, none. Dates advance a minute with each put, so that they
    never lie within one second of each other or of now.
    """

    validator: str = "etag"
    ranges: bool = True
    head: int | None = None  # a status with which every HEAD is refused
    chunked: bool = False  # no Content-Length
    files: dict[str, bytes] = field(default_factory=dict)
    dates: dict[str, float] = field(default_factory=dict)
    scripts: dict[str, Answer] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.dates[path] = 1.7e9 + 60 * len(self.received) + 60 * sum(map(len, self.dates)) + len(content)
        self.dates[path] = max(self.dates.values()) + 60

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.raw_path, headers))
        script = self.scripts.get(request.path)
        if script is not None:
            return await script(request)
        if request.method == "HEAD" and self.head is not None:
            return web.Response(status=self.head)
        return await self.send(request, request.path)

    async def send(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer with a file's bytes, as this server is told to."""
        content = self.files.get(path)
        if content is None:
            return web.Response(status=404, text="no such file")
        headers = {
            **self._validators(path, content),
            **self.extra,
            "Content-Type": "application/x-model; v=1",
        }
        asked = request.headers.get("Range")
        if asked and self.ranges and request.method == "GET":
            start, stop = request.http_range.start or 0, request.http_range.stop
            if start >= len(content):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            stop = min(len(content) if stop is None else stop, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return web.Response(status=206, body=content[start:stop], headers=headers)
        if self.chunked:
            response = web.StreamResponse(headers=headers)
            response.enable_chunked_encoding()
            await response.prepare(request)
            if request.method == "GET":
                await response.write(content)
                await response.write_eof()
            return response
        return web.Response(body=content, headers=headers)

    def _validators(self, path: str, content: bytes) -> dict[str, str]:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        date = {"Last-Modified": formatdate(self.dates[path], usegmt=True)}
        return {"etag": {"ETag": tag} | date, "weak": {"ETag": f"W/{tag}"}, "date": date, "none": {}}[
            self.validator
        ]

    @asynccontextmanager
    async def serving(self, ssl_context: ssl.SSLContext | None = None):
        """Listen while the context lasts; sets `port`."""
        runner = web.ServerRunner(web.Server(self.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


def redirect(location: str, status: int = 302) -> Answer:
    """Answer every request with a redirect."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer


def status(code: int, **headers: str) -> Answer:
    """Answer every request with a status."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=code, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer
