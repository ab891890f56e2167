"""`model-agent webhook`: the optional admission webhook, for TrainedModels and for the sidecar."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.aio.leaving import said_of
from agent.core.errors import AgentError
from agent.core.flagvalues import port
from agent.core.inject import Options
from agent.core.injection import LABEL
from agent.telemetry.logs import configure
from agent.usage import no_more
from agent.webhook.server import serve_webhook

log = logging.getLogger("agent.webhook")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--cert-dir", type=Path, required=True, metavar="DIR", help="holds tls.crt and tls.key"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - the API server calls from outside the pod
    parser.add_argument("--port", type=port, default=9443)
    parser.add_argument(
        "--inject-image",
        default=Options().image,
        help=f"the sidecar's image in pods that ask for it by the label {LABEL} [default {Options().image}]",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--log-format", choices=["auto", "json", "text"], default="auto")


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM (0), or 1 where the certificate or the port cannot be used."""
    no_more("webhook", rest)
    configure(given.log_level, given.log_format, sys.stderr, color="NO_COLOR" not in environ)
    try:
        asyncio.run(_serve(given))
    except AgentError as error:
        fields = {"reason": error.reason, "message_": error.message}
        log.error("cannot start", extra=fields)  # noqa: TRY400 - told in words
        return 1
    except OSError as error:
        log.error("cannot start", extra=said_of(error))  # noqa: TRY400 - told in words
        return 1
    return 0


async def _serve(given: argparse.Namespace) -> None:
    serving = asyncio.current_task()
    if serving is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):  # the outermost task, cancelled by the signal only
        certificate, key = given.cert_dir / "tls.crt", given.cert_dir / "tls.key"
        options = Options(image=given.inject_image)
        await serve_webhook(given.host, given.port, certificate, key, options=options)
