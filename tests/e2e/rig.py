"""One pod for a test: the agent as a real process among storage, a kubelet and a dummy model server.

async with started(tmp_path) as rig:
    rig.put("a/1", b"first"); rig.want(a="a/1")
    await rig.settled("a")
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agent.demo.kubelet import Kubelet
from tests.e2e.agent_process import LOOK_SECONDS, AgentProcess, Status
from tests.fakes.origin import Origin
from tests.servers import real

LAYOUT = "MODELAGENT_TEST_LAYOUT"


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

    @property
    def volume(self) -> Path:
        """What is lost with the volume: the model dir, and the store where it is beside it."""
        return self.model_dir.parent

    @property
    def store_dir(self) -> Path:
        beside = self.volume / "store"
        return beside if beside.exists() else self.model_dir

    def directories(self) -> set[str]:
        """Return the names of all folders in the model dir, hidden ones too."""
        return {each.name for each in self.model_dir.iterdir() if each.is_dir()}


@asynccontextmanager
async def started(
    folder: Path,
    *,
    dialect: str = "kserve",
    beside: bool | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    server_flags: Iterable[str] = (),
    server: bool = True,
    agent: bool = True,
    mounted: bool = True,
) -> AsyncIterator[Rig]:
    """Start everything around an agent, and the agent: a dummy server that loads each folder at its start.

    `beside`: with the store in a folder beside the model dir; None: as the environment says.
    `server`, `agent`: start them at once. `mounted`: with an empty document.
    """
    model_dir = folder / "volume" / "models"
    model_dir.mkdir(parents=True)
    if beside is None:
        beside = os.environ.get(LAYOUT) == "beside"
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
