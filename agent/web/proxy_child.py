"""Keeps the proxy's process up, and tells it what it has to know (see `agent.web.proxy_words`)."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from agent.web.proxy_words import DRAIN, READY

log = logging.getLogger("agent.proxy")

LOOK_SECONDS = 0.25
AGAIN_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0
"""Who ran so long begins anew with the short pauses."""
MOST_FAILURES = 7
"""With these pauses, after about a minute: the container's restart is told to more people than this log."""
_PASSED_ON = ("PATH", "SERVING_READINESS_PROBE", "NO_COLOR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG")


class ProxyFailedError(Exception):
    """The proxy cannot be kept up; says what was tried, and what to look at."""


class ProxyChild:
    """The proxy with these arguments. `tried` says whether the first set of models was tried once."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        tried: Callable[[], bool],
        *,
        most_failures: int = MOST_FAILURES,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._arguments = tuple(arguments)
        self._environ = {name: environ[name] for name in _PASSED_ON if name in environ}
        self._tried = tried
        self._most_failures, self._again_seconds = most_failures, again_seconds
        self._draining = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep it up until `drain`; one that ends by itself is started again, ever later.

        Raises ProxyFailedError where it ended so often that nothing will come of it.
        """
        now, failures = asyncio.get_running_loop().time, 0
        while not self._draining.is_set():
            began = now()
            code = await self._once()
            if self._draining.is_set():
                return
            failures = 1 if now() - began > STEADY_SECONDS else failures + 1
            if failures >= self._most_failures:
                raise ProxyFailedError(
                    f"the proxy ended {failures} times in a row, at last with code {code}; its"
                    " own lines say why"
                )
            pause = min(self._again_seconds * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
            log.error("the proxy ended; it is started again", extra={"code": code, "seconds": pause})
            await asyncio.sleep(pause)

    async def _once(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agent.web.proxy_start", *self._arguments,
            stdin=asyncio.subprocess.PIPE, env=self._environ, start_new_session=True,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(process), name="tell")
            code = await process.wait()
            telling.cancel()
        return code

    async def drain(self) -> None:
        """Let it finish what is under way, and wait for its end."""
        self._draining.set()
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
