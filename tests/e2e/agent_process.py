"""The agent as a real process, and what it says of itself.

Nothing here waits for a time: everything waits for what /status or the process itself says.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

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
        self.headers: dict[str, str] = {}  # sent with what is asked
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
                session.get(self.url + path, headers=self.headers) as response,
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


async def until(true: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Wait for what nothing tells of."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(LOOK_SECONDS)
