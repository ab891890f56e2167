"""`model-agent run`: the sidecar."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

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
    try:
        code = asyncio.run(_serve(settings, environ))
    except OSError as error:
        fields = {"error": error.strerror or str(error), "path": error.filename}
        log.error("cannot start", extra=fields)  # noqa: TRY400 - a user's mistake has no traceback
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # threads that hang in a library must not keep the process (design §8.10)


async def _serve(settings: Settings, environ: Mapping[str, str]) -> int:
    return await Sidecar(settings, environ).run()
