"""Odd neighbours of an agent: a kubelet that keeps a server up, a relay that counts, storage that waits."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.e2e.agent_process import LOOK_SECONDS
from tests.fakes.origin import Origin
from tests.servers import real


@asynccontextmanager
async def kept_up(
    server: real.RealServer, ended: Callable[[int], object] = lambda _code: None
) -> AsyncIterator[list[int]]:
    """Start the server again each time it ends, as a kubelet does; yields the list of its exit codes."""
    codes: list[int] = []

    async def keep() -> None:
        while True:
            if not server.running:
                codes.append(await server.ended())
                ended(codes[-1])
                await server.start(wait=False)
            await asyncio.sleep(LOOK_SECONDS)

    task = asyncio.get_running_loop().create_task(keep())
    try:
        yield codes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Relay:
    """Passes connections on to a server, and notes the loads and unloads that go by."""

    def __init__(self, url: str) -> None:
        self.orders: list[str] = []
        self.url = ""
        self._port = int(url.rpartition(":")[2])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Relay"]:
        listener = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with listener:
            yield self

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, back, self._note))
                group.create_task(self._copy(there, writer, lambda _: None))
        finally:
            for each in (back, writer):
                each.close()

    def _note(self, piece: bytes) -> None:
        found = re.findall(rb"^POST /v2/repository/models/(\S+)", piece, re.MULTILINE)
        self.orders += [each.decode() for each in found]

    @staticmethod
    async def _copy(
        source: asyncio.StreamReader, target: asyncio.StreamWriter, note: Callable[[bytes], object]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                note(piece)
                target.write(piece)
                await target.drain()
        target.close()


class Gate:
    """A script for an object of storage: sends half of it, then waits to be opened. `reached` tells."""

    def __init__(self, origin: Origin, path: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._origin, self._path = origin, f"/{path}"
        origin.scripts[self._path] = self

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        origin = self._origin
        if request.method == "HEAD" or self.opened.is_set():
            return await origin.send(request, self._path)
        content = origin.files[self._path]
        start = request.http_range.start or 0
        response = web.StreamResponse(headers=origin._validators(self._path, content))
        response.content_length = len(content) - start
        if "Range" in request.headers:
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        half = start + (len(content) - start) // 2
        await response.write(content[start:half])
        self.reached.set()
        await self.opened.wait()
        await response.write(content[half:])
        return response
