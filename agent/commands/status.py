"""`model-agent status`: what a running agent says. Exit code 0 all ready, 1 not, 2 unreachable."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.settings import UsageError, no_more
from agent.telemetry.views import document_view, model_view

DEFAULT_URL = "http://127.0.0.1:9082"
ALL_READY, SOMETHING_FAILED, UNREACHABLE = 0, 1, 2
LOOK_SECONDS = 0.5
_HEAD_ROWS = 12  # of the terminal: what stands above and below the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="only this model: why it stands so, what is next, what to do"
    )
    parser.add_argument("--url", help=f"the agent's status port [MODELAGENT_URL, default {DEFAULT_URL}]")
    parser.add_argument(
        "--token-file", help="file with the agent's bearer token [MODELAGENT_STATUS_TOKEN_FILE]"
    )
    parser.add_argument("--watch", action="store_true", help="go on showing it until Ctrl-C")
    parser.add_argument(
        "--json", action="store_true", help="print the answer as it is; with --watch a line for each change"
    )


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show it."""
    no_more("status", rest)
    url = agent_url(given.url, environ)
    return asyncio.run(_show(given, url, _headers(given.token_file, environ)))


def _headers(given: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the token, if one is named. Raises UsageError where it cannot be read."""
    file = given or environ.get("MODELAGENT_STATUS_TOKEN_FILE")
    if not file:
        return {}
    try:
        return {"Authorization": f"Bearer {Path(file).read_text().strip()}"}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"model-agent: the token in {file!r} cannot be read ({type(error).__name__})"
        ) from error


def agent_url(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the status port to ask. Raises UsageError where it is no http URL."""
    url = (given or environ.get("MODELAGENT_URL") or DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"model-agent: {url!r} is no URL such as {DEFAULT_URL}")
    return url


async def _show(given: argparse.Namespace, url: str, headers: Mapping[str, str]) -> int:
    path = "/status" + (f"/{quote(given.name, safe='')}" if given.name else "")
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        if given.watch:
            return await _watch(session, url, path, as_json=given.json)
        code, document = await ask(session, url, path)
        if document is None:
            sys.stderr.write(f"{url} does not answer as an agent: is it running, and is --url right?\n")
        elif given.json:
            print(json.dumps(document, indent=2))  # noqa: T201 - what was asked for
        else:
            Console().print(_view(document))
        return code


async def _watch(session: aiohttp.ClientSession, url: str, path: str, *, as_json: bool) -> int:
    """Show it again and again, through restarts of the agent; ends with Ctrl-C only."""
    console = Console()
    if as_json or not console.is_terminal:
        said: object = object()
        while True:
            _, document = await ask(session, url, path)
            if document != said:
                said = document
                print(json.dumps(document), flush=True)  # noqa: T201 - what was asked for
            await asyncio.sleep(LOOK_SECONDS)
    with Live(console=console, refresh_per_second=4, screen=True) as live:
        while True:
            _, document = await ask(session, url, path)
            rows = max(console.height - _HEAD_ROWS, 3)
            gone = Text(f"{url} does not answer; asking again", style="red")
            live.update(gone if document is None else _view(document, rows))
            await asyncio.sleep(LOOK_SECONDS)


async def ask(session: aiohttp.ClientSession, url: str, path: str) -> tuple[int, dict[str, Any] | None]:
    """Return the exit code and the document; None where no agent answers."""
    try:
        async with session.get(url + path) as answer:
            document = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return UNREACHABLE, None
    if not isinstance(document, dict) or not {"reason", "apiVersion"} & document.keys():
        return UNREACHABLE, None
    return (ALL_READY if all_ready(document) else SOMETHING_FAILED), document


def all_ready(document: Mapping[str, Any]) -> bool:
    """Tell whether everything of a document, or the one model, is ready and up to date."""
    if "models" not in document:
        return document.get("reason") is None and document.get("ready") is True
    config = document["config"]
    fine = config["error"] is None and not config["rejected"]
    return fine and all(model["reason"] is None for model in document["models"])


def _view(document: Mapping[str, Any], rows: int | None = None) -> RenderableType:
    if "models" in document:
        return document_view(document, time.time(), rows)
    if "phase" not in document:
        return Text(str(document.get("message", document)), style="red")
    return model_view(document, time.time())
