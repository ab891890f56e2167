"""A world in memory on a simulated clock: storage, disk and server whose faults a test scripts.

It keeps the promises of `World`, and checks on the way that nobody asks for what the laws forbid.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ObservedState, Revision, StoredRevision, Told
from agent.core.reasons import Reason


@dataclass
class MemoryWorld:
    """`content` maps a URI to the revision that storage holds; absent URIs are NotFound.

    `previous` is what was confirmed before an open intent; a revision of `poison` takes the server down,
    and with it every load in flight. The load of a `late` one outlasts the patience of who asked: it goes
    on as long again, and then the server holds it (`late_ends_well`) or not. With `done_by_orphans` the
    server ends what it was asked although the agent that asked is gone. `ring` is called when the server
    has changed by itself.
    """

    content: dict[str, Revision] = field(default_factory=dict)
    fetch_faults: dict[str, AgentError] = field(default_factory=dict)
    bad_revisions: set[str] = field(default_factory=set)
    fetch_seconds: float = 1.0
    load_seconds: float = 1.0
    server_slots: int = 1
    server_up: bool = True
    restarts: int = 0
    budget_bytes: int | None = None
    stored: dict[str, StoredRevision] = field(default_factory=dict)
    told: dict[ModelName, Told] = field(default_factory=dict)
    loaded: dict[ModelName, tuple[Revision, int]] = field(default_factory=dict)
    calls: Counter = field(default_factory=Counter)
    running: dict[ModelName, Action] = field(default_factory=dict)
    peak: Counter = field(default_factory=Counter)
    lowest: dict[ModelName, int] = field(default_factory=dict)
    previous: dict[ModelName, Told] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)
    done_by_orphans: bool = False
    late: set[str] = field(default_factory=set)
    late_ends_well: bool = True
    moving: dict[ModelName, int] = field(default_factory=dict)
    unload_faults: dict[ModelName, AgentError] = field(default_factory=dict)
    ring: Callable[[], None] = lambda: None
    observations: int = 0
    glances: int = 0
    death: asyncio.Event = field(default_factory=asyncio.Event)

    def glance(self) -> ObservedState:
        self.glances += 1
        return self._seen()

    def observe(self) -> ObservedState:
        self.observations += 1
        return self._seen()

    def _seen(self) -> ObservedState:
        return ObservedState(
            stored=dict(self.stored),
            told=dict(self.told),
            restorable=frozenset(self.told),
            loaded=frozenset(self.loaded),
            server_up=self.server_up,
            moving=frozenset(self.moving),
        )

    def restart_server(self) -> None:
        self.loaded.clear()
        self.moving.clear()
        self.restarts += 1
        self.death.set()
        self.death = asyncio.Event()

    async def _lives(self, seconds: float) -> bool:
        """Wait, and say whether the server lived through it."""
        death = self.death
        try:
            async with asyncio.timeout(seconds):
                await death.wait()
        except TimeoutError:
            return True
        return False

    async def perform(self, action: Action) -> None:
        assert action.name not in self.running, "two actions for one model at once"
        kind = type(action).__name__
        self.calls[kind, action.name] += 1
        self.running[action.name] = action
        self.peak[kind] = max(
            self.peak[kind], sum(type(other) is type(action) for other in self.running.values())
        )
        try:
            match action:
                case Fetch():
                    await self._fetch(action)
                case Load():
                    await self._load(action)
                case Unload():
                    await self._unload(action)
        finally:
            del self.running[action.name]

    async def _fetch(self, action: Fetch) -> None:
        uri = action.spec.storage_uri
        await asyncio.sleep(self.fetch_seconds)
        if uri in self.fetch_faults:
            raise self.fetch_faults[uri]
        if uri not in self.content:
            raise TerminalError(Reason.NOT_FOUND, f"{uri} is empty")
        self.stored[uri] = StoredRevision(uri, self.content[uri], 1, asyncio.get_running_loop().time())

    async def _load(self, action: Load) -> None:
        self._check_budget()
        name, before = action.name, self.told.get(action.name)
        if before is not None and before.confirmed:
            self.previous[name] = before
        good = before if before is None or before.confirmed else self.previous.get(name)
        bytes_ = action.spec.memory_bytes
        intent = Told(action.revision, action.uri, action.spec.framework, bytes_, confirmed=False)
        intent = self.told[name] = intent.doubted(action.replaces_bytes).suspecting(before)
        doubted = intent if good is None else good.doubted(max(bytes_, action.replaces_bytes))
        doubted, good = doubted.suspecting(intent), None if good is None else good.suspecting(intent)
        try:
            lived = await self._lives(self.load_seconds)
        except asyncio.CancelledError:
            if self.done_by_orphans and action.revision not in self.bad_revisions | self.poison:
                self.loaded[name] = (action.revision, bytes_)
            raise
        if lived and action.revision in self.poison:
            self.restart_server()
            lived = False
        if not lived:
            self._remember(name, doubted.suspecting(intent, action.revision))
            raise RetryableError(Reason.SERVER_CRASHED, "the server ended while it loaded these bytes")
        if action.revision in self.late:
            self._remember(name, doubted)
            self.moving[name] = bytes_
            asyncio.get_running_loop().call_later(self.load_seconds, self._end_late, self.death, action)
            raise RetryableError(Reason.LOAD_TIMEOUT, "no answer in time")
        if action.revision in self.bad_revisions:
            self._remember(name, good)
            raise TerminalError(Reason.LOAD_REJECTED, "these bytes are no model")
        self.told[name] = replace(intent, confirmed=True, beside_bytes=0).suspecting(intent)
        self.loaded[name] = (action.revision, bytes_)

    def _end_late(self, death: asyncio.Event, action: Load) -> None:
        if death is not self.death:
            return
        del self.moving[action.name]
        if self.late_ends_well and action.revision not in self.bad_revisions:
            self.loaded[action.name] = (action.revision, action.spec.memory_bytes)
        self.ring()

    def _remember(self, name: ModelName, told: Told | None) -> None:
        if told is None:
            self.told.pop(name, None)
        else:
            self.told[name] = told

    async def _unload(self, action: Unload) -> None:
        if not await self._lives(self.load_seconds):
            raise RetryableError(Reason.SERVER_UNAVAILABLE, "the server ended while it unloaded")
        if action.name in self.unload_faults:
            raise self.unload_faults[action.name]
        self.loaded.pop(action.name, None)
        if not action.aside:
            self.told.pop(action.name, None)

    def _check_budget(self) -> None:
        """Law 5: resident, releasing and the peak of what is loading never pass the budget."""
        held = sum(bytes_ for _, bytes_ in self.loaded.values())
        coming = sum(act.spec.memory_bytes for act in self.running.values() if isinstance(act, Load))
        going_on = sum(self.moving.values())
        assert self.budget_bytes is None or held + coming + going_on <= self.budget_bytes
