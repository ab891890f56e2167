"""`model-agent controller`: TrainedModel objects become ConfigMaps and truthful status."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.aio.leaving import said_of
from agent.controller.loop import ControllerSettings
from agent.controller.run import ControllerOptions, run_controller
from agent.core.errors import AgentError
from agent.core.flagvalues import port
from agent.telemetry.logs import configure
from agent.usage import no_more

log = logging.getLogger("agent.controller")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="default: the pod's service account, KUBECONFIG, ~/.kube",
    )
    parser.add_argument(
        "--context", metavar="NAME", help="context of the kubeconfig; default: its current one"
    )
    parser.add_argument("--namespace", help="namespace of the lease; default: the one we are in")
    parser.add_argument("--probe-host", default="0.0.0.0", help="address of /healthz and /readyz")  # noqa: S104 - the kubelet asks from outside the pod
    parser.add_argument("--probe-port", type=port, default=8081, metavar="PORT", help="0: any free one")
    parser.add_argument(
        "--status-only",
        action="store_true",
        help="beside KServe's own controller: add Loaded and events, write no ConfigMap",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="KServe's TrainedModel controller is stopped for good: write the ConfigMaps that it wrote",
    )
    parser.add_argument(
        "--agent-token-file",
        type=Path,
        metavar="FILE",
        help="bearer token of agents that run with --status-token-file, read anew for each round",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--log-format", choices=["auto", "json", "text"], default="auto")


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until SIGTERM (0), or until the lease is lost, or where it cannot start (1)."""
    no_more("controller", rest)
    configure(given.log_level, given.log_format, sys.stderr, color="NO_COLOR" not in environ)
    options = ControllerOptions(
        kubeconfig=given.kubeconfig,
        context=given.context,
        namespace=given.namespace,
        probe_host=given.probe_host,
        probe_port=given.probe_port,
        settings=ControllerSettings(
            status_only=given.status_only,
            take_over=given.take_over,
            agent_token_file=given.agent_token_file,
        ),
    )
    try:
        return asyncio.run(_run(options, environ))
    except AgentError as error:
        fields = {"reason": error.reason, "message_": error.message}
        log.error("cannot start", extra=fields)  # noqa: TRY400 - told in words
        return 1
    except OSError as error:
        log.error("cannot start", extra=said_of(error))  # noqa: TRY400 - told in words
        return 1


async def _run(options: ControllerOptions, environ: Mapping[str, str]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await run_controller(options, environ, stop)
