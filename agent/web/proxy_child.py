"""Keeps the proxy's process up, and tells it what it has to know (see `agent.web.proxy_main`)."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from agent.web.proxy_main import DRAIN, READY

log = logging.getLogger("agent.proxy")

LOOK_SECONDS = 0.25
AGAIN_SECONDS = 1.0
_PASSED_ON = ("PATH", "SERVING_READINESS_PROBE", "NO_COLOR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG")


class ProxyChild:
    """The proxy with these arguments. `tried` says whether the first set of models was tried once."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], tried: Callable[[], bool]
    ) -> None:
        self._arguments = tuple(arguments)
        self._environ = {name: environ[name] for name in _PASSED_ON if name in environ}
        self._tried = tried
        self._draining = False
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep it up until `drain`; one that ends by itself is started again."""
        while not self._draining:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "agent.web.proxy_main", *self._arguments,
                stdin=asyncio.subprocess.PIPE, env=self._environ, start_new_session=True,
            )  # fmt: skip
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._tell(process), name="tell")
                code = await process.wait()
                telling.cancel()
            if not self._draining:
                log.error("the proxy ended; it is started again", extra={"code": code})
                await asyncio.sleep(AGAIN_SECONDS)

    async def drain(self) -> None:
        """Let it finish what is under way, and wait for its end."""
        self._draining = True
        process = self._process
        if process is not None and process.returncode is None:
            _write(process, DRAIN)
            await process.wait()

    async def _tell(self, process: asyncio.subprocess.Process) -> None:
        while not self._tried():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(LOOK_SECONDS)
        _write(process, READY)


def _write(process: asyncio.subprocess.Process, word: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.write(word)
