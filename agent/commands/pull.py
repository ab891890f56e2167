"""`model-agent pull SRC DEST [SRC DEST …]`: what URIs name, downloaded and verified, in folders.

Takes what KServe passes to its storage initializer (contract §5). A folder is absent or empty before, or
holds what an earlier pull of the same URI left, and afterwards holds exactly the files of the URI. What was
moved before an interruption is used by the next try.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from agent.app import Providers
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.laying import COPY, LINK, STORE, SYMLINK, DamagedError, Laid, check, lay_out
from agent.artifacts.manifest import Manifest
from agent.artifacts.nodecache import Cached, NodeCache
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core import uri as uris
from agent.core import words
from agent.core.errors import AgentError, TerminalError
from agent.core.flagvalues import at_once, memory, plain
from agent.core.initializer import InitializerError, Patterns, effective, pairs_of, patterns_of
from agent.core.model import Revision
from agent.core.reach import Denied, networks
from agent.core.reasons import Reason
from agent.core.revision import revision_of
from agent.core.sources import SourceError, notes, source_of
from agent.storage.addresses import permit_all
from agent.storage.base import Listing, RemoteObject, Source, StorageProvider
from agent.telemetry.board import progress_words
from agent.usage import UsageError, no_more

SAY_SECONDS = 1.0
SAY_SECONDS_TO_LOGS = 5.0
FROM_ENVIRONMENT = ("cache_dir", "cache_budget", "max_connections", "bandwidth_limit", "deny_address")
"""Flags that are also read from MODELAGENT_CACHE_DIR and so on, as `run` reads its own."""
SERVED_IN_PLACE = "/mnt/models"
"""A source below it is there already: KServe's multi-model servers get it (contract §5)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="SRC DEST",
        help="s3://, gs://, https://, file:// …, and a folder; any number",
    )
    parser.add_argument("--cache-dir", help="folder of the node that many pods share")
    parser.add_argument("--cache-budget", help="most bytes that the cache keeps, a quantity [default: all]")
    parser.add_argument(
        "--cache-symlinks",
        action="store_true",
        help="link into the cache by path: the server mounts it at the same one",
    )
    parser.add_argument(
        "--cache-copies",
        action="store_true",
        help="copy (or share blocks) and verify, not link: where servers could write to models",
    )
    parser.add_argument("--max-connections", help="connections to storage at once [default: 16]")
    parser.add_argument("--bandwidth-limit", help="bytes a second, a quantity [default: none]")
    parser.add_argument(
        "--deny-address",
        help="networks that no URI may have connected to, or metadata, loopback, private, none, separated by"
        " commas [default: metadata]",
    )


@dataclass(frozen=True, slots=True)
class _Cache:
    folder: NodeCache
    budget_bytes: int | None
    how: str

    def laid(self, each: Cached) -> Laid:
        """Say how a file comes out of it: what others could have written to is copied and verified."""
        return Laid(each.file, self.how if each.sealed else COPY, each.checksum)


@dataclass(frozen=True, slots=True)
class _Job:
    """What holds for every source of one call."""

    environ: Mapping[str, str]
    patterns: Patterns
    cache: _Cache | None
    engine: EngineSettings
    denied: Denied
    folders: tuple[Path, ...]


def execute(given: argparse.Namespace, rest: Sequence[str], environ: Mapping[str, str]) -> int:
    """Download; 0 when all is there and verified, 1 with the reason."""
    no_more("pull", rest)
    given = _with_environment(given, environ)
    try:
        pairs = pairs_of(given.words)
        patterns, told = patterns_of(environ), effective(environ)
    except InitializerError as error:
        raise UsageError(f"model-agent pull: {error}") from None
    sources = []
    for uri, _ in pairs:
        if uris.scheme_of(uri) is None:
            raise UsageError(
                f"model-agent pull: {uris.redacted(uri)!r} has no scheme such as s3://"
                " and is no absolute path"
            )
        try:
            sources.append(source_of(uri, told, azure=_has_azure()))
        except SourceError as error:
            raise UsageError(f"model-agent pull: {error}") from None
    for note in dict.fromkeys([*notes(told), *(each.note for each in sources if each.note)]):
        _say(note)
    engine, denied = _engine(given), _denied(given)
    cache = _cache(given)
    folders = tuple(Path(folder).absolute() for _, folder in pairs)
    try:
        for source, folder in zip(sources, folders, strict=True):
            job = _Job(source.environ, patterns, cache, engine, denied, folders)
            asyncio.run(_pull(source.uri, folder, job))
    except AgentError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 1
    except OSError as error:
        file = isinstance(error, FileExistsError | NotADirectoryError)
        more = "; a file is in the way of the folder to download to" if file else ""
        sys.stderr.write(f"{error.filename or 'the disk'}: {error.strerror}{more}\n")
        return 1
    return 0


