"""The real world of one pod: the store, the fetcher and the model server, behind `World`.

Outside a running load `<model-dir>/<name>` holds exactly what the server last confirmed (design §5):
the intent is written before the publish, the outcome after; what fails puts the old folder back.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ParamSpec

from agent.artifacts.fetch import Fetcher
from agent.artifacts.manifest import Manifest
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec, ObservedState, StoredRevision, Told
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.reconcile.server_link import ServerLink
from agent.servers.base import ModelServer, ModelState
from agent.telemetry.traces import span

log = logging.getLogger("agent.models")

FIND_SECONDS = 2.0

P = ParamSpec("P")


class Pod:
    """Carries out actions on the store, the storage and the model server of this pod.

    *moved* is told of each fetch that ended, well or not: its URI and the bytes it brought.
    """

    def __init__(
        self,
        store: Store,
        fetcher: Fetcher,
        link: ServerLink,
        now: Callable[[], float],
        moved: Callable[[str, int], None] = lambda _uri, _bytes: None,
    ) -> None:
        self._store, self._fetcher, self._link, self._now, self._moved = store, fetcher, link, now, moved
        self._progress: dict[str, Progress] = {}
        self._hand = asyncio.Lock()  # one writer of the model dir at a time: actions and `inspect`
        self._inspected: list[ModelName] = []
        self._unrepaired: dict[ModelName, Reason] = {}  # what was said of them already

    @property
    def restarts(self) -> int:
        """How often the server was found to have restarted."""
        return self._link.presence.restarts

    @property
    def server_slots(self) -> int:
        """How many loads and unloads the server takes at once."""
        return self._link.slots

    def observe(self) -> ObservedState:
        """Return what store and server link know at this moment; no I/O."""
        return self._observed(self._store.revisions(), self._store.told())

    def glance(self) -> ObservedState:
        """Return the same uncopied; see `World`."""
        return self._observed(*self._store.live())

    def _observed(
        self, stored: Mapping[str, StoredRevision], told: Mapping[ModelName, Told]
    ) -> ObservedState:
        presence = self._link.presence
        return ObservedState(
            stored=stored,
            told=told,
            restorable=_Restorable(self._store, told),
            loaded=presence.loaded,
            server_up=presence.up,
            moving=presence.moving,
            layout_by_framework=self._link.server.traits.framework_matters,
        )

    async def perform(self, action: Action) -> None:
        """Do what *action* says; see `World`."""
        match action:
            case Fetch():
                await self._fetch(action)
            case Load():
                await self._load(action)
            case Unload():
                await self._unload(action)

    def progress(self, uri: str) -> ProgressReading | None:
        """Return how far the running download of *uri* is, None where none runs."""
        progress = self._progress.get(uri)
        return progress.snapshot(self._now()) if progress is not None else None

    async def _fetch(self, action: Fetch) -> None:
        uri = action.spec.storage_uri
        progress = self._progress[uri] = Progress(self._now())
        try:
            await self._fetcher.fetch(uri, progress, relist=action.relist, declared=action.spec.declared)
        finally:
            self._progress.pop(uri, None)
            self._moved(uri, progress.moved_bytes)

    async def _load(self, action: Load) -> None:
        server = self._link.server
        before = self._store.live()[1].get(action.name)
        good = before if before is None or before.confirmed else self._store.previous().get(action.name)
        await self._link.make_sure()
        try:
            with span("publish"):
                await self._alone(self._publish, server, action, before)
        except AgentError:  # the folder still is what it was, and the server was asked nothing
            await self._alone(self._store.record, action.name, before)
            raise
        try:
            with span("load"):
                await self._link.load(action.name)
        except AgentError as error:
            faults: list[AgentError] = []
            await self._alone(self._put_back, server, action, good, error, faults)
            if faults:
                raise _with(error, faults) from error
            raise
        told = _told(action, confirmed=True).suspecting(before)
        await self._alone(self._store.record, action.name, told)

    async def _unload(self, action: Unload) -> None:
        await self._link.unload(action.name)
        await self._alone(self._take_away, action)

    async def inspect(self, most: int) -> None:
        """Compare the files of up to *most* served models with what was verified, the next ones each time.

        A revision whose blobs changed is forgotten, so that the plan fetches it again; a folder that was
        changed or removed is published again, with no load (fault D10).
        """
        if not self._inspected:
            told = self._store.told()
            self._inspected = sorted(told, reverse=True)
            self._unrepaired = {name: why for name, why in self._unrepaired.items() if name in told}
        names, self._inspected = self._inspected[-most:], self._inspected[:-most]
        for name in reversed(names):
            try:
                await self._alone(self._repair, name)
            except AgentError as error:  # this one's trouble; the others are looked at all the same
                if self._unrepaired.get(name) != error.reason:
                    self._unrepaired[name] = error.reason
                    log.warning("the folder of a model cannot be checked or mended", extra=_why(name, error))
            else:
                self._unrepaired.pop(name, None)

    async def _alone(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run bounded work on the local disk on a thread, with nobody else at the model dir."""
        async with self._hand:
            await asyncio.to_thread(work, *args, **kwargs)

    async def take_back_open_intents(self) -> None:
        """Take back what an agent before this one had published and never saw confirmed; to be called first.

        A server that loads what it finds would end over such a folder if it is bad, and would be waited for
        in vain. What was confirmed before it stands there again, or nothing does; the name is loaded again
        from the store as soon as the server answers. Where nothing was there before and the server holds the
        name now, the load was done, and only our word of it was missing.
        """
        told, previous = self._store.told(), self._store.previous()
        opened = [
            (name, previous.get(name), intent)
            for name, intent in told.items()
            if not intent.confirmed and not _same_folder(previous.get(name), intent)
        ]
        held = await self._held_of([name for name, _, _ in opened])
        for name, good, intent in opened:
            faults: list[AgentError] = []
            if name in held and good is None and intent.memory_bytes and not intent.beside_bytes:
                await self._alone(self._note, name, intent.found_loaded(), faults)
            else:
                await self._alone(self._take_back, name, good, intent, faults)
            for error in faults:
                log.warning(
                    "a folder that was never confirmed is not as it was before", extra=_why(name, error)
                )

    async def _held_of(self, names: Collection[ModelName]) -> Collection[str]:
        """Return which of *names* the server holds, if it answers soon; its dialect is known then too."""
        if not names:
            return ()
        self._link.server.doubt(names)
        with suppress(AgentError, TimeoutError):
            async with asyncio.timeout(FIND_SECONDS):
                reading = await self._link.server.read()
                return {name for name, state in reading.models.items() if state is ModelState.READY}
        return ()

    # The rest runs on a thread.

    def _repair(self, name: ModelName) -> None:
        told = self._store.live()[1].get(name)
        if told is None or not told.confirmed or name not in self._link.presence.loaded:
            return
        if not self._store.intact(told.uri, told.revision):
            log.warning("stored files were changed or removed; they are fetched again", extra={"model": name})
            return
        manifest = self._store.manifest(told.uri, told.revision)
        if manifest is None:
            return
        spec = ModelSpec(told.uri, told.framework, told.memory_bytes)
        layout = self._layout(self._link.server, name, spec, manifest)
        if not self._store.stands(name, manifest, layout):
            log.warning(
                "the folder of a model was changed or removed; it is published again", extra={"model": name}
            )
            self._store.publish(name, manifest, layout)

    def _take_away(self, action: Unload) -> None:
        self._store.withdraw(action.name)
        if not action.aside:
            self._store.record(action.name, None)

    def _publish(self, server: ModelServer, action: Load, before: Told | None) -> None:
        manifest = self._store.manifest(action.uri, action.revision)
        if manifest is None:
            raise RetryableError(Reason.DISK_ERROR, "the downloaded revision is gone from the store")
        layout = self._layout(server, action.name, action.spec, manifest)
        intent = _told(action, confirmed=False).doubted(action.replaces_bytes)
        self._store.record(action.name, intent.suspecting(before))
        self._store.publish(action.name, manifest, layout)

    def _take_back(self, name: ModelName, good: Told | None, intent: Told, faults: list[AgentError]) -> None:
        self._restore(self._link.server, name, good, faults)
        if good is not None and not faults:
            self._note(name, good.doubted(intent.held_bytes()), faults)

    def _put_back(
        self,
        server: ModelServer,
        action: Load,
        good: Told | None,
        error: AgentError,
        faults: list[AgentError],
    ) -> None:
        """Put the old folder back, or take the new one away; remember what is still known.

        What the disk refuses is added to *faults*, and the rest is done all the same.
        """
        name, most = action.name, max(action.spec.memory_bytes, action.replaces_bytes)
        intent = self._store.live()[1].get(name)
        crashed = action.revision if error.reason is Reason.SERVER_CRASHED else None
        gone = self._restore(server, name, good, faults)
        doubt = intent if good is None else good.doubted(most)
        if not isinstance(error, TerminalError) and doubt is not None:
            self._note(name, doubt.suspecting(intent, crashed), faults)
        elif gone or good is not None:
            self._note(name, None if good is None else good.suspecting(intent), faults)

    def _restore(
        self, server: ModelServer, name: ModelName, good: Told | None, faults: list[AgentError]
    ) -> bool:
        """Have the folder be what *good* says, else not be there; whether either is so."""
        try:
            manifest = self._store.manifest(good.uri, good.revision) if good is not None else None
            if good is not None and manifest is not None:
                spec = ModelSpec(good.uri, good.framework, good.memory_bytes)
                self._store.publish(name, manifest, self._layout(server, name, spec, manifest))
                return True
        except AgentError as fault:
            faults.append(fault)
        try:
            self._store.withdraw(name)
        except AgentError as fault:
            faults.append(fault)
            return False
        return True

    def _note(self, name: ModelName, told: Told | None, faults: list[AgentError]) -> None:
        try:
            self._store.record(name, told)
        except AgentError as fault:
            faults.append(fault)

    def _layout(
        self, server: ModelServer, name: ModelName, spec: ModelSpec, manifest: Manifest
    ) -> Mapping[str, str | bytes]:
        paths = [entry.path for entry in manifest.entries]
        return server.layout(name, spec, paths, lambda path: self._store.read(manifest, path))


