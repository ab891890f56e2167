"""The command line: `model-agent COMMAND …`. It reads words and hands them on; exit codes: design §8.14."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from agent import __version__
from agent.settings import UsageError, add_flags, settle

USAGE = 64  # EX_USAGE of sysexits.h

Command = Callable[[argparse.Namespace, Sequence[str], Mapping[str, str]], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake of the user's is told in words, with code 64."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _commands()
    try:
        known, rest = parser.parse_known_args(words)
        command: Command | None = getattr(known, "command", None)
        if command is None:
            parser.print_help()
            return USAGE
        if rest and not known.takes_rest:
            raise UsageError(
                f"{parser.prog} {words[0]}: what is {' '.join(rest)!r}? see {parser.prog} {words[0]} --help"
            )
        return command(known, rest, os.environ)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except KeyboardInterrupt:
        return 130


def _commands() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="model-agent", description="Makes a declared set of models really be served.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"model-agent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, takes_rest: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=command, takes_rest=takes_rest)
        return added

    add_flags(add("run", _run, "run the sidecar", takes_rest=True))
    return parser


def _run(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    settings = settle(vars(given), rest, environ)
    from agent.commands.run import run  # noqa: PLC0415 - a fast --help and --version need none of it

    return run(settings, environ)
