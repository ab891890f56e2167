"""`model-agent plan FILE`: what a document would make a running agent do, with no download and no change.

Exit code 0 nothing to do, 2 changes, 1 where anything is refused or cannot be read.
"""

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.app import Providers
from agent.commands.status import Asked, agent_url, token_headers
from agent.controller.documents import DocumentError, load_documents
from agent.controller.files import render_files
from agent.core import words
from agent.core.configmaps import DATA_KEY
from agent.core.errors import AgentError
from agent.core.flagvalues import memory
from agent.core.modelconfig import ConfigError, desired_state
from agent.core.plan import Rules
from agent.core.preview import Change, Preview, Size, Verb, preview
from agent.core.reach import Denied, networks
from agent.core.redact import harmless
from agent.core.seen import Seen, default_memory_of, seen_of
from agent.core.uri import redacted, scheme_of
from agent.settings import path_list
from agent.usage import UsageError, no_more

Status = Mapping[str, Any]
T = TypeVar("T")

NOTHING, REFUSED, CHANGES = 0, 1, 2
LISTED_AT_ONCE = 8
_SIGNS = {
    Verb.FETCH: ("+", "green"),
    Verb.LOAD: ("+", "green"),
    Verb.UNLOAD: ("-", "red"),
    Verb.WAIT: ("~", "yellow"),
    Verb.REFUSE: ("!", "bold red"),
    Verb.KEEP: (" ", "dim"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("document", nargs="?", metavar="FILE", help="a models.json, - for standard input")
    parser.add_argument(
        "-f", "--filename", action="append", default=[], metavar="FILE", help="TrainedModels, as YAML or JSON"
    )
    parser.add_argument("--inference-service", help="which parent's models of those in the files")
    parser.add_argument("--url", help="a running agent's status port; without it nothing is there yet")
    parser.add_argument(
        "--token-file", help="file with the agent's bearer token [MODELAGENT_STATUS_TOKEN_FILE]"
    )
    parser.add_argument("--memory-budget", help="a quantity or none [default: the agent's]")
    parser.add_argument(
        "--default-model-memory", help="what a model without memory counts [default: the agent's]"
    )
    parser.add_argument(
        "--update-policy", choices=("availability", "resource"), help="[default: the agent's]"
    )
    parser.add_argument("--allowed-roots", default="/", help="folders that file:// may read [default /]")
    parser.add_argument("--no-listing", action="store_true", help="do not ask the storage for sizes")
    parser.add_argument("--all", action="store_true", help="show the models that stay as they are too")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show it."""
    no_more("plan", rest)
    raw = _document(given)
    roots = _roots(given.allowed_roots)
    budget = _quantity("--memory-budget", given.memory_budget)
    default = _quantity("--default-model-memory", given.default_model_memory)
    try:
        found = asyncio.run(_foretell(given, raw, environ, (budget, default), roots))
    except ConfigError as error:
        where = "what -f names" if given.filename else given.document
        sys.stderr.write(harmless(f"{where}: {error.reason}: {error.message}{_next(given)}") + "\n")
        return REFUSED
    except _UnreadableAgentError as error:
        sys.stderr.write(harmless(f"{given.url} {error}") + "\n")
        return REFUSED
    if given.json:
        print(json.dumps(_as_json(found), indent=2))  # noqa: T201 - what was asked for
    else:
        _show(found, everything=given.all)
    return REFUSED if found.refused else CHANGES if found.anything else NOTHING


class _UnreadableAgentError(Exception):
    """The agent gives no /status that can be read; the words say what to do."""


def _roots(text: str) -> tuple[Path, ...]:
    """Return the folders of --allowed-roots. Raises UsageError."""
    try:
        return path_list(text)
    except ValueError as error:
        raise UsageError(f"model-agent plan: --allowed-roots: {text!r} {error}") from error


def _quantity(flag: str, text: str | None) -> int | None:
    """Return the bytes of a flag, None for `none` or where it is not given. Raises UsageError."""
    try:
        return memory(text) if text is not None else None
    except ValueError as error:
        raise UsageError(f"model-agent plan: {flag}: {text!r} {error}") from error


async def _foretell(
    given: argparse.Namespace,
    raw: bytes,
    environ: Mapping[str, str],
    quantities: tuple[int | None, int | None],
    roots: tuple[Path, ...],
) -> Preview:
    budget, default = quantities
    document = await _status(given, environ) if given.url is not None else None
    if default is None:
        default = _read_off(document, default_memory_of, 0)
    first = desired_state(raw, None, default_memory_bytes=default)
    seen = _read_off(document, lambda told: seen_of(told, first.models, time.time()), Seen())
    desired = desired_state(raw, seen.wanted, default_memory_bytes=default, max_removal=seen.max_removal)
    if given.memory_budget is None:
        budget = seen.budget_bytes
    step_aside = seen.step_aside if given.update_policy is None else given.update_policy == "resource"
    missing = {spec.storage_uri for spec in desired.models.values()} - seen.observed.stored.keys()
    sizes = {} if given.no_listing else await _sizes(missing, roots, environ)
    rules = Rules(budget, step_aside=step_aside)
    return preview(desired, seen.observed, holds=seen.holds, rules=rules, sizes=sizes)


def _read_off(document: Status | None, read: Callable[[Status], T], otherwise: T) -> T:
    """Return what is read off an agent's status, *otherwise* without one. Raises _UnreadableAgentError."""
    try:
        return read(document) if document is not None else otherwise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _UnreadableAgentError(
            f"answers with a /status that cannot be read ({type(error).__name__}: {error}); "
            "is it an agent of another release?"
        ) from error


def _next(given: argparse.Namespace) -> str:
    """Say what to do about a document that is refused, where its name tells."""
    as_yaml = not given.filename and given.document.endswith((".yaml", ".yml"))
    return "; TrainedModels in YAML are given with -f" if as_yaml else ""


async def _status(given: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what the agent says. Raises _UnreadableAgentError."""
    url, headers = agent_url(given.url, environ), token_headers(given.token_file, environ)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers=headers) as session:
        asked = Asked(session, url, "/status")
        document = await asked.again()
    if document is None:
        raise _UnreadableAgentError(asked.silence)
    if "models" not in document:
        raise _UnreadableAgentError(f"does not tell its status: {document.get('message', document)}")
    return document


async def _sizes(uris: Iterable[str], roots: tuple[Path, ...], environ: Mapping[str, str]) -> dict[str, Size]:
    providers = Providers(environ, roots, Denied(networks("metadata")))
    slots = asyncio.Semaphore(LISTED_AT_ONCE)
    sizes: dict[str, Size] = {}

    async def size(uri: str) -> None:
        async with slots:
            try:
                listing = await providers(scheme_of(uri) or "").resolve(uri)
            except AgentError as error:
                sizes[uri] = Size(None, error.reason, error.message)
            else:
                counts = [obj.size for obj in listing.objects]
                known = [count for count in counts if count is not None]
                sizes[uri] = Size(sum(known) if len(known) == len(counts) else None)

    try:
        async with asyncio.TaskGroup() as group:
            for uri in sorted(uris):
                group.create_task(size(uri), name=f"list {redacted(uri)}")
    finally:
        await providers.close()
    return sizes


def _document(given: argparse.Namespace) -> bytes:
    """Return the models.json that is asked for. Raises UsageError."""
    if (given.document is None) == (not given.filename):
        raise UsageError("model-agent plan: name one models.json, or TrainedModels with -f")
    if given.filename:
        return _rendered(given.filename, given.inference_service)
    try:
        return sys.stdin.buffer.read() if given.document == "-" else Path(given.document).read_bytes()
    except OSError as error:
        raise UsageError(f"model-agent plan: {given.document}: {error.strerror}") from error


def _rendered(paths: Sequence[str], parent: str | None) -> bytes:
    """Return the models.json that the controller would write for the TrainedModels in files."""
    text, faults = io.StringIO(), io.StringIO()
    if render_files(paths, parent, text, faults) != 0:
        raise UsageError(f"model-agent plan: {faults.getvalue().rstrip()}")
    try:
        maps: list[Mapping[str, Any]] = load_documents(text.getvalue())
    except DocumentError as error:
        raise UsageError(f"model-agent plan: {error}") from error
    if len(maps) != 1:
        names = ", ".join(each["metadata"]["name"] for each in maps)
        many = f"the files hold {names}; name one with --inference-service"
        none = f"the files hold no TrainedModels{f' of {parent}' if parent else ''}"
        raise UsageError(f"model-agent plan: {many if maps else none}")
    return str(maps[0]["data"][DATA_KEY]).encode()


def _as_json(found: Preview) -> dict[str, Any]:
    return {
        "changes": [
            {
                "name": change.name,
                "actions": list(change.verbs),
                "fetchBytes": change.fetch_bytes,
                "memoryBytes": change.memory_bytes,
                "reason": change.reason,
                "message": change.message,
                "nextTrySeconds": change.next_try_seconds,
            }
            for change in found.changes
        ],
        "memory": {
            "beforeBytes": found.before_bytes,
            "afterBytes": found.after_bytes,
            "budgetBytes": found.budget_bytes,
        },
    }


def _show(found: Preview, *, everything: bool) -> None:
    table = Table.grid(padding=(0, 2))
    for change in found.changes:
        if everything or change.verbs != (Verb.KEEP,):
            sign, style = _SIGNS[change.verbs[-1]]
            does = ", ".join(change.verbs)
            table.add_row(
                Text(f"{sign} {harmless(change.name)}", style),
                Text(does),
                _amounts(change),
                Text(harmless(_why(change))),
            )
    console = Console()
    console.print(table)
    console.print(Text(_sum(found)))


def _amounts(change: Change) -> Text:
    parts = []
    if Verb.FETCH in change.verbs:
        parts.append("size unknown" if change.fetch_bytes is None else words.size(change.fetch_bytes))
    if change.memory_bytes:
        sign = "+" if change.memory_bytes > 0 else "-"
        parts.append(f"memory {sign}{words.size(abs(change.memory_bytes))}")
    return Text(", ".join(parts))


def _why(change: Change) -> str:
    why = ": ".join(part for part in (change.reason, change.message) if part)
    if change.next_try_seconds is not None:
        why += f"; tried again in {words.duration(change.next_try_seconds)}"
    return why


def _sum(found: Preview) -> str:
    counts = {verb: sum(verb in change.verbs for change in found.changes) for verb in Verb}
    fetched = sum(change.fetch_bytes or 0 for change in found.changes)
    unknown = any(change.fetch_bytes is None for change in found.changes)
    does = ", ".join(f"{count} to {verb}" for verb, count in counts.items() if count)
    budget = "no budget" if found.budget_bytes is None else f"a budget of {words.size(found.budget_bytes)}"
    return (
        f"{does or 'no models'}; {'at least ' if unknown else ''}{words.size(fetched)} to download; "
        f"memory {words.size(found.before_bytes)} before, {words.size(found.after_bytes)} after, {budget}"
    )
