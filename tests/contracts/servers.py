"""What every model-server dialect promises, tried on a server that runs as a process of its own.

Subclass `ServerContract`, and give a module-wide fixture `host` that yields a `Host`.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.servers.base import ModelServer, ModelState
from agent.servers.detect import PROTOCOLS, connect, detect
from agent.servers.v2 import Patience
from agent.servers.wire import Wire

SOCKETS = Path("/proc/net/tcp")
ESTABLISHED = "01"
QUICK = Patience(read=0.3, load=0.6, unload=1.0, settle=0.5)


class Process(Protocol):
    """The server's process; tests/servers/real.py has it."""

    url: str

    async def kill(self) -> None: ...
    async def start(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Host:
    """A server, its dialect, its model dir, and how models for it are made and asked."""

    process: Process
    dialect: str
    model_dir: Path
    files: Callable[[str, int], Mapping[str, bytes]]
    broken: Callable[[str], Mapping[str, bytes]]
    ask: Callable[[str], object]
    """Returns an awaitable of the number that the model of that name answers, None where it does not."""

    def put(self, server: ModelServer, name: str, files: Mapping[str, bytes]) -> None:
        """Lay files out as the dialect wants them, and swap the folder in."""
        spec = ModelSpec("file:///somewhere", "sklearn", 0)
        layout = server.layout(ModelName(name), spec, files.keys(), files.__getitem__)
        fresh = self.model_dir.parent / f"fresh-{name}"
        for path, content in layout.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content if isinstance(content, bytes) else files[content])
        self.remove(name)
        fresh.rename(self.model_dir / name)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.model_dir / name, ignore_errors=True)


class ServerContract:
    """The promises. Each test uses a model name of its own, so that one server serves all of them."""

    @pytest.fixture
    async def server(self, host: Host):
        server = connect([host.process.url], host.dialect)
        yield server
        await server.close()

    @pytest.fixture
    def name(self, request, host: Host):
        name = request.node.name.removeprefix("test_")
        yield name
        host.remove(name)

    async def test_a_model_is_ready_and_answers_once_load_returns(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.load(name)
        assert (await server.read()).models[name] is ModelState.READY
        assert await host.ask(name) == 7

    async def test_loading_again_serves_the_new_bytes(self, host, server, name):
        for answer in (7, 8, 7):
            host.put(server, name, host.files(name, answer))
            await server.load(name)
            assert await host.ask(name) == answer

    async def test_a_bad_model_is_rejected_in_the_words_of_the_server(self, host, server, name):
        host.put(server, name, host.broken(name))
        with pytest.raises(TerminalError, match=r"bad bytes|pop from empty list|broken") as caught:
            await server.load(name)
        assert caught.value.reason is Reason.LOAD_REJECTED
        assert len(caught.value.message.encode()) < 1400
        assert caught.value.message.isprintable()
        assert (await server.read()).models.get(name) is not ModelState.READY

    async def test_a_refused_update_leaves_the_old_bytes_answering(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.load(name)
        host.put(server, name, host.broken(name))
        with pytest.raises(TerminalError):
            await server.load(name)
        assert await host.ask(name) == 7
        assert (await server.read()).models[name] is ModelState.READY

    async def test_a_folder_that_is_not_there_is_rejected(self, server, name):
        with pytest.raises(TerminalError) as caught:
            await server.load(name)
        assert caught.value.reason is Reason.LOAD_REJECTED

    async def test_a_model_is_gone_once_unload_returns(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.load(name)
        await server.unload(name)
        assert (await server.read()).models.get(name, ModelState.UNAVAILABLE) is ModelState.UNAVAILABLE
        assert await host.ask(name) is None

    async def test_unloading_what_is_absent_succeeds(self, host, server, name):
        await server.unload(name)
        host.put(server, name, host.files(name, 7))
        await server.unload(name)

    async def test_unload_needs_no_folder(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.load(name)
        host.remove(name)
        await server.unload(name)
        assert await host.ask(name) is None

    async def test_several_loads_asked_for_at_once_all_succeed(self, host, server):
        names = [f"several-{number}" for number in range(3)]
        for number, each in enumerate(names):
            host.put(server, each, host.files(each, number))
        await asyncio.gather(*(server.load(each) for each in names))
        assert [await host.ask(each) for each in names] == list(range(len(names)))
        await asyncio.gather(*(server.unload(each) for each in names))
        for each in names:
            host.remove(each)

    @pytest.mark.parametrize("odd", ["UPPER.lower_0-9", "x" * 120, "a..b"])
    async def test_every_name_that_the_agent_takes_works(self, host, server, odd):
        host.put(server, odd, host.files(odd, 7))
        await server.load(odd)
        assert await host.ask(odd) == 7
        await server.unload(odd)
        host.remove(odd)

    @pytest.mark.parametrize("evil", ["..", "../../etc", "a/b", "a%2Fb", "a?b#c"])
    async def test_no_name_reaches_another_path(self, host, server, evil):
        before = (await server.read()).models
        with pytest.raises(AgentError):
            await server.load(evil)
        assert (await server.read()).models == before

    async def test_the_server_says_which_dialect_it_speaks(self, host):
        wire = Wire(host.process.url)
        assert await detect(wire) == host.dialect
        await wire.close()
        server = connect(["http://127.0.0.1:1", host.process.url])
        await server.read()
        assert server.traits == PROTOCOLS[host.dialect].traits
        await server.close()

    async def test_a_restarted_server_tells_the_truth_and_takes_its_models_again(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.load(name)
        await host.process.kill()
        await host.process.start()
        listed = (await server.read()).models.get(name)
        assert (await host.ask(name) == 7) == (listed is ModelState.READY)
        await server.load(name)
        assert await host.ask(name) == 7

    async def test_a_server_that_is_down_is_unavailable_at_once(self, host, server, name):
        await server.read()
        await host.process.kill()
        started = time.monotonic()
        for attempt in (server.read, lambda: server.load(name), lambda: server.unload(name)):
            with pytest.raises(RetryableError) as caught:
                await attempt()
            assert caught.value.reason is Reason.SERVER_UNAVAILABLE
        assert time.monotonic() - started < 2
        await host.process.start()

    async def test_a_server_that_hangs_costs_the_time_allowed_and_no_more(self, host, name):
        server = connect([host.process.url], host.dialect, QUICK)
        host.process.pause()
        try:
            started = time.monotonic()
            with pytest.raises(RetryableError) as reading:
                await server.read()
            with pytest.raises(RetryableError) as loading:
                await server.load(name)
            assert time.monotonic() - started < 5
        finally:
            host.process.resume()
        assert reading.value.reason is Reason.SERVER_UNAVAILABLE
        assert loading.value.reason is Reason.LOAD_TIMEOUT
        await server.close()

    async def test_a_server_that_dies_with_a_load_in_hand_has_crashed(self, host, server, name):
        host.put(server, name, host.files(name, 7))
        await server.read()
        host.process.pause()
        load = asyncio.ensure_future(server.load(name))
        await _request_waits(host.process.url)
        await host.process.kill()
        with pytest.raises(RetryableError) as caught:
            await load
        assert caught.value.reason is Reason.SERVER_CRASHED
        await host.process.start()


async def _request_waits(url: str) -> None:
    """Wait until the server's kernel holds a request that the server has not read."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    while not _unread(port):
        await asyncio.sleep(0.01)


def _unread(port: str) -> bool:
    rows = [line.split() for line in SOCKETS.read_text().splitlines()[1:]]
    return any(
        local.endswith(port) and state == ESTABLISHED and not queues.endswith(":00000000")
        for _, local, _, state, queues, *_ in rows
    )
