"""An object that is an archive: its members become the revision's files, and it goes once they are safe.

Bytes that are refused and that nothing proves may have been changed on their way: they are thrown away, and
fetched once more at once, until the same come twice.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from agent.artifacts.errors import disk_errors
from agent.artifacts.flights import Flights
from agent.artifacts.manifest import BlobId, Entry, blob_id
from agent.artifacts.store import Store
from agent.artifacts.threads import Threads
from agent.artifacts.unpack.run import unpack, unpack_layer
from agent.artifacts.unpack.wire import Limits, Member
from agent.core.archive import HEAD_BYTES, ArchiveKind, archive_kind, layer_kind
from agent.core.errors import RetryableError, TerminalError
from agent.core.layers import Layer, merged
from agent.core.reasons import Reason
from agent.storage.base import Listing

MOST_REFUSED = 10_000
"""Of so many archives is remembered that they were refused."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Model:
    """The files that layers leave, and the layers that some came from: these are not needed any more."""

    entries: tuple[Entry, ...]
    emptied: tuple[BlobId, ...]


class Archives:
    """Unpacks archives of the store into it; an archive that two fetches want at once is unpacked once."""

    def __init__(
        self, store: Store, threads: Threads, limits: Limits | None, left_bytes: Callable[[], int]
    ) -> None:
        self._store, self._threads, self._left_bytes = store, threads, left_bytes
        self._limits = limits or Limits()
        self._flights: Flights[tuple[Entry, ...]] = Flights()
        self._layers: Flights[Layer[Entry]] = Flights()
        self._refused: OrderedDict[str, str | None] = OrderedDict()  # checksums of what nothing proves

    async def members(
        self, entry: Entry, identity: str, media_type: str | None, *, proved: bool
    ) -> tuple[Entry, ...] | None:
        """Return the files in the archive that *entry* is, each a blob by now; None if it is no archive.

        *proved* tells that storage or user declared what the bytes are. Raises
        TerminalError(ArchiveRefused, ArchiveTooLarge), RetryableError.
        """
        try:
            return await self._members(entry, identity, media_type)
        except TerminalError as error:
            if error.reason is not Reason.ARCHIVE_REFUSED or proved:
                raise
            await self._threads.run(partial(self._store.discard, entry.blob))
            if self._came_again(entry, identity):
                raise
            words = "nothing proves that these are the bytes in storage, so they are fetched once more"
            raise RetryableError(error.reason, f"{error.message}; {words}") from error

    def _came_again(self, archive: Entry, identity: str) -> bool:
        """Whether the same bytes were refused before under this identity; remembers these."""
        again = archive.checksum is not None and self._refused.pop(identity, None) == archive.checksum
        self._refused[identity] = archive.checksum
        while len(self._refused) > MOST_REFUSED:
            self._refused.popitem(last=False)
        return again

    async def _members(self, entry: Entry, identity: str, media_type: str | None) -> tuple[Entry, ...] | None:
        kind = await self._threads.run(partial(self._kind, entry, media_type))
        if kind is None:
            return None
        return await _once(self._flights, identity, partial(self._unpacked, entry.blob, kind, identity))

    async def model(self, layers: Sequence[tuple[Entry, str]], listing: Listing) -> Model:
        """Return what archives and files, each with its identity, leave one over the other, lowest first.

        Raises TerminalError(NotFound) where that is nothing, and what `members` raises.
        """
        found: list[Layer[Entry]] = []
        emptied: list[BlobId] = []
        for entry, identity in layers:
            layer = Layer({entry.path: entry})
            if entry.path in listing.packed:
                layer = await self._layer(entry, identity, listing.below)
                emptied += [entry.blob] if layer.files else []
            found.append(layer)
        files = await self._threads.run(partial(merged, found))
        if not files:
            raise TerminalError(
                Reason.NOT_FOUND,
                f"its layers leave no file below /{listing.below or ''}; a modelcar has them in /models/",
            )
        if len(files) > self._limits.members:
            raise TerminalError(
                Reason.ARCHIVE_TOO_LARGE, f"its layers leave more than {self._limits.members} files"
            )
        entries = tuple(replace(files[path], path=path) for path in sorted(files))
        return Model(entries, tuple(emptied))

    async def _layer(self, entry: Entry, identity: str, below: str | None) -> Layer[Entry]:
        if not await self._threads.run(partial(self._store.holds, entry.blob, entry.size)):
            raise RetryableError(
                Reason.SNAPSHOT_CHANGED,
                f"{entry.path} was let go by another model that has it; it comes anew",
            )
        if below is None:
            members = await self._members(entry, identity, None)
            return Layer({each.path: each for each in members or ()})
        identity = f"{identity}#{below}"
        return await _once(self._layers, identity, partial(self._layer_below, entry, identity, below))

    async def _layer_below(self, entry: Entry, identity: str, below: str) -> Layer[Entry]:
        store = self._store
        kind = await self._threads.run(partial(self._layer_kind, entry))
        limits = await self._limits_now()
        path = store.blob_path(entry.blob)
        layer = await unpack_layer(path, kind, store.store_dir, identity, limits, below=below)
        members = await self._threads.run(partial(self._adopted, tuple(layer.files.values())))
        return Layer({each.path: each for each in members}, layer.hidden)

    async def _unpacked(self, archive: BlobId, kind: ArchiveKind, identity: str) -> tuple[Entry, ...]:
        store, limits = self._store, await self._limits_now()
        members = await unpack(store.blob_path(archive), kind, store.store_dir, identity, limits)
        return await self._threads.run(partial(self._adopted, members))

    async def _limits_now(self) -> Limits:
        left = await self._threads.run(self._left_bytes)
        most = left if self._limits.total_bytes is None else min(left, self._limits.total_bytes)
        return replace(self._limits, total_bytes=most)

    def _adopted(self, members: Sequence[Member]) -> tuple[Entry, ...]:
        for member in members:
            self._store.adopt(member.blob)
        return tuple(Entry(each.path, each.size, each.blob, f"sha256:{each.sha256}") for each in members)

    def _kind(self, entry: Entry, media_type: str | None) -> ArchiveKind | None:
        with disk_errors("looking at a download"), self._store.blob_path(entry.blob).open("rb") as file:
            return archive_kind(entry.path, media_type, file.read(HEAD_BYTES))

    def _layer_kind(self, entry: Entry) -> ArchiveKind:
        with disk_errors("looking at a download"), self._store.blob_path(entry.blob).open("rb") as file:
            return layer_kind(file.read(HEAD_BYTES))


async def _once(flights: Flights[T], identity: str, unpacked: Callable[[], Awaitable[T]]) -> T:
    """Return what *unpacked* returns, which runs once for all who want it at the same time."""
    while True:
        flight, claimed = flights.claim(blob_id(f"unpack\n{identity}"))
        if claimed:
            try:
                flight.outcome = await unpacked()
            finally:
                flights.land(flight)
        await flight.landed()
        if flight.outcome is not None:
            return flight.outcome
