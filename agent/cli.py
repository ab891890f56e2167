"""The command line: `model-agent COMMAND …`. Words come in, exit codes go out (design §8.14).

Each command is a module of `agent.commands` with `add_arguments` and `execute`, imported only when it is
the one that was asked for.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from agent.usage import UsageError

USAGE = 64  # EX_USAGE of sysexits.h
INTERRUPTED = 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("agent.commands.run", "run the sidecar"),
    "demo": ("agent.commands.demo", "show the main job on this machine, with a dummy model server"),
    "dummy-server": ("agent.commands.dummy_server", "run a model server to try things on"),
    "plan": ("agent.commands.plan", "show what a document would make the agent do, and change nothing"),
    "status": ("agent.commands.status", "show what a running agent says of its models"),
    "inject": ("agent.commands.inject", "put the sidecar into the pods of manifests"),
    "pull": (
        "agent.commands.pull",
        "download what URIs name to folders, verified; KServe's storage initializer",
    ),
    "validate": ("agent.commands.validate", "check TrainedModels and models.json before they are applied"),
    "render": ("agent.commands.render", "print the ConfigMaps that the controller would write"),
    "controller": ("agent.commands.controller", "turn TrainedModel objects into ConfigMaps and status"),
    "webhook": ("agent.commands.webhook", "serve the optional admission webhook for TrainedModels"),
}


class Command(Protocol):
    """What a module of `agent.commands` gives."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own flags."""
        ...

    def execute(self, given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
        """Do it, and return the exit code. Raises UsageError. *rest* are words no flag took."""
        ...


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake of the user's is told in words, with code 64."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(words: Sequence[str]) -> int:
    if words and words[0] in {"--version", "-V"}:
        from agent import __version__  # noqa: PLC0415 - see there

        print(f"model-agent {__version__}")  # noqa: T201 - what was asked for
        return 0
    if not words or words[0] in {"--help", "-h", "help"}:
        print(_help())  # noqa: T201 - what was asked for
        return 0 if words else USAGE
    name = words[0]
    if name not in COMMANDS:
        raise UsageError(f"model-agent has no command {name!r}; there are {', '.join(COMMANDS)}")
    module, text = COMMANDS[name]
    command = cast("Command", import_module(module))
    parser = _Parser(
        prog=f"model-agent {name}", description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    command.add_arguments(parser)
    known, rest = parser.parse_known_args(list(words[1:]))
    return command.execute(known, rest, os.environ)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: model-agent COMMAND …",
            "",
            "Makes a declared set of models really be served, next to any model server.",
            "",
            *lines,
            "",
            "model-agent COMMAND --help tells more; --version the version.",
        ]
    )