def _told(action: Load, *, confirmed: bool) -> Told:
    spec = action.spec
    return Told(action.revision, action.uri, spec.framework, spec.memory_bytes, confirmed)


def _same_folder(one: Told | None, other: Told) -> bool:
    return one is not None and (one.revision, one.uri, one.framework) == (
        other.revision,
        other.uri,
        other.framework,
    )


def _with(error: AgentError, faults: Sequence[AgentError]) -> AgentError:
    """Return the same error, so that it is held as what it is, with what the disk refused afterwards."""
    more = "; ".join(f"{fault.reason}: {fault.message}" for fault in faults)
    message = f"{error.message}; and the folder could not be put back as it was ({more})"
    if isinstance(error, RetryableError):
        return RetryableError(error.reason, message, retry_after_seconds=error.retry_after_seconds)
    return TerminalError(error.reason, message)


def _why(name: ModelName, error: AgentError) -> dict[str, str]:
    return {"model": name, "reason": error.reason, "message_": error.message}


@dataclass(frozen=True, slots=True)
class _Restorable:
    """The names whose told revision is complete on disk; looked up when asked."""

    store: Store
    told: Mapping[ModelName, Told]

    def __contains__(self, name: object) -> bool:
        told = self.told.get(name)  # type: ignore[call-overload]
        return told is not None and self.store.has(told.uri, told.revision)
