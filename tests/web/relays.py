"""A proxy before a model server of a few lines, and clients that see bytes."""

import asyncio
import contextlib
from dataclasses import dataclass

from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.web.proxy import Proxy


@dataclass
class Relay:
    proxy: Proxy
    component_port: int
    ready: list
    serving: asyncio.Task

    @property
    def url(self):
        return f"http://127.0.0.1:{self.proxy.port}"

    async def raw(self):
        return await asyncio.open_connection("127.0.0.1", self.proxy.port)

    async def ask(self, *lines, body=b""):
        """Send one request, and return all bytes until the end of the connection."""
        reader, writer = await self.raw()
        writer.write(b"\r\n".join([*lines, b"Connection: close", b"", body]))
        answer = await reader.read()
        await closed(writer)
        return answer


async def closed(writer):
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def relayed(port, *, quiet=0.0, socket_name=""):
    """A proxy to that port; `ready` holds what the readiness probe says."""
    ready = [True]

    async def healthy():
        return ready[0]

    proxy = Proxy(port, healthy, quiet_seconds=quiet)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(proxy.serve("127.0.0.1", 0, socket_name))
        await proxy.listening()
        try:
            yield Relay(proxy, port, ready, serving)
        finally:
            proxy.stop()
            await asyncio.wait([serving], timeout=5)
            serving.cancel()


@contextlib.asynccontextmanager
async def before(handler, **more):
    """A proxy before an aiohttp server whose one handler takes every request."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(app, host="127.0.0.1") as server, relayed(server.port, **more) as relay:
        yield relay


@contextlib.asynccontextmanager
async def before_raw(talk, **more):
    """A proxy before a server that is one function of reader and writer; yields relay and connections."""
    seen, tasks = [], set()

    async def take(reader, writer):
        seen.append(writer)
        tasks.add(asyncio.current_task())
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await closed(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        async with server, relayed(server.sockets[0].getsockname()[1], **more) as relay:
            yield relay, seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
