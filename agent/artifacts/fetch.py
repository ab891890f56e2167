"""From a URI to a complete revision in the store: list, move what is missing, verify, write the manifest.

Whatever moved the bytes, they are believed only once `judge` found nothing (design §6). What was
verified before is never asked for again; what cannot be verified is thrown away.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from agent.artifacts.archives import Archives
from agent.artifacts.claims import Claims
from agent.artifacts.declared import Checker, recorded_sha256, refuse_folder, refuse_other, sha256_of
from agent.artifacts.digests import strongest
from agent.artifacts.errors import disk_errors
from agent.artifacts.flights import Flight, Flights
from agent.artifacts.manifest import BlobId, Entry, Manifest, blob_id
from agent.artifacts.orders import Moved, Mover, Order, carrying, judge
from agent.artifacts.progress import Progress
from agent.artifacts.retries import patiently
from agent.artifacts.store import Store
from agent.artifacts.threads import Threads
from agent.artifacts.unpack.wire import Limits
from agent.core.declaration import NOTHING_DECLARED, Declaration
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import StoredRevision
from agent.core.reach import uri_refusal
from agent.core.reasons import Reason
from agent.core.revision import revision_of
from agent.core.uri import redacted, scheme_of
from agent.storage.base import Listing, RemoteObject, Source, StorageProvider
from agent.telemetry.traces import outgoing, span

_ROUND_OBJECTS = 4096
"""So many are ordered at once: an order takes three times the memory of what is listed of the object."""

PROOFS = ("seen-first", "provider", "declared", "signed")
"""Weakest first; a manifest says the weakest of its entries."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """An object whose bytes are in the store: its file, its true identity, and how it was proved."""

    entry: Entry
    listed_size: int | None
    identity: str
    proof: str


@dataclass(slots=True)
class _Work:
    """What a fetch has still to do: paths that are in the store, and objects that are not."""

    landed: dict[str, _Landed] = field(default_factory=dict)
    missing: list[RemoteObject] = field(default_factory=list)
    declared: Declaration = NOTHING_DECLARED


class Fetcher:
    """Fetches revisions into one store. Any number of fetches may run at once, on one event loop.

    `providers` gives the provider of a scheme, or raises TerminalError(UnsupportedScheme).
    `claims` knows the room that there is. `limits` bound what an archive may unpack to.
    `allowed_uris` are the only prefixes that are fetched from, where there are any. `signing_key` is the
    PEM file of the public key that signatures are checked with.
    """

    def __init__(
        self,
        providers: Callable[[str], StorageProvider],
        store: Store,
        mover: Mover,
        *,
        claims: Claims | None = None,
        limits: Limits | None = None,
        allowed_uris: Sequence[str] = (),
        signing_key: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._providers = providers
        self._store = store
        self._mover = mover
        self._claims = claims or Claims(store)
        self._clock = clock
        self._allowed_uris = allowed_uris
        self._checker = Checker(store, signing_key)
        self._threads = Threads("fetch")
        self._flights: Flights[_Landed] = Flights()
        self._turns: Flights[None] = Flights()
        self._archives = Archives(store, self._threads, limits, self._claims.left_bytes)

    async def fetch(
        self, uri: str, progress: Progress, *, relist: bool, declared: Declaration = NOTHING_DECLARED
    ) -> StoredRevision:
        """Bring what *uri* names to the store and return it, complete and verified.

        Without *relist* a revision of this URI that is in the store already is returned with no request
        at all; with it the storage is listed, and a revision that is there is only touched.
        *declared* is what the bytes must be, else TerminalError(IntegrityMismatch, SignatureInvalid).
        Raises RetryableError or TerminalError. When cancelled, lets go within a second; only partials
        and their journals are left.
        """
        stored = self._store.live()[0].get(uri)
        if not relist and stored is not None and stored.meets(declared):
            progress.expect(stored.size_bytes)
            progress.held(stored.size_bytes)
            return stored
        try:
            return await self._attempt(uri, progress, declared)
        except AgentError as error:
            if error.reason is not Reason.SNAPSHOT_CHANGED:
                raise
        return await self._attempt(uri, progress, declared)  # the listing was stale: list again, once

    async def close(self) -> None:
        """Stop moving; what is on its way fails or is cancelled by its owner."""
        self._mover.close()
        self._threads.close()

    async def _attempt(self, uri: str, progress: Progress, declared: Declaration) -> StoredRevision:
        provider = self._provider(uri)
        with span("resolve"):
            listing = await patiently(lambda: provider.resolve(uri))
        resolved_at = self._clock()
        if declared.digest is not None and not listing.single:
            refuse_folder(uri, len(listing.objects))
        if not listing.single or not listing.objects[0].pinned:
            return await self._bring(uri, provider, listing, resolved_at, progress, declared)
        blob = blob_id(listing.objects[0].identity)
        while not (turn := self._turns.claim(blob))[1]:  # who comes second finds the archive's members
            if (flying := self._flights.flying(blob)) is not None:
                progress.follow(flying.meter, mine=False)
            await turn[0].landed()
        try:
            return await self._bring(uri, provider, listing, resolved_at, progress, declared)
        finally:
            self._turns.land(turn[0])

    async def _bring(
        self,
        uri: str,
        provider: StorageProvider,
        listing: Listing,
        resolved_at: float,
        progress: Progress,
        declared: Declaration,
    ) -> StoredRevision:
        """Bring what is listed to the store and commit it."""
        progress.expect(_total(listing.objects))
        plan = await self._threads.run(partial(self._look, uri, listing, resolved_at, declared))
        if isinstance(plan, StoredRevision):
            progress.held(plan.size_bytes)
            return plan
        plan.declared = declared
        progress.held(sum(each.entry.size for each in plan.landed.values()))
        if plan.missing:
            await self._move(provider, plan, progress)
        manifest = _manifest(uri, resolved_at, [plan.landed[obj.path] for obj in listing.objects])
        with span("verify"):
            if listing.packed:
                return await self._conclude_layers(manifest, listing, plan)
            if not listing.single:
                return await self._threads.run(partial(self._conclude, manifest, declared))
            return await self._conclude_single(manifest, listing.objects[0], plan)

    async def _conclude_single(self, manifest: Manifest, obj: RemoteObject, work: _Work) -> StoredRevision:
        """Unpack the one object if it is an archive, and let it go once its members are committed."""
        landed = work.landed[obj.path]
        archive, identity = manifest.entries[0], landed.identity
        manifest = await self._threads.run(partial(self._identified, manifest, work.declared))
        if archive.link is not None:
            return await self._threads.run(partial(self._conclude, manifest, work.declared))
        proved = landed.proof != PROOFS[0] or manifest.proof != PROOFS[0]
        members = await self._archives.members(archive, identity, obj.media_type, proved=proved)
        if members is None:
            return await self._threads.run(partial(self._conclude, manifest, work.declared))
        unpacked = replace(manifest, entries=members, unpacked_from=identity)
        stored = await self._threads.run(partial(self._conclude, unpacked, work.declared))
        await self._threads.run(partial(self._store.discard, archive.blob))
        return stored

    async def _conclude_layers(self, manifest: Manifest, listing: Listing, work: _Work) -> StoredRevision:
        """Take what the layers leave, and let go of those that gave files once these are committed."""
        landed = [work.landed[obj.path] for obj in listing.objects]
        model = await self._archives.model([(each.entry, each.identity) for each in landed], listing)
        manifest = replace(manifest, entries=model.entries, unpacked_from=manifest.revision)
        stored = await self._threads.run(partial(self._conclude, manifest, work.declared))
        self._store.expect(manifest.uri, ())  # what it has no file of may go like any blob without a manifest
        for blob in model.emptied:
            await self._threads.run(partial(self._store.discard, blob))
        return stored

    def _provider(self, uri: str) -> StorageProvider:
        scheme = scheme_of(uri)
        if scheme is None:
            raise TerminalError(Reason.INVALID_STORAGE_URI, f"{redacted(uri)[:200]!r} has no scheme")
        if refused := uri_refusal(uri, self._allowed_uris):
            raise TerminalError(Reason.FORBIDDEN_URI, refused)
        return self._providers(scheme)

    def _identified(self, manifest: Manifest, declared: Declaration) -> Manifest:
        """Note the digest of the one object; raises where another one is declared. Blocks."""
        entry = manifest.entries[0]
        digest = recorded_sha256(entry.checksum)
        if declared.digest is None:
            return replace(manifest, sha256=digest)
        digest = digest or sha256_of(self._store.blob_path(entry.blob))
        refuse_other(manifest.uri, declared.digest, digest)
        return replace(manifest, sha256=digest, proof="declared")

    def _look(
        self, uri: str, listing: Listing, resolved_at: float, declared: Declaration
    ) -> StoredRevision | _Work:
        """Compare the listing with the store: all of it is there, or this is the work. Blocks."""
        revision = revision_of((obj.path, obj.size, obj.identity) for obj in listing.objects)
        if self._store.intact(uri, revision):
            stored = self._store.touch(uri, revision, resolved_at)
            if stored.sha256 is not None:
                refuse_other(uri, declared.digest, stored.sha256)
            manifest = self._store.manifest(uri, revision)
            if (
                manifest is not None
                and declared.digest in {None, stored.sha256}
                and _linked(manifest) == _may_link(listing, declared)
            ):
                checked = self._checker.checked(manifest, declared)
                return stored if checked == manifest else self._store.commit(checked)
            # of what no digest is known the bytes are read again, those of an archive fetched again
        self._store.expect(uri, [blob_id(obj.identity) for obj in listing.objects if obj.pinned])
        work = _Work()
        remembered, proof = self._remembered(uri)
        link = _may_link(listing, declared)
        for obj in listing.objects:
            blob = blob_id(obj.identity)
            if link and obj.size is not None:
                entry = Entry(obj.path, obj.size, blob, None, obj.link)
                work.landed[obj.path] = _Landed(entry, obj.size, obj.identity, "seen-first")
            elif obj.pinned and self._store.holds(blob, obj.size):
                size = self._store.blob_path(blob).stat().st_size if obj.size is None else obj.size
                work.landed[obj.path] = _held(obj, blob, size, remembered.get(blob), proof)
            else:
                work.missing.append(obj)
        return work

    def _conclude(self, manifest: Manifest, declared: Declaration) -> StoredRevision:
        """Check what is declared, and write the manifest but for unpinned bytes that came again. Blocks."""
        manifest = self._checker.checked(manifest, declared)
        known = self._store.live()[0].get(manifest.uri)
        says = bool(manifest.sha256 or manifest.checked)
        news = known is None or (known.sha256, known.checked) != (manifest.sha256, manifest.checked)
        if not (news and says) and self._store.intact(manifest.uri, manifest.revision):
            return self._store.touch(manifest.uri, manifest.revision, manifest.resolved_at)
        return self._store.commit(manifest)

    def _remembered(self, uri: str) -> tuple[dict[BlobId, str | None], str]:
        """Return the checksums that the last revision of this URI recorded, and what proved all of them."""
        last = self._store.live()[0].get(uri)
        manifest = self._store.manifest(uri, last.revision) if last is not None else None
        if manifest is None:
            return {}, "seen-first"
        proof = manifest.proof if manifest.proof in PROOFS[:2] else "seen-first"
        return {entry.blob: entry.checksum for entry in manifest.entries}, proof

    async def _move(self, provider: StorageProvider, work: _Work, progress: Progress) -> None:
        claim = self._claims.of({_partial_blob(obj): obj.size or 0 for obj in work.missing})
        with span("fetch", objects=len(work.missing)) as fetching:
            try:
                await self._threads.run(claim.take)
                while work.missing:
                    await self._round(provider, work, progress)
            finally:
                claim.release()
            fetching.set("bytes", progress.moved_bytes)

    async def _round(self, provider: StorageProvider, work: _Work, progress: Progress) -> None:
        """Of the next few, move what nobody moves yet, and take what others moved or leave it over."""
        mine: dict[Flight[_Landed], RemoteObject] = {}
        others: dict[str, Flight[_Landed]] = {}
        now, later = work.missing[:_ROUND_OBJECTS], work.missing[_ROUND_OBJECTS:]
        for obj in now:
            flight, claimed = self._flights.claim(_partial_blob(obj))
            if claimed:
                mine[flight] = obj
            else:
                others[obj.path] = flight
            progress.follow(flight.meter, mine=claimed)
        try:
            if mine:
                source = partial(carrying, outgoing())
                orders = [
                    self._order(flight, obj, source(partial(provider.source, obj)), work.declared)
                    for flight, obj in mine.items()
                ]
                await self._mover.move(orders)
        finally:
            for flight in mine:
                self._flights.land(flight)
        for flight in others.values():
            await flight.landed()
        flights = {obj.path: flight for flight, obj in mine.items()} | others
        for path, flight in flights.items():
            progress.settle(flight.meter)
            if flight.outcome is not None:
                work.landed[path] = _at(path, flight.outcome)
        work.missing = [obj for obj in now if obj.path not in work.landed] + later

    def _order(
        self,
        flight: Flight[_Landed],
        obj: RemoteObject,
        source: Callable[[], Awaitable[Source]],
        declared: Declaration,
    ) -> Order:
        loop = asyncio.get_running_loop()
        return Order(
            obj=obj,
            source=source,
            partial=self._store.partial_path(flight.blob),
            journal=self._store.journal_path(flight.blob),
            meter=flight.meter,
            settle=lambda moved: self._flights.arrived(flight, self._settle(obj, flight.blob, moved), loop),
            want=frozenset() if obj.pinned and not declared else frozenset({"sha256"}),
        )

    def _settle(self, obj: RemoteObject, blob: BlobId, moved: Moved) -> _Landed:
        """Verify a partial and make it a blob, or throw it away and raise. Blocks."""
        problem, proof = judge(obj, moved)
        if problem:
            self._store.partial_path(blob).unlink(missing_ok=True)
            self._store.journal_path(blob).unlink(missing_ok=True)
            raise RetryableError(Reason.INTEGRITY_MISMATCH, f"{obj.path}: {problem}; thrown away")
        identity = obj.identity
        if not obj.pinned:
            identity = f"{obj.identity}#sha256:{moved.digests['sha256']}"
            seen, blob = blob, blob_id(identity)
            with disk_errors("naming a download by its digest"):
                self._store.partial_path(seen).rename(self._store.partial_path(blob))
        self._store.adopt(blob)
        return _Landed(
            entry=Entry(obj.path, moved.size, blob, strongest(moved.digests)),
            listed_size=obj.size if obj.pinned else moved.size,
            identity=identity,
            proof=proof,
        )


def _at(path: str, landed: _Landed) -> _Landed:
    """Return it at this path: who shared a transfer may have another one for the same bytes."""
    if landed.entry.path == path:
        return landed
    return replace(landed, entry=replace(landed.entry, path=path))


def _held(obj: RemoteObject, blob: BlobId, size: int, recorded: str | None, proof: str) -> _Landed:
    """Describe an object whose blob is there: it was verified when it was adopted."""
    told = strongest(obj.checksums)
    entry = Entry(obj.path, size, blob, told or recorded)
    proved = "provider" if told else proof if recorded else "seen-first"
    return _Landed(entry, obj.size, obj.identity, proved)


def _may_link(listing: Listing, declared: Declaration) -> bool:
    """Whether the server reads the objects where they are. What is declared is copied: a link may change."""
    return not declared and all(obj.link is not None for obj in listing.objects)


def _linked(manifest: Manifest) -> bool:
    return all(entry.link is not None for entry in manifest.entries)


def _partial_blob(obj: RemoteObject) -> BlobId:
    return blob_id(obj.identity if obj.pinned else f"unpinned\n{obj.identity}")


def _manifest(uri: str, resolved_at: float, landed: Sequence[_Landed]) -> Manifest:
    entries = tuple(each.entry for each in landed)
    revision = revision_of((each.entry.path, each.listed_size, each.identity) for each in landed)
    proof = min((each.proof for each in landed), key=PROOFS.index)
    return Manifest(uri=uri, revision=revision, resolved_at=resolved_at, entries=entries, proof=proof)


def _total(objects: Sequence[RemoteObject]) -> int | None:
    sizes = [obj.size for obj in objects]
    return None if None in sizes else sum(size for size in sizes if size is not None)
