"""The command `model-agent dummy-server`, and `python -m agent.demo.dummy_command`.

The law here: every flag is one fault or one trait of the dummy server; nothing is read from the environment.
"""

import argparse
import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from agent.demo.dummy_models import BrokenModel, Dialect, Faults
from agent.demo.dummy_server import DummyServer, run

_HELP = {
    "load_seconds": "every load takes at least this long",
    "seconds_per_mib": "and this long for each MiB of the model",
    "fail": "loads of names that match are refused",
    "hang": "loads of names that match are never answered",
    "deaf": "no request is answered at all",
    "crash": "loading a name that matches ends the process",
    "drop": "names that match are loaded, but the connection breaks instead of an answer",
    "blocking": "nothing else is answered while a load runs",
    "unready": "names that match load and never become ready",
    "forgetful": "every model is lost so long after its load, as by a server that restarts unseen",
    "unload_seconds": "triton only: how long an unloaded model stays UNLOADING",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the dummy server to a command."""
    parser.add_argument(
        "model_dir", type=_folder, metavar="DIR", help="the folder that holds a folder a model"
    )
    parser.add_argument(
        "--dialect",
        choices=[str(each) for each in Dialect],
        default=str(Dialect.KSERVE),
        help="whose server it speaks like [default kserve]",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at [default 127.0.0.1]")
    parser.add_argument(
        "--port",
        type=_port,
        default=8080,
        help="0 takes a free one; it is said on standard output [default 8080]",
    )
    parser.add_argument(
        "--load-all", action="store_true", help="load every folder at the start, and end with 1 if one is bad"
    )
    for fault in fields(Faults):
        flag = "--" + fault.name.replace("_", "-")
        if isinstance(fault.default, bool):
            parser.add_argument(flag, action="store_true", help=_HELP[fault.name])
        else:
            metavar = "PATTERN" if isinstance(fault.default, str) else "SECONDS"
            parser.add_argument(
                flag,
                type=str if metavar == "PATTERN" else _seconds,
                default=fault.default,
                metavar=metavar,
                help=_HELP[fault.name],
            )


def command(arguments: argparse.Namespace) -> int:
    """Run the dummy server until SIGINT or SIGTERM; 1 where a model that it must load is bad."""
    faults = Faults(**{fault.name: getattr(arguments, fault.name) for fault in fields(Faults)})
    try:
        asyncio.run(_until_told(arguments, faults))
    except (BrokenModel, OSError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        more = "; end what listens there, or name another --port" if taken else ""
        print(f"the dummy server ends: {words}{more}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    return 0


def _folder(text: str) -> Path:
    if not os.path.isdir(text):  # noqa: PTH112 - the one that raises nothing where a folder may not be read
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: make it first, or name another")
    return Path(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number up to 65535 is wanted")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Parse *argv* and run."""
    parser = argparse.ArgumentParser(
        prog="dummy-server", description="A V2 model server that does wrong on request"
    )
    add_arguments(parser)
    return command(parser.parse_args(argv))


async def _until_told(arguments: argparse.Namespace, faults: Faults) -> None:
    dialect = Dialect(arguments.dialect)
    server = DummyServer(arguments.model_dir, dialect, faults, load_all=arguments.load_all)
    serving = asyncio.current_task()
    if serving is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):  # the outermost task, cancelled by the signal only
        await run(server, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    sys.exit(main())
