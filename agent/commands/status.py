"""`model-agent status`: what a running agent says. Exit code 0 all ready, 1 not, 2 unreachable."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.telemetry.views import document_view, error_view, model_view
from agent.usage import UsageError, no_more

API_VERSION = "model-agent/v1"
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
    return asyncio.run(_show(given, url, token_headers(given.token_file, environ)))


def token_headers(given: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the token, if one is named. Raises UsageError where it cannot be read."""
    file = given or environ.get("MODELAGENT_STATUS_TOKEN_FILE")
    if not file:
        return {}
    try:
        return {"Authorization": f"Bearer {Path(file).read_text().strip()}"}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"model-agent: the token in {file!r} cannot be read: {why}") from error


def agent_url(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the status port to ask. Raises UsageError where it is no http URL."""
    url = (given or environ.get("MODELAGENT_URL") or DEFAULT_URL).rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise UsageError(f"model-agent: {url!r} is no URL such as {DEFAULT_URL}")
    return url


async def _show(given: argparse.Namespace, url: str, headers: Mapping[str, str]) -> int:
    path = "/status" + (f"/{quote(given.name, safe='')}" if given.name else "")
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        asked = Asked(session, url, path)
        if given.watch:
            return await _watch(asked, as_json=given.json)
        document = await asked.again()
        if document is None:
            sys.stderr.write(f"{url} {asked.silence}\n")
        elif given.json:
            print(json.dumps(document, indent=2))  # noqa: T201 - what was asked for
        else:
            Console().print(_view(document))
        return exit_code(document)


async def _watch(asked: "Asked", *, as_json: bool) -> int:
    """Show it again and again, through restarts of the agent; ends with Ctrl-C only."""
    console = Console()
    if as_json or not console.is_terminal:
        said: object = object()
        while True:
            document = await asked.again()
            if document != said:
                said = document
                print(json.dumps(document), flush=True)  # noqa: T201 - what was asked for
            await asyncio.sleep(LOOK_SECONDS)
    with Live(console=console, refresh_per_second=4, screen=True) as live:
        while True:
            document = await asked.again()
            rows = max(console.height - _HEAD_ROWS, 3)
            gone = Text(f"{asked.url} does not answer; asking again", style="red")
            live.update(gone if document is None else _view(document, rows))
            await asyncio.sleep(LOOK_SECONDS)


class Asked:
    """An agent that is asked for one document again and again; it sends it only where it has changed."""

    def __init__(self, session: aiohttp.ClientSession, url: str, path: str) -> None:
        self.url = url
        self._session, self._path = session, path
        self._etag: str | None = None
        self._document: dict[str, Any] | None = None
        self._why = "what answers is none"

    @property
    def silence(self) -> str:
        """Say why nothing could be read, and what to look at."""
        return f"does not answer as an agent ({self._why}): is it running, and is --url right?"

    async def again(self) -> dict[str, Any] | None:
        """Return the document as it is now; None where no agent answers."""
        headers = {"If-None-Match": self._etag} if self._etag else {}
        try:
            async with self._session.get(self.url + self._path, headers=headers) as answer:
                if answer.status == 304:
                    return self._document
                document = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._why = _why(error)
            self._etag = self._document = None
            return None
        self._etag = answer.headers.get("ETag")
        self._document = document if _of_an_agent(document) else None
        self._why = "what answers is none"
        return self._document


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else "what answers is none"


def _of_an_agent(document: object) -> bool:
    """Tell whether a document is a status, a model or an error of ours, and not somebody else's JSON."""
    if not isinstance(document, dict):
        return False
    if "models" in document:
        return document.get("apiVersion") == API_VERSION
    return {"reason", "message"} <= document.keys() and "apiVersion" not in document


def exit_code(document: Mapping[str, Any] | None) -> int:
    """Return how a document, the one model, or nobody's answer ends the command."""
    if document is None:
        return UNREACHABLE
    try:
        return ALL_READY if all_ready(document) else SOMETHING_FAILED
    except (KeyError, TypeError):
        return UNREACHABLE


def all_ready(document: Mapping[str, Any]) -> bool:
    """Tell whether everything of a document, or the one model, is ready, up to date and not refused."""
    if "models" not in document:
        refusal = (document.get("explanation") or {}).get("refusal")
        return document.get("reason") is None and document.get("ready") is True and refusal is None
    config = document["config"]
    fine = config["error"] is None and not config["rejected"]
    return fine and all(model["reason"] is None for model in document["models"])


def _view(document: Mapping[str, Any], rows: int | None = None) -> RenderableType:
    now = time.time()
    try:
        if "models" in document:
            return document_view(document, now, rows)
        if "phase" in document:
            return model_view(document, now)
        return error_view(document, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = (
            f"the answer is none of an agent of this release ({type(error).__name__}: {error}); see --json"
        )
        return Text(words, style="red")
