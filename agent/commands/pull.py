"""`model-agent pull URI DIR`: what a URI names, downloaded and verified, in a folder.

The folder is absent or empty before, and afterwards holds exactly the files of the URI. What was moved
before an interruption is used by the next try.
"""

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.app import Providers
from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.manifest import Manifest
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core import uri as uris
from agent.core import words
from agent.core.errors import AgentError
from agent.settings import UsageError, no_more
from agent.telemetry.board import progress_words

STORE = ".agent-pull"
SAY_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("uri", metavar="URI", help="s3://, gs://, https://, file:// … as in a storageUri")
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="absent or empty before, complete afterwards"
    )


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Download; 0 when all is there and verified, 1 with the reason."""
    no_more("pull", rest)
    folder: Path = given.folder.absolute()
    if uris.scheme_of(given.uri) is None:
        raise UsageError(
            f"model-agent pull: {given.uri!r} has no scheme such as s3:// and is no absolute path"
        )
    if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - {STORE}):
        raise UsageError(f"model-agent pull: {folder} is not an empty folder; name one that is, or a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(_pull(given.uri, folder, environ))
    except AgentError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or folder}: {error.strerror}\n")
        return 1
    return 0


async def _pull(uri: str, folder: Path, environ: Mapping[str, str]) -> None:
    providers = Providers(environ, (Path("/"),))
    began = time.monotonic()
    with Store.open(folder / STORE / "models", folder / STORE) as store:
        fetcher = Fetcher(providers, store, Engine())
        progress = Progress(began)
        telling = asyncio.create_task(_tell(progress), name="progress")
        try:
            stored = await fetcher.fetch(uri, progress, relist=True)
        finally:
            telling.cancel()
            await fetcher.close()
            await providers.close()
        manifest = store.manifest(uri, stored.revision)
        if manifest is not None:
            await asyncio.to_thread(_lay_out, store, manifest, folder)
    shutil.rmtree(folder / STORE)
    seconds = max(time.monotonic() - began, 0.001)
    rate = words.size(round(stored.size_bytes / seconds))
    sys.stderr.write(
        f"{uris.redacted(uri)}: {words.size(stored.size_bytes)} in {seconds:.1f} s ({rate}/s), "
        f"revision {stored.revision[:12]}, in {folder}\n"
    )


def _lay_out(store: Store, manifest: Manifest, folder: Path) -> None:
    for entry in manifest.entries:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(store.blob_path(entry.blob), target)
        target.chmod(0o644)


async def _tell(progress: Progress) -> None:
    """Say how far it is, once a second: on one line of a terminal, or a line each elsewhere."""
    end = "\r" if sys.stderr.isatty() else "\n"
    while True:
        await asyncio.sleep(SAY_SECONDS)
        sys.stderr.write(f"{progress_words(progress.snapshot(time.monotonic())):<70}{end}")
        sys.stderr.flush()
