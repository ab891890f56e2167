"""The agent as a real process among real neighbours: storage, a kubelet, a model server.

    async with started(tmp_path) as rig:
        rig.put("a/1", b"first"); rig.want(a="a/1")
        await rig.settled("a")

Nothing here waits for a time: everything waits for what /status, a server or a process says.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from agent.demo.kubelet import Kubelet
from tests.fakes.origin import Origin
from tests.servers import real

ROOT = Path(__file__).parents[2]
LOOK_SECONDS = 0.02


class Status(dict):
    """One answer of /status."""

    def model(self, name: str) -> dict[str, Any]:
        return next((each for each in self["models"] if each["name"] == name), {})

    @property
    def names(self) -> set[str]:
        return {each["name"] for each in self["models"]}

    @property
    def ready(self) -> set[str]:
        return {each["name"] for each in self["models"] if each["ready"]}

    @property
    def done(self) -> set[str]:
        """The models that are ready and up to date."""
        return {each["name"] for each in self["models"] if each["reason"] is None}

    def reason(self, name: str) -> str | None:
        return self.model(name).get("reason")


Truth = Callable[[Status], object]


class AgentProcess:
    """`python -m agent run` with its flags, its environment and its log, on a port of its own."""

    def __init__(self, folder: Path, flags: Mapping[str, object], environ: Mapping[str, str]) -> None:
        (self.port,) = real.free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "agent.log"
        self.flags = {"status-port": self.port, "log-format": "text", **flags}
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def command(self) -> list[str]:
        flags = [f"--{name}={value}" for name, value in self.flags.items() if value is not None]
        return [sys.executable, "-m", "agent", "run", *flags]

    def launch(self, *words: str) -> None:
        """Start it, with more words on its command line, and do not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *words],
                env=self.environ,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def start(self) -> None:
        """Start it, and return once it answers /healthz."""
        self.launch()
        await self.up()

    async def up(self, seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while await self.get("/healthz") != (200, "ok\n"):
                assert self._process.poll() is None, f"the agent ended:\n{self.tail()}"
                await asyncio.sleep(LOOK_SECONDS)

    async def get(self, path: str) -> tuple[int, str] | None:
        """Return status and body, None where nothing answers."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(self.url + path) as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def status(self) -> Status:
        answer = await self.get("/status")
        if answer is None and self._process.poll() is None:
            answer = await self.get("/status")
        if answer is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 1)  # its last words
            raise AssertionError(f"the agent does not answer:\n{self.tail()}")
        return Status(json.loads(answer[1]))

    async def wait(self, true: Truth, seconds: float = 15, what: str = "") -> Status:
        """Return the first /status of which *true* holds; fail with the last one and the log's end."""
        deadline = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            status = await self.status()
            if true(status):
                return status
            if time.monotonic() > deadline:
                shown = json.dumps(status, indent=1)[:6000]
                raise AssertionError(f"not within {seconds} s: {what}\n{shown}\n{self.tail()}")
            # a large /status is asked for less often, so that the asking is no load of its own
            await asyncio.sleep(max(LOOK_SECONDS, 9 * (time.monotonic() - began)))

    async def terminate(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Ask it to end; return its exit code and the seconds that it took."""
        began = time.monotonic()
        self.signal(number)
        code = await self.ended()
        return code, time.monotonic() - began

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def restart(self, *, kill: bool = False) -> None:
        await (self.kill() if kill else self.terminate())
        await self.start()

    async def ended(self, seconds: float = 20) -> int:
        """Wait until it ends by itself and return its exit code."""
        try:
            return await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent did not end:\n{self.tail()}") from None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """End it in any case; for the way out of a test."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        return self.said()[-6000:]


@dataclass
class Rig:
    """One pod, its storage and its kubelet."""

    folder: Path
    origin: Origin
    kubelet: Kubelet
    server: real.RealServer
    agent: AgentProcess
    model_dir: Path
    dialect: str
    entries: dict[str, dict[str, object]] = field(default_factory=dict)

    # storage

    def put(self, path: str, content: bytes | str) -> None:
        """Put an object into storage."""
        self.origin.put(f"/{path}", content if isinstance(content, bytes) else content.encode())

    def uri(self, path: str) -> str:
        return path if "://" in path else f"http://127.0.0.1:{self.origin.port}/{path}"

    def asked(self, method: str | None = None, path: str | None = None) -> int:
        """Count the requests that storage has got."""
        return sum(
            (method is None or each.method == method) and (path is None or each.target == f"/{path}")
            for each in self.origin.received
        )

    # the document

    def entry(
        self, name: str, path: str, memory: object = "1Mi", framework: str = "sklearn"
    ) -> dict[str, object]:
        spec = {"storageUri": self.uri(path), "framework": framework, "memory": memory}
        return {"modelName": name, "modelSpec": spec}

    def want(self, *entries: Mapping[str, object], **paths: str) -> None:
        """Swap in a document of these entries, and of models whose URIs are given by path."""
        made = [self.entry(name, path) for name, path in paths.items()]
        self.kubelet.models([*entries, *made])

    def mount(self, raw: bytes | str) -> None:
        """Swap in a document as it is."""
        self.kubelet.write({"models.json": raw if isinstance(raw, bytes) else raw.encode()})

    # what came of it

    async def settled(self, *names: str, seconds: float = 20) -> Status:
        """Wait until exactly these models are there, ready and up to date, and the document is in force."""
        wanted = set(names)
        return await self.agent.wait(
            lambda status: (
                status["config"]["digest"] == status["config"]["appliedDigest"] == self.digest()
                and status.done == wanted == status.names
            ),
            seconds,
            f"exactly {sorted(wanted)[:10]} ready and up to date",
        )

    def digest(self) -> str:
        return hashlib.sha256(self.kubelet.payload()["models.json"]).hexdigest()

    async def served(self, name: str) -> str | None:
        """Return the beginning of the file that the dummy server serves under a name, None for no model."""
        status, document = await self._server("GET", f"/v2/models/{name}")
        if status != 200:
            return None
        files = {path: each for path, each in document["files"].items() if path != "model-settings.json"}
        return next(iter(files.values()))["head"]

    async def serves(self, name: str, head: str | None, seconds: float = 10) -> None:
        """Wait until the dummy server itself answers with that file."""
        deadline = time.monotonic() + seconds
        while True:
            found: object = "no answer"
            with contextlib.suppress(aiohttp.ClientError):
                found = await self.served(name)
            if found == head:
                return
            assert time.monotonic() < deadline, f"{name} serves {found!r}, not {head!r}\n{self.agent.tail()}"
            await asyncio.sleep(LOOK_SECONDS)

    async def stats(self) -> dict[str, Any]:
        return (await self._server("GET", "/_stats"))[1]

    async def loads(self) -> int:
        """Count the loads that the dummy server was asked for since its start."""
        return sum((await self.stats())["loads"].values())

    async def unloads(self) -> int:
        return sum((await self.stats())["unloads"].values())

    async def faults(self, **faults: object) -> None:
        """Tell the dummy server what to do wrong from now on."""
        status, answer = await self._server("POST", "/_faults", faults)
        assert status == 200, answer

    async def forget(self, pattern: str = "*") -> None:
        await self._server("POST", "/_forget", {"models": pattern})

    async def load_elsewhere(self, name: str, content: bytes) -> None:
        """Load a model on the server behind the agent's back."""
        (self.model_dir / name).mkdir()
        (self.model_dir / name / "model.joblib").write_bytes(content)
        status, answer = await self._server("POST", f"/v2/repository/models/{name}/load", {})
        assert status == 200, answer

    async def _server(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(method, self.server.url + path, json=body) as response,
        ):
            return response.status, await response.json(content_type=None)

    def directories(self) -> set[str]:
        """Return the names of all folders in the model dir, hidden ones too."""
        return {each.name for each in self.model_dir.iterdir() if each.is_dir()}


@asynccontextmanager
async def started(
    folder: Path,
    *,
    dialect: str = "kserve",
    beside: bool = False,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    server_flags: Iterable[str] = (),
    server: bool = True,
    agent: bool = True,
    mounted: bool = True,
) -> AsyncIterator[Rig]:
    """Start everything around an agent, and the agent: a dummy server that loads each folder at its start.

    `beside`: with the store in a folder beside the model dir. `server`, `agent`: start them at once.
    `mounted`: with an empty document.
    """
    model_dir = folder / "volume" / "models"
    model_dir.mkdir(parents=True)
    load_all = ["--load-all"] if dialect == "kserve" else []
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin().serving())
        dummy = await stack.enter_async_context(
            real.dummy(model_dir, dialect, flags=[*load_all, *server_flags], start=False)
        )
        rig = make_rig(folder, origin, dummy, dialect, beside=beside, flags=flags, environ=environ)
        stack.callback(rig.agent.end)
        if mounted:
            rig.want()
        if agent:
            rig.agent.launch()
        if server:
            await dummy.start()
        if agent:
            await rig.agent.up()
        yield rig


def make_rig(
    folder: Path,
    origin: Origin,
    server: real.RealServer,
    dialect: str,
    *,
    beside: bool = False,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Rig:
    """Put together what is there, the agent not started."""
    model_dir = folder / "volume" / "models"
    given: dict[str, object] = {
        "config-dir": folder / "configs",
        "model-dir": model_dir,
        "server-url": server.url,
        **({"store-dir": folder / "volume" / "store"} if beside else {}),
        **(flags or {}),
    }
    agent = AgentProcess(folder, given, environ or {})
    return Rig(folder, origin, Kubelet(folder / "configs"), server, agent, model_dir, dialect)


@asynccontextmanager
async def kept_up(server: real.RealServer) -> AsyncIterator[list[int]]:
    """Start the server again each time it ends, as a kubelet does; yields the list of its exit codes."""
    codes: list[int] = []

    async def keep() -> None:
        while True:
            if not server.running:
                codes.append(await server.ended())
                await server.start(wait=False)
            await asyncio.sleep(LOOK_SECONDS)

    task = asyncio.get_running_loop().create_task(keep())
    try:
        yield codes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Wait for what nothing tells of."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(LOOK_SECONDS)


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

    def __init__(self, rig: Rig, path: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._rig, self._path = rig, f"/{path}"
        rig.origin.scripts[self._path] = self

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        origin = self._rig.origin
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