def _with_environment(given: argparse.Namespace, environ: Mapping[str, str]) -> argparse.Namespace:
    """Add what only the environment says: a ClusterStorageContainer can give no flags."""
    names = {key: f"MODELAGENT_{key.upper()}" for key in FROM_ENVIRONMENT}
    said = {key: environ.get(name) or None for key, name in names.items()}
    return argparse.Namespace(
        **{key: said.get(key) if value is None else value for key, value in vars(given).items()}
    )


def _engine(given: argparse.Namespace) -> EngineSettings:
    made, flag, text = EngineSettings(), "--max-connections", given.max_connections
    try:
        if text is not None:
            made = replace(made, max_connections=at_once(text))
        flag, text = "--bandwidth-limit", given.bandwidth_limit
        return made if text is None else replace(made, bandwidth_limit=memory(text))
    except ValueError as error:
        raise UsageError(f"model-agent pull: {flag}: {text!r} {plain(error)}") from None


def _denied(given: argparse.Namespace) -> Denied:
    try:
        return Denied(networks(given.deny_address or "metadata"))
    except ValueError as error:
        raise UsageError(f"model-agent pull: --deny-address: {error}") from None


def _cache(given: argparse.Namespace) -> _Cache | None:
    """Return the cache, None without one; one that cannot be used is told, and done without."""
    try:
        budget = memory(given.cache_budget or "none")
    except ValueError as error:
        raise UsageError(f"model-agent pull: --cache-budget: {given.cache_budget!r} {error}") from None
    if budget is not None and given.cache_symlinks:
        raise UsageError("model-agent pull: --cache-budget would remove files that --cache-symlinks point to")
    if given.cache_copies and given.cache_symlinks:
        raise UsageError("model-agent pull: --cache-copies and --cache-symlinks exclude each other")
    if given.cache_dir is None:
        return None
    how = COPY if given.cache_copies else SYMLINK if given.cache_symlinks else LINK
    try:
        return _Cache(NodeCache(Path(given.cache_dir)), budget, how)
    except OSError as error:
        _say(f"the node's cache {given.cache_dir} cannot be used and is done without: {error.strerror}")
        return None


async def _pull(uri: str, folder: Path, job: _Job) -> None:
    began = time.monotonic()
    if f"{uri.rstrip('/')}/".startswith(f"{SERVED_IN_PLACE}/"):
        _say(f"{uri} is served in place; nothing is to be done")
        return
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    providers = Providers(job.environ, (Path("/"),), job.denied if job.denied.networks else permit_all)
    try:
        chosen = _Chosen(providers, folder, job)
        revision, size, how = await _bring(uri, folder, chosen, job, began)
    finally:
        await providers.close()
    seconds = max(time.monotonic() - began, 0.001)
    rate = words.size(round(size / seconds))
    _say(
        f"{uris.redacted(uri)}: {words.size(size)} in {words.seconds(seconds)} ({rate}/s){how}, "
        f"revision {revision[:12]}, in {folder}"
    )


async def _bring(
    uri: str, folder: Path, chosen: "_Chosen", job: _Job, began: float
) -> tuple[Revision, int, str]:
    """Return the revision that is in the folder now, its bytes, and how they came."""
    if job.cache is not None:
        listing = await chosen(uris.scheme_of(uri) or "").resolve(uri)
        revision = revision_of((obj.path, obj.size, obj.identity) for obj in listing.objects)
        if all(obj.pinned for obj in listing.objects):
            size = await asyncio.to_thread(_from_cache, job.cache, revision, folder, job)
            if size is not None:
                return revision, size, " from the node's cache"
    with Store.open(folder / STORE / "models", folder / STORE) as store:
        stored = await _fetch(uri, store, chosen, job, began)
        manifest = store.manifest(uri, stored)
        if manifest is None:
            raise TerminalError(Reason.DISK_ERROR, f"what was downloaded to {folder} is gone")
        if job.cache is not None and chosen.pinned:
            await asyncio.to_thread(_keep, job.cache, stored, manifest, store)
        files = {entry.path: Laid(store.blob_path(entry.blob)) for entry in manifest.entries}
        await asyncio.to_thread(lay_out, files, folder, job.folders)
    await asyncio.to_thread(shutil.rmtree, folder / STORE)
    return stored, sum(entry.size for entry in manifest.entries), ""


