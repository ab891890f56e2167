"""What the image runs: KServe's agent arguments as they come, or a command of `model-agent` by its name.

Stands in for KServe's agent where nothing but the image is changed (contract §1.4 to §1.7). What to do is
decided in one pure function from arguments and environment.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.aio.leaving import run_and_leave, said_of, stop_on_signals
from agent.app import Sidecar
from agent.cli import USAGE
from agent.cli import main as run_command
from agent.core.probe import ProbeError, read_probes
from agent.settings import Settings, add_flags, settle
from agent.telemetry.logs import configure
from agent.usage import UsageError
from agent.web.proxy_child import ProxyChild, ProxyFailedError

log = logging.getLogger("agent")

UNSUPPORTED = {"log_url": "log requests (--log-url)", "enable_batcher": "batch requests (--enable-batcher)"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its name."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """KServe's agent: the proxy, and the sidecar where the puller is enabled. `notes` are to be logged."""

    settings: Settings
    notes: tuple[str, ...]

    @property
    def proxy_arguments(self) -> tuple[str, ...]:
        """What the proxy's process is started with."""
        settings = self.settings
        return (
            *("--port", str(settings.port), "--component-port", str(settings.component_port)),
            *("--quiet", str(settings.drain_quiet), "--socket", settings.agent_socket),
            *("--log-level", settings.log_level, "--log-format", settings.log_format),
        )


def decide(words: Sequence[str], environ: Mapping[str, str]) -> Command | Agent:
    """Return what to run. Raises UsageError naming every fault.

    A first word that is a URI or an absolute path is what KServe passes to a storage initializer.
    """
    if words and words[0] in {"--version", "-V", "--help", "-h"}:
        return Command(tuple(words))
    if words and not words[0].startswith("-"):
        pulling = "://" in words[0] or words[0].startswith("/")
        return Command(("pull", *words) if pulling else tuple(words))
    parser = _Parser(prog="model-agent-entrypoint", add_help=False, allow_abbrev=False)
    add_flags(parser)
    known, rest = parser.parse_known_args(list(words))
    settings = settle(vars(known), rest, environ)
    asked = [text for key, text in UNSUPPORTED.items() if (getattr(known, key) or "false") != "false"]
    if asked and settings.on_unsupported == "fail":
        raise UsageError(
            f"this image does not {' or '.join(asked)}, as this InferenceService asks of its agent: take its"
            " logger or batcher away, go back to KServe's own agent image, or set"
            " MODELAGENT_ON_UNSUPPORTED=ignore in the image"
        )
    try:
        reading = read_probes(
            environ.get("SERVING_READINESS_PROBE"),
            component_port=settings.component_port,
            own_port=settings.port,
        )
    except ProbeError as error:
        raise UsageError(f"SERVING_READINESS_PROBE {error}") from None
    ignored = (f"{flag} of KServe's agent is taken, but does nothing here" for flag in settings.ignored)
    return Agent(settings, (*reading.notes, *ignored))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; a mistake of the user's is told in words, with code 64."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        decided = decide(words, os.environ)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    return run_command(decided.words) if isinstance(decided, Command) else _run(decided)


def _run(agent: Agent) -> NoReturn:
    settings = agent.settings
    configure(settings.log_level, settings.log_format, sys.stderr, color=not os.environ.get("NO_COLOR"))
    for note in agent.notes:
        log.warning(note)
    run_and_leave(lambda: _told(agent, os.environ))


async def _told(agent: Agent, environ: Mapping[str, str]) -> int:
    code = 1
    try:
        code = await serve(agent, environ)
    except* (ProxyFailedError, OSError) as group:
        _tell(group)
    return code


def _tell(group: BaseExceptionGroup[BaseException]) -> None:
    """Say in words what prevents the start; a user's mistake has no traceback."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell(error)
            continue
        said = said_of(error) if isinstance(error, OSError) else {"error": str(error)}
        log.error("cannot start", extra=said)


async def serve(agent: Agent, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM: the sidecar ends at once, the proxy once it is drained."""
    sidecar = Sidecar(agent.settings, environ)
    tried = (lambda: not sidecar.board.missing()) if agent.settings.enable_puller else (lambda: True)
    child = ProxyChild(agent.proxy_arguments, environ, tried)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(child.run(), name="proxy")
        code = await (sidecar.run() if agent.settings.enable_puller else _until_stopped())
        if code == 0:
            await child.drain()
        keeping.cancel()
    return code


async def _until_stopped() -> int:
    """Wait for SIGTERM; where no puller is asked for, the proxy is all there is."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    await stop.wait()
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


if __name__ == "__main__":
    sys.exit(main())
