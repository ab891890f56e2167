"""The demo: the main job on one machine, with nothing but this package.

A dummy model server and a small artifact server run in this process, the agent as a process of its own,
exactly as `model-agent run` starts it. models.json lies in a folder that is swapped as the kubelet does.
"""

import asyncio
import hashlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.live import Live

from agent.demo.artifact_server import ArtifactServer
from agent.demo.dummy_models import Faults
from agent.demo.dummy_server import DummyServer
from agent.demo.kubelet import Kubelet
from agent.telemetry.table import detail, models_table

MIB = 1 << 20
RATE = 16 * MIB
LOOK_SECONDS = 0.1
DEADLINE_SECONDS = 50.0  # with its start and its end the demo takes less than a minute, whatever happens
LEFT_OUT = ("spec", "conditions")  # of each model in the final /status: long, and the same five times
SIZES = {"fraud": 24, "churn": 12, "ranking": 32, "spam": 4, "pricing": 16}  # MiB


@dataclass(frozen=True, slots=True)
class Demo:
    """One running demo: where things are, and how to see them."""

    kubelet: Kubelet
    artifacts: str
    server: str
    status: str
    log: Path
    session: aiohttp.ClientSession
    console: Console

    def entry(self, name: str, path: str, memory: str = "64Mi") -> dict[str, object]:
        """Return one entry of models.json."""
        spec = {"storageUri": f"{self.artifacts}/{path}", "framework": "sklearn", "memory": memory}
        return {"modelName": name, "modelSpec": spec}

    async def document(self) -> dict[str, Any] | None:
        """Return the agent's /status, None while it does not answer."""
        try:
            async with self.session.get(f"{self.status}/status") as answer:
                found: dict[str, Any] = await answer.json()
                return found
        except aiohttp.ClientError:
            return None


