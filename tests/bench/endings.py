"""How an agent ends, stays awake and comes back: `python -m tests.bench.endings [term awake server again]`.

Each part prints what it did, its seed and its figures; nothing is asserted but that nothing was lost. Other
load on the machine shows in the figures, and is printed with them.
"""

import argparse
import asyncio
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.e2e.rig import Rig, started
from tests.faults.tampered import CHANGES, tampered

NAMES = [f"m{number}" for number in range(6)]
LONGEST_SECONDS = 0.8  # a moment is drawn from here: by then what the document asks for is done


@asynccontextmanager
async def busy_pod(folder: Path) -> AsyncIterator[Rig]:
    """A pod whose models each take a while to come and to be loaded; the agent is not started."""
    async with started(folder, agent=False, server_flags=["--load-seconds", "0.05"]) as rig:
        for version in range(8):
            for name in NAMES:
                rig.put(f"{name}/{version}", f"{name} {version} ".encode() * 20_000)
        yield rig


async def end_at_random(rig: Rig, count: int, seed: int) -> list[float]:
    """Start the agent, ask for something new and end it at a random moment, *count* times.

    Return the seconds from SIGTERM to the end of each; raises where one did not end with 0.
    """
    draw = random.Random(seed)  # noqa: S311 - moments, not secrets
    seconds = []
    for turn in range(count):
        moment = draw.random() * LONGEST_SECONDS
        rig.want(**{name: f"{name}/{draw.randrange(8)}" for name in NAMES})
        await rig.agent.start()
        await asyncio.sleep(moment)
        code, took = await rig.agent.terminate()
        assert code == 0, f"seed {seed}, turn {turn}, after {moment:.3f} s: code {code}\n{rig.agent.tail()}"
        seconds.append(took)
    return seconds


def tail(values: Sequence[float]) -> str:
    """Return the figures of a list of seconds."""
    ordered = sorted(values)
    p99 = ordered[max(0, int(len(ordered) * 0.99) - 1)]
    return f"p50 {statistics.median(ordered):.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s"


def say(text: str) -> None:
    print(f"{text}   [load {os.getloadavg()[0]:.1f}]", flush=True)


async def term(folder: Path, count: int, seed: int) -> None:
    """SIGTERM to the end of the process, with downloads and loads in flight."""
    async with busy_pod(folder) as rig:
        seconds = await end_at_random(rig, count, seed)
        await rig.agent.start()
        await rig.settled(*NAMES)
        assert await rig.unloads() == 0
    say(f"term: SIGTERM to exit at {count} random moments, seed {seed}: {tail(seconds)}")


async def awake(folder: Path, seconds: float) -> None:
    """/healthz while the disk takes 0.4 s for each change and a library's storage never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
        }
        async with started(folder, environ=environ) as rig:
            rig.put("one", b"1" * 100_000)
            rig.want(a="one")
            await rig.settled("a")
            with tampered(rig.agent.pid, CHANGES, "delay_enter=400000"):
                rig.want(a="one", b="one", c="one", hangs="s3://bucket/model")
                took = await _asked_for(rig, seconds)
    say(f"awake: /healthz while disk and library stall, {len(took)} times: {tail(took)}")


async def _asked_for(rig: Rig, seconds: float) -> list[float]:
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        assert await rig.agent.get("/healthz") == (200, "ok\n")
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    return took


async def server(folder: Path, count: int) -> None:
    """The server is killed and is there again: seconds from its first answer to its model being back."""
    async with started(folder, dialect="triton") as rig:  # which loads nothing by itself at its start
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        seconds = []
        for _ in range(count):
            await rig.server.restart()
            began = time.monotonic()
            await rig.serves("a", "one")
            seconds.append(time.monotonic() - began)
    say(f"server: restarted {count} times, up to its model served again: {tail(seconds)}")


async def again(folder: Path, count: int) -> None:
    """The agent comes back to so many loaded models: seconds to quiet, and how long its loop was deaf."""
    source = folder / "source"
    source.mkdir()
    (source / "model.bin").write_bytes(b"model")
    names = [f"m{number:05}" for number in range(count)]
    async with started(folder, flags={"allowed-roots": source}) as rig:
        rig.want(*(rig.entry(name, f"file://{source}/model.bin") for name in names))
        await rig.settled(*names, seconds=600)
        before = (await rig.stats())["loads"]
        await rig.agent.terminate()
        began = time.monotonic()
        await rig.agent.start()
        up = time.monotonic() - began
        quiet = asyncio.create_task(rig.settled(*names, seconds=600))
        took = []
        while not quiet.done():
            took += await _asked_for(rig, 0.05)
        await quiet
        seconds = time.monotonic() - began
        assert (await rig.stats())["loads"] == before, "what was loaded was loaded again"
    say(f"again: {count} models: /healthz after {up:.2f} s, quiet after {seconds:.1f} s; then {tail(took)}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", default=["term", "awake", "server", "again"])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    parts = {
        "term": lambda folder: term(folder, given.moments, given.seed),
        "awake": lambda folder: awake(folder, given.seconds),
        "server": lambda folder: server(folder, given.restarts),
        "again": lambda folder: again(folder, given.models),
    }
    for which in given.which:
        with tempfile.TemporaryDirectory(prefix="model-agent-bench-") as name:
            await parts[which](Path(name))


if __name__ == "__main__":
    asyncio.run(main())
