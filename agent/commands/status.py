"""`model-agent status`: what a running agent says. Exit code 0 all ready, 1 not, 2 unreachable."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from agent.core import words
from agent.settings import no_more
from agent.telemetry.table import models_table

DEFAULT_URL = "http://127.0.0.1:9082"
ALL_READY, SOMETHING_FAILED, UNREACHABLE = 0, 1, 2
LOOK_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this model, with its conditions")
    parser.add_argument("--url", help=f"the agent's status port [MODELAGENT_URL, default {DEFAULT_URL}]")
    parser.add_argument("--watch", action="store_true", help="go on showing it until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the answer as it is")


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show it."""
    no_more("status", rest)
    url = (given.url or environ.get("MODELAGENT_URL") or DEFAULT_URL).rstrip("/")
    return asyncio.run(_show(given, url))


async def _show(given: argparse.Namespace, url: str) -> int:
    console = Console()
    path = "/status" + (f"/{quote(given.name, safe='')}" if given.name else "")
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if given.watch and console.is_terminal:
            with Live(console=console, refresh_per_second=4) as live:
                while True:
                    code, document = await _ask(session, url, path)
                    live.update(Text(f"{url} does not answer") if document is None else _view(document))
                    await asyncio.sleep(LOOK_SECONDS)
        code, document = await _ask(session, url, path)
        if document is None:
            sys.stderr.write(f"{url} does not answer: is the agent running, and is --url right?\n")
        elif given.json:
            print(json.dumps(document, indent=2))  # noqa: T201 - what was asked for
        else:
            console.print(_view(document))
        return code


async def _ask(session: aiohttp.ClientSession, url: str, path: str) -> tuple[int, dict[str, Any] | None]:
    try:
        async with session.get(url + path) as answer:
            document: dict[str, Any] = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return UNREACHABLE, None
    return (ALL_READY if _all_ready(document) else SOMETHING_FAILED), document


def _all_ready(document: Mapping[str, Any]) -> bool:
    if "models" not in document:
        return document.get("reason") is None and document.get("ready") is True
    config = document["config"]
    fine = config["error"] is None and not config["rejected"]
    return fine and all(model["reason"] is None for model in document["models"])


def _view(document: Mapping[str, Any]) -> RenderableType:
    if "models" in document:
        return Group(*_head(document), models_table(document["models"]))
    if "phase" not in document:
        return Text(str(document.get("message", document)), style="red")
    return Group(models_table([document]), *_conditions(document))


def _head(document: Mapping[str, Any]) -> list[Text]:
    config, server, memory = document["config"], document["server"], document["memory"]
    ready = "ready" if server["ready"] else "not ready"
    lines = [Text(f"server  {server['url']}  {server['protocol'] or 'not found yet'}, {ready}")]
    if memory["budgetBytes"] is not None:
        held = f"{words.size(memory['reservedBytes'])} of {words.size(memory['budgetBytes'])}"
        lines.append(Text(f"memory  {held} reserved, {words.size(memory['freeBytes'])} free"))
    if config["error"] is not None:
        lines.append(Text(f"config  {config['error']['reason']}: {config['error']['message']}", style="red"))
    lines += [
        Text(f"config  {entry['name'] or '?'}: {entry['reason']}: {entry['message']}", style="red")
        for entry in config["rejected"]
    ]
    return lines


def _conditions(model: Mapping[str, Any]) -> list[Text]:
    lines = [
        Text(
            f"  {condition['type']:<11} {condition['status']:<8} since {condition['lastTransitionTime']}"
            + (f"  {condition['reason']}" if condition["reason"] else "")
        )
        for condition in model["conditions"]
    ]
    if model["nextRetryTime"]:
        lines.append(Text(f"  next try {model['nextRetryTime']}, {model['attempts']} failed"))
    return lines