def _from_cache(cache: _Cache, revision: Revision, folder: Path, job: _Job) -> int | None:
    """Lay out what the cache has of a revision; its bytes, None for a miss. A bad cache is a miss."""
    found = cache.folder.find(revision)
    if found is None:
        return None
    try:
        lay_out({each.path: cache.laid(each) for each in found}, folder, job.folders)
        shutil.rmtree(folder / STORE, ignore_errors=True)
    except OSError as error:
        if isinstance(error, DamagedError):
            cache.folder.drop(Path(error.filename))
        if not isinstance(error, FileNotFoundError):  # trimmed by another pod: nothing to tell
            _say(f"the node's cache is done without: {error.filename}: {error.strerror}")
        return None
    return sum(each.size for each in found)


def _keep(cache: _Cache, revision: Revision, manifest: Manifest, store: Store) -> None:
    """Take a revision into the cache; what prevents that is only told, the files are there."""
    try:
        cache.folder.add(revision, manifest.entries, store.blob_path, COPY if cache.how == COPY else LINK)
        if cache.budget_bytes is not None:
            cache.folder.trim(cache.budget_bytes, revision)
    except OSError as error:
        _say(f"the node's cache was not added to: {error.strerror} ({error.filename2 or error.filename})")


async def _fetch(uri: str, store: Store, chosen: "_Chosen", job: _Job, began: float) -> Revision:
    fetcher = Fetcher(chosen, store, Engine(job.engine, policy=job.denied))
    progress = Progress(began)
    telling = asyncio.create_task(_tell(progress), name="progress")
    try:
        return (await fetcher.fetch(uri, progress, relist=True)).revision
    finally:
        telling.cancel()
        await fetcher.close()


class _Chosen:
    """The providers, giving only the files that are wanted; refuses a folder with other files in it."""

    def __init__(self, providers: Callable[[str], StorageProvider], folder: Path, job: _Job) -> None:
        self._providers, self._folder = providers, folder
        self._patterns, self._folders = job.patterns, job.folders
        self.pinned = False

    def __call__(self, scheme: str) -> StorageProvider:
        return _Chooser(self._providers(scheme), self)

    def choose(self, listing: Listing) -> Listing:
        """Return what is wanted of a listing: all of what the URI names itself, or has packed."""
        if not listing.single and not listing.packed:
            kept = tuple(obj for obj in listing.objects if self._patterns.keep(obj.path))
            if not kept:
                raise TerminalError(
                    Reason.NOT_FOUND,
                    f"none of {len(listing.objects)} files passes STORAGE_ALLOW_PATTERNS and"
                    " STORAGE_IGNORE_PATTERNS",
                )
            listing = replace(listing, objects=kept)
            check(self._folder, (obj.path for obj in kept), self._folders)
        self.pinned = all(obj.pinned for obj in listing.objects)
        return listing


@dataclass(frozen=True, slots=True)
class _Chooser:
    provider: StorageProvider
    chosen: _Chosen

    @property
    def hanging(self) -> int:
        return self.provider.hanging

    async def resolve(self, uri: str) -> Listing:
        return self.chosen.choose(await self.provider.resolve(uri))

    async def source(self, obj: RemoteObject) -> Source:
        return await self.provider.source(obj)

    async def close(self) -> None:
        """The owner of the providers does."""


def _has_azure() -> bool:
    try:
        return find_spec("azure.storage.blob") is not None
    except ModuleNotFoundError:  # not even a package that it lies in
        return False


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def _tell(progress: Progress) -> None:
    """Say how far it is: on one line of a terminal, or a line every few seconds to a log."""
    terminal = sys.stderr.isatty()
    while True:
        await asyncio.sleep(SAY_SECONDS if terminal else SAY_SECONDS_TO_LOGS)
        text = progress_words(progress.snapshot(time.monotonic()))
        sys.stderr.write(f"{text:<70}\r" if terminal else f"{text}\n")
        sys.stderr.flush()
