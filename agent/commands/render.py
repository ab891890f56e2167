"""`model-agent render -f FILE`: the ConfigMaps that the controller would write."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from agent.controller.files import render_files
from agent.usage import no_more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        *("-f", "--filename"),
        action="append",
        required=True,
        metavar="FILE",
        help="TrainedModels, with their parents if you have them; - is standard input",
    )
    parser.add_argument("--isvc", metavar="NAME", help="only the models of this InferenceService")


def execute(given: argparse.Namespace, rest: Sequence[str], _: Mapping[str, str]) -> int:
    """Print them; what is refused is explained on standard error."""
    no_more("render", rest)
    return render_files(given.filename, given.isvc, sys.stdout, sys.stderr)
