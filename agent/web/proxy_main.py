"""The proxy as a process of its own: planning, hashing or a garbage collection never delay an inference.

Its parent holds the other end of standard input (`agent.web.proxy_words`). It imports nothing of the rest of
the agent, and is started by `agent.web.proxy_start`.
"""

import argparse
import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from agent.core.probe import read_probes
from agent.telemetry.logs import configure
from agent.web.proxy import FOR_PROBES, MOST_CLIENTS, Proxy
from agent.web.proxy_health import Health
from agent.web.proxy_words import DRAIN, READY

log = logging.getLogger("agent.proxy")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until told to drain; 0, or 1 where the port cannot be had."""
    parser = argparse.ArgumentParser(prog="agent.web.proxy_main")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--component-port", type=int, required=True)
    parser.add_argument("--quiet", type=float, required=True)
    parser.add_argument("--socket", default="")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="auto")
    given = parser.parse_args(arguments)
    configure(given.log_level, given.log_format, sys.stderr, color=not environ.get("NO_COLOR"))
    try:
        asyncio.run(_serve(given, environ.get("SERVING_READINESS_PROBE")))
    except OSError as error:
        log.error("the proxy cannot listen", extra={"port": given.port, "error": error.strerror})  # noqa: TRY400 - told in words
        return 1
    return 0


def descriptors() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def affordable(count: int) -> int:
    """How many clients may be connected with so many descriptors: two each, and some for all the rest."""
    return max(min(MOST_CLIENTS, (count - 64) // 2 - FOR_PROBES), 1)


async def _serve(given: argparse.Namespace, probe: str | None) -> None:
    reading = read_probes(probe, component_port=given.component_port, own_port=given.port)
    health = Health(reading.probes)
    tried = asyncio.Event()

    async def ready() -> bool:
        return tried.is_set() and await health.ready()

    proxy = Proxy(
        given.component_port, ready, quiet_seconds=given.quiet, most_clients=affordable(descriptors())
    )
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: _told(os.read(0, 64), tried.set, proxy.stop))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)  # the parent says when
    try:
        await proxy.serve(None, given.port, given.socket)
    finally:
        loop.remove_reader(0)
        await health.close()


def _told(words: bytes, ready: Callable[[], object], drain: Callable[[], object]) -> None:
    if not words:
        os._exit(1)
    if READY in words:
        ready()
    if DRAIN in words:
        drain()
