"""The connection that only breaks: the end of a server is heard of at once, and nobody is pestered."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from agent.servers.tether import Tether


class Listener:
    """A server that takes connections; `close_after` seconds it ends each."""

    def __init__(self, close_after=None):
        self.close_after = close_after
        self.taken = 0
        self.came = asyncio.Event()
        self.writers = []

    async def __call__(self, reader, writer):
        self.taken += 1
        self.writers.append(writer)
        self.came.set()
        if self.close_after is not None:
            await asyncio.sleep(self.close_after)
            writer.close()

    def die(self):
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def tethered(url):
    rung = asyncio.Event()
    task = asyncio.get_running_loop().create_task(Tether(lambda: url, rung.set).run())
    try:
        yield rung
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_end_of_the_server_rings_at_once(kind, tmp_path):
    listener = Listener()
    if kind == "unix":
        server = await asyncio.start_unix_server(listener, tmp_path / "server.sock")
        url = f"unix://{tmp_path}/server.sock"
    else:
        server = await asyncio.start_server(listener, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, tethered(url) as rung:
        await asyncio.wait_for(listener.came.wait(), 10)
        assert not rung.is_set()
        listener.die()
        await asyncio.wait_for(rung.wait(), 10)


@pytest.mark.looptime
async def test_before_a_server_is_found_it_is_looked_for_four_times_a_second():
    looked = []
    tether = Tether(lambda: looked.append(None), lambda: None)
    task = asyncio.get_running_loop().create_task(tether.run())
    await asyncio.sleep(60.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(looked) == 241


async def test_a_server_that_ends_idle_connections_is_asked_more_and_more_rarely():
    listener = Listener(close_after=0)
    server = await asyncio.start_server(listener, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, tethered(url):
        await asyncio.sleep(3)  # the pace is what is tried: after 0.05, 0.1, 0.2, 0.4, 0.8, 1.6 s
    assert 1 <= listener.taken <= 7
