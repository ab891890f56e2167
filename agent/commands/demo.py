"""`model-agent demo`: the main job on this machine."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence

from agent.demo.local_run import run_demo
from agent.usage import no_more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the demo."""
    parser.add_argument("--keep", action="store_true", help="stay up afterwards and say which URLs to open")


def execute(given: argparse.Namespace, rest: Sequence[str], _: Mapping[str, str]) -> int:
    """Run the demo; 0 if all that it shows came true."""
    no_more("demo", rest)
    return asyncio.run(run_demo(keep=given.keep))
