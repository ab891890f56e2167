"""Figures of the agent itself: `python -m tests.bench.sidecar [swap] [start] [idle] [boot] [plan] [traces]`.

Each prints what it did and the figure; nothing is asserted. The dummy model server and the artifact
server are processes of their own, so that the agent's CPU and memory are its own. Other load on the
machine shows in the figures; it is printed with them.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.aio.wakeup import Wakeup
from agent.core.actions import Outcome
from agent.core.model import (
    DesiredState,
    ModelName,
    ModelSpec,
    ObservedState,
    Revision,
    StoredRevision,
    Told,
)
from agent.core.plan import Rules, plan
from agent.demo.kubelet import Kubelet
from agent.reconcile.loop import Clock, Limits, Reconciler
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from agent.telemetry.otel import OtelTracer
from agent.telemetry.traces import outgoing, span, within
from tests.fakes.collector import Collector
from tests.fakes.memory_world import MemoryWorld


@dataclass
class Bench:
    folder: Path
    kubelet: Kubelet
    server: str
    session: aiohttp.ClientSession


def say(text: str) -> None:
    print(f"{text}   [load {os.getloadavg()[0]:.1f}]", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def process(
    *words: str, log: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as stream:
        env = {**os.environ, **(environ or {})}
        child = await asyncio.create_subprocess_exec(*words, stdout=stream, stderr=stream, env=env)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="model-agent-bench-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        port = free_port()
        words = [sys.executable, "-m", "agent", "dummy-server", str(folder / "models"), "--port", str(port)]
        async with process(*words, log=folder / "server.log"), aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}"
            await answers(session, f"{url}/v2/health/ready")
            yield Bench(folder, Kubelet(folder / "configs"), url, session)


@asynccontextmanager
async def agent(
    bench: Bench, *words: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[psutil.Process, str]]:
    port = free_port()
    flags = [
        *("--config-dir", str(bench.folder / "configs"), "--model-dir", str(bench.folder / "models")),
        *("--server-url", bench.server, "--status-port", str(port), *words),
    ]
    run = [sys.executable, "-m", "agent", "run", *flags]
    async with process(*run, log=bench.folder / "agent.log", environ=environ) as child:
        url = f"http://127.0.0.1:{port}"
        await answers(bench.session, f"{url}/healthz")
        yield psutil.Process(child.pid), url


async def answers(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(10_000):
        try:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.002)
    raise TimeoutError(url)


def entries(uris: Sequence[str]) -> list[dict[str, object]]:
    return [
        {
            "modelName": f"m{index:05}",
            "modelSpec": {"storageUri": uri, "framework": "sklearn", "memory": "1Mi"},
        }
        for index, uri in enumerate(uris)
    ]


async def all_ready(bench: Bench, url: str, count: int) -> None:
    while True:
        async with bench.session.get(f"{bench.server}/_stats") as answer:
            loads = sum((await answer.json())["loads"].values())
        if loads >= count:
            async with bench.session.get(f"{url}/status") as answer:
                document = await answer.json()
            if sum(model["reason"] is None for model in document["models"]) == count:
                return
        await asyncio.sleep(0.1)


async def swap() -> None:
    """Config swap → load request at the server, for a model that is on disk: over 200 swaps."""
    async with bench() as here:
        source = here.folder / "src"
        for letter in "ab":
            (source / letter).mkdir(parents=True)
            (source / letter / "model.bin").write_bytes(letter.encode() * 1000)
        uris = [f"file://{source}/{letter}" for letter in "ab"]
        async with agent(here, "--allowed-roots", str(source)) as (_, url):
            for index in (0, 1):
                here.kubelet.models(entries([uris[index]]))
                await all_ready(here, url, 1)
                await asyncio.sleep(0.3)
            delays = []
            for index in range(200):
                before = await loads(here)
                await asyncio.sleep(0.02)
                began = time.perf_counter()
                here.kubelet.models(entries([uris[index % 2]]))
                while await loads(here) == before:
                    await asyncio.sleep(0)
                delays.append((time.perf_counter() - began) * 1e3)
            delays.sort()
            p50, p99 = statistics.median(delays), delays[int(len(delays) * 0.99) - 1]
            figures = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {delays[-1]:.1f} ms"
            say(f"swap: config swap to load answered, 200 swaps: {figures}")


async def loads(here: Bench) -> int:
    async with here.session.get(f"{here.server}/_stats") as answer:
        return sum((await answer.json())["loads"].values())


async def start(counts: Sequence[int]) -> None:
    """So many one-file models from http at the start, to all Ready; the cost of one; peak memory."""
    costs = {}
    for count in counts:
        async with bench() as here:
            port = free_port()
            root = here.folder / "www"
            root.mkdir()
            for index in range(count):
                (root / f"m{index:05}.bin").write_bytes(b"model %d" % index)
            conf = here.folder / "nginx.conf"
            conf.write_text(
                f"daemon off; user root; pid {here.folder}/nginx.pid; error_log {here.folder}/nginx.log;"
                "worker_processes 1;"
                "events { worker_connections 1024; } http { access_log off; keepalive_requests 1000000; "
                f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}"
            )
            async with process("nginx", "-c", str(conf), "-p", str(here.folder), log=here.folder / "n.log"):
                here.kubelet.models(entries([f"http://127.0.0.1:{port}/m{i:05}.bin" for i in range(count)]))
                began = time.perf_counter()
                async with agent(here, "--max-concurrent-downloads", "16") as (it, url):
                    await all_ready(here, url, count)
                    seconds = time.perf_counter() - began
                    costs[count] = seconds / count * 1e3
                    cpu, rss = it.cpu_times(), peak_mib(it.pid)
                    say(
                        f"start: {count} one-file models from http to Ready in {seconds:.1f} s, "
                        f"{costs[count]:.2f} ms a model, agent CPU {cpu.user + cpu.system:.1f} s, "
                        f"peak RSS {rss:.0f} MiB"
                    )
    if len(costs) == 2:
        few, many = (costs[count] for count in counts)
        say(f"start: a model costs {many / few:.2f} times as much at {counts[1]} as at {counts[0]}")


def peak_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


async def idle(seconds: float) -> None:
    """1,000 models, all Ready, nothing to do: CPU seconds and resident memory."""
    async with bench() as here:
        source = here.folder / "src"
        source.mkdir()
        for index in range(1000):
            (source / f"m{index}.bin").write_bytes(b"model %d" % index)
        here.kubelet.models(entries([f"file://{source}/m{index}.bin" for index in range(1000)]))
        async with agent(here, "--allowed-roots", str(source)) as (it, url):
            await all_ready(here, url, 1000)
            await asyncio.sleep(5)
            before = it.cpu_times()
            await asyncio.sleep(seconds)
            after = it.cpu_times()
            spent = after.user + after.system - before.user - before.system
            rss = it.memory_info().rss / 2**20
            say(f"idle: 1000 models, {seconds:.0f} s: {spent:.2f} CPU seconds, RSS {rss:.0f} MiB")


async def boot() -> None:
    """Start of the process to the first /healthz 200: median of 10."""
    async with bench() as here:
        here.kubelet.models([])
        times = []
        for _ in range(10):
            began = time.perf_counter()
            async with agent(here) as (it, _):
                times.append(time.perf_counter() - began)
                rss = it.memory_info().rss / 2**20
        middle = statistics.median(times)
        say(f"boot: process start to /healthz 200: median {middle:.2f} s of 10, RSS {rss:.0f} MiB")


async def traces(count: int = 1000) -> None:
    """A span that is off and one that is on; so many one-file models to Ready with traces off and on."""
    tracer = OtelTracer({}, InMemorySpanExporter())
    begun = tracer.begin("root", {}, None)
    for label, rounds, current in (("off", 1_000_000, nullcontext()), ("on", 20_000, within(begun))):
        with current:
            began = time.perf_counter()
            for _ in range(rounds):
                with span("fetch", objects=1):
                    outgoing()
            each = (time.perf_counter() - began) / rounds
        say(f"traces {label}: a span and its headers cost {each * 1e9:.0f} ns")
    async with Collector().serving() as collector:
        for label, environ in (
            ("off", {}),
            ("on", collector.environ()),
            ("off", {}),
            ("on", collector.environ()),
        ):
            async with bench() as here:
                source = here.folder / "src"
                source.mkdir()
                for index in range(count):
                    (source / f"m{index}.bin").write_bytes(b"model %d" % index)
                here.kubelet.models(entries([f"file://{source}/m{index}.bin" for index in range(count)]))
                began = time.perf_counter()
                async with agent(here, "--allowed-roots", str(source), environ=environ) as (it, url):
                    await all_ready(here, url, count)
                    seconds, cpu = time.perf_counter() - began, it.cpu_times()
                    say(
                        f"traces {label}: {count} models to Ready in {seconds:.1f} s, agent CPU "
                        f"{cpu.user + cpu.system:.1f} s, peak RSS {peak_mib(it.pid):.0f} MiB, "
                        f"{len(collector.spans)} spans received"
                    )
            collector.spans.clear()


class Cycles:
    """Notes how long each cycle took: to observe, to plan and to post what changed (`Observer`)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.another = asyncio.Event()

    def acted(self, outcome: Outcome, seconds: float) -> None:
        pass

    def planned(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.another.set()


async def planning() -> None:
    """One planning cycle with 10,000 models in three states: the plan alone, and all of the cycle."""
    count = 10_000
    models = {ModelName(f"m{i:05}"): ModelSpec(f"http://h/{i}", "sklearn", 1) for i in range(count)}
    stored = {
        spec.storage_uri: StoredRevision(spec.storage_uri, Revision(name), 1, 0.0)
        for name, spec in models.items()
    }
    told = {
        name: Told(Revision(name), spec.storage_uri, spec.framework, spec.memory_bytes, confirmed=True)
        for name, spec in models.items()
    }
    loaded = {name: (Revision(name), 1) for name in models}
    worlds = {
        "nothing there": MemoryWorld(server_slots=0),
        "all on disk": MemoryWorld(server_slots=0, stored=stored),
        "all served": MemoryWorld(server_slots=0, stored=stored, told=told, loaded=loaded),
    }
    for label, world in worlds.items():
        alone = min(_plan_seconds(models, world.glance(), count) for _ in range(5))
        first, best = await _cycle_seconds(models, world, count)
        cycle = f"whole cycle {best * 1e3:.0f} ms, the first {first * 1e3:.0f} ms"
        say(f"plan: {count} models, {label}: plan {alone * 1e3:.0f} ms, {cycle}")


def _plan_seconds(models: dict[ModelName, ModelSpec], seen: ObservedState, budget: int) -> float:
    began = time.perf_counter()
    plan(DesiredState(models), seen, busy={}, holds={}, rules=Rules(budget), now=1.0)
    return time.perf_counter() - began


async def _cycle_seconds(
    models: dict[ModelName, ModelSpec], world: MemoryWorld, budget: int
) -> tuple[float, float]:
    """Return the seconds of the first cycle, which posts each model, and of the best of four more."""
    cycles = Cycles()
    clock = Clock(now=time.perf_counter, wall=time.time, draw=lambda: 0.5)
    board = Board(ConfigWord("models.json"), ServerWord("http://server"), MemoryWord(budget))
    limits = Limits(downloads=0)
    reconciler = Reconciler(world, board, Rules(budget), limits, clock, Wakeup(), cycles)
    reconciler.want(DesiredState(models))
    running = asyncio.ensure_future(reconciler.run())
    for _ in range(5):
        cycles.another.clear()
        reconciler.wakeup.ring()
        await cycles.another.wait()
    running.cancel()
    await asyncio.wait([running])
    return cycles.seconds[0], min(cycles.seconds[1:])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", default=["plan", "boot", "swap", "start", "idle", "traces"])
    parser.add_argument("--counts", type=json.loads, default=[1000, 10000])
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    given = parser.parse_args()
    for which in given.which:
        match which:
            case "plan":
                await planning()
            case "boot":
                await boot()
            case "swap":
                await swap()
            case "start":
                await start(given.counts)
            case "idle":
                await idle(given.idle_seconds)
            case "traces":
                await traces()


if __name__ == "__main__":
    asyncio.run(main())