async def run_demo(*, keep: bool, seconds: float = DEADLINE_SECONDS) -> int:
    """Run the demo; 0 if all that it shows came true within *seconds*, 130 if it was told to end before."""
    console = Console()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="model-agent-demo-") as folder:
        async with _started(Path(folder), console) as demo:
            stopped = asyncio.ensure_future(stop.wait())
            showing = asyncio.ensure_future(_show(demo))
            await asyncio.wait((showing, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            code = _code(demo, showing, seconds, stopped=stop.is_set())
            if code == 0 and keep:
                _say_urls(demo)
                await stop.wait()
            for task in (showing, stopped):
                task.cancel()
            await asyncio.wait((showing, stopped))
        return code


def _code(demo: Demo, showing: "asyncio.Future[bool]", seconds: float, *, stopped: bool) -> int:
    """Return how it ended, and say why where not all came true."""
    if showing.done() and showing.result():
        return 0
    if stopped:
        return 130
    why = "not as it should be" if showing.done() else f"not done within {seconds:g} s"
    demo.console.print(f"\nThe demo is {why}. The agent's log:", style="red")
    demo.console.print(demo.log.read_text(), markup=False, highlight=False)
    return 1


async def _show(demo: Demo) -> bool:
    console = demo.console
    first = [demo.entry(name, f"{name}/v1/model.bin") for name in SIZES]
    console.print(f"[bold]1.[/] models.json names {len(first)} models; the agent downloads and loads them.")
    demo.kubelet.models(first)
    good = await _follow(demo, "from models.json to Ready", set(SIZES), serving=set())
    console.print(
        "\n[bold]2.[/] The file changes: [bold]ads[/] is new, [bold]spam[/] is gone, [bold]churn[/] moves "
        "to a new URI, and the entry of [bold]pricing[/] is broken."
    )
    second = [demo.entry(name, f"{name}/v1/model.bin") for name in ("fraud", "ranking")]
    second += [demo.entry("churn", "churn/v2/model.bin"), demo.entry("ads", "ads/v1/model.bin")]
    second += [demo.entry("pricing", "pricing/v2/model.bin", memory="a lot")]
    before = await demo.document()
    demo.kubelet.models(second)
    staying = {"fraud", "ranking", "churn", "pricing"}
    good = await _follow(demo, "the change", staying | {"ads"}, serving=staying) and good
    after = await demo.document()
    console.print(f"\n[bold]3.[/] The final /status, without {' and '.join(LEFT_OUT)} of each model:")
    console.print_json(json.dumps(_shortened(after)))
    moved = _revision(before, "churn") != _revision(after, "churn")
    kept = _revision(before, "pricing") == _revision(after, "pricing") is not None
    rejected = after["config"]["rejected"] if after else []
    if not (good and moved and kept and rejected):
        return False
    console.print(
        f"\nSeen: {len(staying) + 1} models are ready; ads came, spam went, and churn serves its new"
        " revision, with no moment at which the server listed none."
    )
    console.print(
        f"Seen: pricing serves on as it was; its broken entry is rejected: {rejected[0]['message']}"
    )
    return True


async def _follow(demo: Demo, title: str, wanted: set[str], *, serving: set[str]) -> bool:
    """Show the models until exactly those of *wanted* are ready and up to date.

    False if one of *serving* was seen not ready meanwhile.
    """
    digest = hashlib.sha256((demo.kubelet.folder / "models.json").read_bytes()).hexdigest()
    said: dict[str, str] = {}
    with Live(console=demo.console, refresh_per_second=10, transient=False) as live:
        while True:
            document = await demo.document()
            if document is None:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            models = document["models"]
            if demo.console.is_terminal:
                live.update(models_table(models, title))
            else:
                _say_changes(models, said)
            if not serving <= {model["name"] for model in models if model["ready"]}:
                return False
            done = {model["name"] for model in models if model["reason"] is None}
            if document["config"]["digest"] == digest and done == wanted == {
                model["name"] for model in models
            }:
                live.update(models_table(models, title))
                return True
            await asyncio.sleep(LOOK_SECONDS)


def _say_changes(models: Sequence[Mapping[str, Any]], said: dict[str, str]) -> None:
    """Print a line for each model whose phase changed: what a live table shows, for a log file."""
    for model in models:
        if said.get(model["name"]) != model["phase"]:
            said[model["name"]] = model["phase"]
            print(f"  {model['name']:<10} {model['phase']:<12} {detail(model)}".rstrip())  # noqa: T201 - a command's output
    for name in said.keys() - {model["name"] for model in models}:
        del said[name]
        print(f"  {name:<10} gone")  # noqa: T201 - a command's output


def _revision(document: Mapping[str, Any] | None, name: str) -> str | None:
    models = document["models"] if document is not None else []
    return next((model["servedRevision"] for model in models if model["name"] == name), None)


def _shortened(document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if document is None:
        return {}
    models = [
        {key: value for key, value in model.items() if key not in LEFT_OUT} for model in document["models"]
    ]
    return {**document, "models": models}


def _say_urls(demo: Demo) -> None:
    lines = [
        f"  {demo.status}/                    the status page, for a browser",
        f"  {demo.status}/status              everything the agent knows",
        f"  {demo.status}/status/churn        one model, explained",
        f"  {demo.status}/readyz?verbose      what readiness waits for",
        f"  {demo.server}/v2/models           what the model server says",
    ]
    for line in ("", "Still running. Look at:", *lines):
        print(line)  # noqa: T201 - whole URLs, which a console would wrap
    print(f"Edit {demo.kubelet.folder / 'models.json'} and watch. Ctrl-C ends it.", flush=True)  # noqa: T201


# What runs.


@asynccontextmanager
async def _started(folder: Path, console: Console) -> AsyncIterator[Demo]:
    versions = [(name, "v1", size) for name, size in SIZES.items()]
    versions += [("churn", "v2", 14), ("ads", "v1", 8), ("pricing", "v2", 8)]
    files = {
        f"{name}/{version}/model.bin": _content(name + version, size) for name, version, size in versions
    }
    models, configs, log = folder / "models", folder / "configs", folder / "agent.log"
    models.mkdir()
    async with AsyncExitStack() as stack:
        artifacts = await stack.enter_async_context(_served(ArtifactServer(files, RATE).app()))
        dummy = DummyServer(models, faults=Faults(load_seconds=0.3))
        server = await stack.enter_async_context(_served(dummy.app()))
        port = _free_port()
        await stack.enter_async_context(_agent(configs, models, server, port, log))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        console.print("The agent runs here, between two servers that stand in for storage and model server:")
        for name, url in (
            ("storage", artifacts),
            ("model server", server),
            ("agent", f"http://127.0.0.1:{port}/status"),
        ):
            console.print(f"  {name:<13} {url}")
        yield Demo(Kubelet(configs), artifacts, server, f"http://127.0.0.1:{port}", log, session, console)


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _agent(configs: Path, models: Path, server: str, port: int, log: Path) -> AsyncIterator[None]:
    flags = {
        "config-dir": configs,
        "model-dir": models,
        "server-url": server,
        "status-port": port,
        "memory-budget": "512Mi",
        "max-concurrent-downloads": 3,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", "run", *words, stdout=stream, stderr=stream
        )
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _content(seed: str, mebibytes: int) -> bytes:
    return (seed.encode() * 4096)[:4096] * (mebibytes * MIB // 4096)
