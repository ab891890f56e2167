"""`model-agent dummy-server`: a model server to try things on."""

import argparse
from collections.abc import Mapping, Sequence

from agent.demo import dummy_command
from agent.usage import no_more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the faults and traits of the dummy server."""
    dummy_command.add_arguments(parser)


def execute(given: argparse.Namespace, rest: Sequence[str], _: Mapping[str, str]) -> int:
    """Run it until SIGINT or SIGTERM."""
    no_more("dummy-server", rest)
    return dummy_command.command(given)
