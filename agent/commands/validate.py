"""`model-agent validate -f FILE`: check TrainedModels and models.json before they are applied."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from agent.controller.files import validate_files
from agent.usage import no_more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        *("-f", "--filename"),
        action="append",
        required=True,
        metavar="FILE",
        help="YAML or JSON, many documents, a ConfigMap or a bare models.json; - is standard input",
    )


def execute(given: argparse.Namespace, rest: Sequence[str], _: Mapping[str, str]) -> int:
    """Check; 0 if all is good, 1 with a line a fault."""
    no_more("validate", rest)
    return validate_files(given.filename, sys.stdout, sys.stderr)
