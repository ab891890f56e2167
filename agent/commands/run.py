"""`model-agent run`: the sidecar."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence

from agent.aio.leaving import run_and_leave
from agent.app import Sidecar
from agent.settings import Settings, add_flags, settle
from agent.telemetry.logs import configure

log = logging.getLogger("agent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the settings table."""
    add_flags(parser)


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the sidecar until it is stopped; the process ends here."""
    settings = settle(vars(given), rest, environ)
    configure(settings.log_level, settings.log_format, sys.stderr, color=not environ.get("NO_COLOR"))
    for flag in settings.ignored:
        log.warning("a flag of KServe's agent is taken, but does nothing here", extra={"flag": flag})
    run_and_leave(lambda: _serve(settings, environ))


async def _serve(settings: Settings, environ: Mapping[str, str]) -> int:
    return await Sidecar(settings, environ).run()
