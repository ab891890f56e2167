"""The loop: retire what finished, observe, plan, start. Nothing here decides about models (design §3).

Three things are remembered: what runs, what is on hold, and the standing plan until the next one.
Planning gets at most a tenth of the wall time; between plans free slots take the next entry of the
standing plan whose model is still as it was.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Protocol, TypeVar

from agent.aio.wakeup import Wakeup
from agent.core.actions import Action, Cancelled, Failed, Fetch, Load, Outcome, Succeeded, Unload
from agent.core.errors import AgentError, RetryableError
from agent.core.model import DesiredState, ModelName, ObservedState
from agent.core.plan import Plan, Rules, Verdict, plan
from agent.core.reasons import Reason
from agent.core.retry import (
    BackoffPolicy,
    Holds,
    after_restart,
    hold_key,
    meant,
    record,
    remembered,
    still_meant,
    unload_key,
)
from agent.core.status import Facts, model_status
from agent.reconcile.world import World
from agent.telemetry.board import Board

log = logging.getLogger("agent.reconcile")

PLANNING_SHARE = 9.0  # the next plan starts no sooner than so many times the last one's duration
POSTED_AT_ONCE = 250  # models between two turns of everybody else, a hundredth of a second
A = TypeVar("A", bound=Action)

WAITED_SECONDS = 600.0  # short of memory for so long: the next room is its own (design §8.3)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how often at least. Seconds; `refresh_seconds` 0 means never."""

    downloads: int = 4
    resync_seconds: float = 30.0
    refresh_seconds: float = 0.0


class Outlook(StrEnum):
    """How things stand: still to be done, all done, or left undone until somebody changes something."""

    WORKING = "working"
    SETTLED = "settled"
    STUCK = "stuck"


class Observer(Protocol):
    """Who counts what the loop does. Quick, and raises nothing."""

    def acted(self, outcome: Outcome, seconds: float) -> None:
        """An action ended so, after *seconds*."""
        ...

    def planned(self, seconds: float) -> None:
        """A plan was made in *seconds*."""
        ...


class Unobserved:
    """Counts nothing."""

    def acted(self, outcome: Outcome, seconds: float) -> None:
        """Count nothing."""

    def planned(self, seconds: float) -> None:
        """Count nothing."""


class Reconciler:
    """Moves the world towards what is wanted, for ever.

    *wakeup* is the bell that whoever has news rings.
    """

    def __init__(
        self,
        world: World,
        board: Board,
        rules: Rules,
        limits: Limits,
        clock: "Clock",
        wakeup: Wakeup,
        observer: Observer | None = None,
    ) -> None:
        self.wakeup = wakeup
        self._observer: Observer = observer or Unobserved()
        self._world, self._board, self._rules, self._limits = world, board, rules, limits
        self._clock, self._backoff = clock, BackoffPolicy()
        self._desired: DesiredState | None = None
        self._holds: Holds = {}
        self._busy: dict[ModelName, Action] = {}
        self._tasks: dict[ModelName, asyncio.Task[Outcome]] = {}
        self._outcomes: deque[tuple[Outcome, float]] = deque()
        self._standing = _Standing()
        self._verdicts: dict[ModelName, Verdict] = {}
        self._prints: dict[ModelName, object] = {}
        self._leaving: Collection[ModelName] = ()
        self._short_since: dict[ModelName, float] = {}
        self._restarts = world.restarts
        self._relist_before = 0.0
        self._not_before = 0.0
        self._stale = True
        self._settled = False

    # What others say.

    def want(self, desired: DesiredState) -> None:
        """Take a new document; what is no longer meant loses its holds, so that it is tried at once.

        On return the board says of no model that it is up to date with what an earlier document asked for.
        """
        before = self._desired.models if self._desired is not None else {}
        first, self._desired = self._desired is None, desired
        self._standing = _Standing()
        self._settled = False
        seen = self._world.observe()
        if first:
            self._holds = remembered(seen.told, self._clock.now(), self._backoff)
        names = desired.models.keys() | seen.told.keys()
        revisions = {pair for name in names for pair in _revisions(name, desired, seen)}
        self._holds = still_meant(self._holds, desired, revisions)
        for name in [*self._board.models]:
            if before.get(name) != desired.models.get(name):
                self._verdicts.pop(name, None)
                self._refresh(name, seen)
        self.wakeup.ring()

    def resync(self) -> None:
        """Forget all holds and list the storage again (SIGHUP)."""
        self._holds = {}
        self._relist_before = self._clock.wall()
        self.wakeup.ring()

    def wanted_uris(self) -> Collection[str] | None:
        """Return the URIs of the document in force, None before there is one; on any thread."""
        desired = self._desired
        return None if desired is None else {spec.storage_uri for spec in desired.models.values()}

    def outlook(self) -> Outlook:
        """Say whether there is anything left to do, and whether waiting will do it."""
        if self._desired is None or not self._settled or self._busy or self._outcomes:
            return Outlook.WORKING
        left = [verdict for verdict in self._verdicts.values() if verdict.reason is not None]
        left += [Verdict(Reason.UNLOADING, hold=self._holds.get(unload_key(name))) for name in self._leaving]
        if not left and self._verdicts.keys() == self._desired.models.keys():
            return Outlook.SETTLED
        hopeless = all(
            (verdict.hold is not None and verdict.hold.terminal) or verdict.shortage for verdict in left
        )
        return Outlook.STUCK if hopeless else Outlook.WORKING

    # The cycle.

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._board.turned_at = self._clock.now()
                self._retire()
                if self._desired is not None and self._clock.now() >= self._not_before:
                    await self._replan(self._desired)
                    self._stale = False
                self._start(group)
                await self.wakeup.wait(self._seconds_to_next())
                self._stale = True

    def _retire(self) -> None:
        while self._outcomes:
            outcome, seconds = self._outcomes.popleft()
            self._observer.acted(outcome, seconds)
            name = outcome.action.name
            del self._busy[name], self._tasks[name]
            self._standing.touched.add(name)
            self._remember(outcome)
            self._log(outcome)
            self._refresh(name, self._world.glance())

    def _remember(self, outcome: Outcome) -> None:
        """Hold what failed, unless nobody means it any more: then coming back to it is tried at once."""
        assert self._desired is not None  # noqa: S101 - nothing runs before a document was wanted
        name, key = outcome.action.name, hold_key(outcome.action)
        self._holds = record(self._holds, outcome, self._clock.now(), self._backoff, self._clock.draw())
        if isinstance(outcome, Failed) or isinstance(outcome.action, Unload):
            revisions = _revisions(name, self._desired, self._world.glance())
            self._holds = {
                other: hold
                for other, hold in self._holds.items()
                if other[1] != name or meant(other, self._desired, revisions)
            }
        if isinstance(outcome, Failed) and name in self._verdicts:
            self._verdicts[name] = Verdict(outcome.reason, hold=self._holds.get(key))

    async def _replan(self, desired: DesiredState) -> None:
        began = self._clock.now()
        observed = self._world.observe()
        if self._world.restarts != self._restarts:
            self._restarts = self._world.restarts
            self._holds = after_restart(self._holds)
        made = plan(
            desired,
            observed,
            busy=self._busy,
            holds=self._holds,
            rules=self._rules,
            now=began,
            waited=self._waited(began),
            relist_before=self._listed_before(),
        )
        for name in made.cancel:
            self._tasks[name].cancel()
        self._standing = _Standing(deque((*made.unloads, *made.loads)), deque(made.fetches))
        others = await self._post(desired, observed, made)
        ended = self._clock.now()
        spent = ended - began - others
        self._observer.planned(spent)
        self._not_before = ended + PLANNING_SHARE * spent

    def _start(self, group: asyncio.TaskGroup) -> None:
        fetches = sum(isinstance(action, Fetch) for action in self._busy.values())
        server = len(self._busy) - fetches
        for action in (
            *self._standing.take(self._standing.server, self._world.server_slots - server, self._busy),
            *self._standing.take(self._standing.fetches, self._limits.downloads - fetches, self._busy),
        ):
            self._begin(group, action)
            self._refresh(action.name, self._world.glance())

    def _begin(self, group: asyncio.TaskGroup, action: Action) -> None:
        kind = type(action).__name__.lower()
        task = group.create_task(self._act(action), name=f"{kind} {action.name}")
        self._busy[action.name], self._tasks[action.name] = action, task
        task.add_done_callback(partial(self._finished, action, self._clock.now()))

    async def _act(self, action: Action) -> Outcome:
        """The action boundary: the one place where any error becomes an outcome."""
        try:
            await self._world.perform(action)
        except AgentError as error:
            retry_after = error.retry_after_seconds if isinstance(error, RetryableError) else None
            terminal = not isinstance(error, RetryableError)
            return Failed(action, error.reason, error.message, terminal, retry_after)
        except Exception as error:
            log.exception("a bug ended an action", extra={"model": action.name})
            message = f"a fault in the agent itself ({type(error).__name__}); the log has the details"
            return Failed(action, Reason.INTERNAL_ERROR, message)
        return Succeeded(action)

    def _finished(self, action: Action, began: float, task: asyncio.Task[Outcome]) -> None:
        # A task that is cancelled before its first step runs none of its code, so the outcome is made here.
        outcome = Cancelled(action) if task.cancelled() else task.result()
        self._outcomes.append((outcome, self._clock.now() - began))
        self.wakeup.ring()

    # When to look again without being rung.

    def _seconds_to_next(self) -> float:
        now = self._clock.now()
        soonest = now + self._limits.resync_seconds
        if self._desired is not None and self._stale:
            soonest = self._not_before  # something has happened since the last plan
        holds = (hold.until for hold in self._holds.values() if hold.until > now)
        waits = (
            since + WAITED_SECONDS for since in self._short_since.values() if since + WAITED_SECONDS > now
        )
        return max(0.0, min(soonest, *holds, *waits, soonest) - now)

    def _waited(self, now: float) -> Collection[ModelName]:
        return {name for name, since in self._short_since.items() if now - since >= WAITED_SECONDS}

    def _listed_before(self) -> float:
        if not self._limits.refresh_seconds:
            return self._relist_before
        return max(self._relist_before, self._clock.wall() - self._limits.refresh_seconds)

    # What is shown.

    async def _post(self, desired: DesiredState, observed: ObservedState, made: Plan) -> float:
        """Post what *made* says of every model, in turns with all other tasks; return the seconds they had.

        Each turn reads the world anew, so that nothing older overtakes what was posted meanwhile. A new
        document ends it: the plan for that one speaks of every model again.
        """
        models, now = desired.models, self._clock.now()
        self._settled = False
        short = {
            name
            for name, verdict in made.verdicts.items()
            if verdict.shortage is not None and verdict.shortage.reason is Reason.MEMORY_BUDGET_EXCEEDED
        }
        self._short_since = {name: self._short_since.get(name, now) for name in short}
        self._verdicts = dict(made.verdicts)
        self._leaving = observed.told.keys() - models.keys()
        gone = self._board.models.keys() - models.keys() - self._leaving - self._busy.keys()
        names, others = (*models, *self._leaving, *gone), 0.0
        for first in range(0, len(names), POSTED_AT_ONCE):
            if first:
                left = self._clock.now()
                await asyncio.sleep(0)
                others += self._clock.now() - left
                if self._desired is not desired:
                    return others
            seen = self._world.glance()
            for name in names[first : first + POSTED_AT_ONCE]:
                if name in gone:
                    self._board.drop(name)
                    self._prints.pop(name, None)
                else:
                    self._refresh(name, seen)
        self._board.say(
            config=replace(self._board.config, planned_digest=desired.digest),
            memory=replace(self._board.memory, reserved_bytes=made.reserved_bytes),
        )
        self._settled = not (made.unloads or made.loads or made.fetches or made.cancel)
        return others

    def _refresh(self, name: ModelName, observed: ObservedState) -> None:
        """Post a model's status if anything that it is made of has changed."""
        assert self._desired is not None  # noqa: S101 - nothing runs before a document was wanted
        spec = self._desired.models.get(name)
        running = self._busy.get(name)
        if spec is None and running is None and name not in observed.told:
            return  # it leaves the board with the next plan
        verdict = self._verdicts.get(name)
        stored = observed.stored.get(spec.storage_uri) if spec is not None else None
        there = (name in observed.loaded, name in observed.moving)
        made_of = (spec, verdict, running, stored, observed.told.get(name), there)
        if self._prints.get(name) == made_of:
            return
        self._prints[name] = made_of
        hold = self._holds.get(hold_key(running)) if running is not None else None
        facts = Facts(name, spec, verdict, running, hold)
        self._board.post(model_status(facts, observed, self._board.models.get(name), self._clock.wall()))

    def _log(self, outcome: Outcome) -> None:
        fields = {"model": outcome.action.name, "action": type(outcome.action).__name__}
        if isinstance(outcome, Failed):
            fields |= {"reason": outcome.reason, "message_": outcome.message}
        log.debug("action %s", type(outcome).__name__.lower(), extra=fields)


def _revisions(
    name: ModelName, desired: DesiredState, seen: ObservedState
) -> Collection[tuple[ModelName, str]]:
    """Return the revisions of *name* that are wanted or were told."""
    spec, told = desired.models.get(name), seen.told.get(name)
    stored = seen.stored.get(spec.storage_uri) if spec is not None else None
    return [(name, each.revision) for each in (stored, told) if each is not None]


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is monotonic seconds, `wall` Unix seconds, `draw` a number from [0, 1)."""

    now: Callable[[], float]
    wall: Callable[[], float]
    draw: Callable[[], float]


class _Standing:
    """The entries of the last plan that were not started yet, and the models it no longer speaks for."""

    def __init__(
        self, server: "deque[Load | Unload] | None" = None, fetches: "deque[Fetch] | None" = None
    ) -> None:
        self.server: deque[Load | Unload] = server if server is not None else deque()
        self.fetches: deque[Fetch] = fetches if fetches is not None else deque()
        self.touched: set[ModelName] = set()

    def take(self, queue: "deque[A]", free: int, busy: Collection[ModelName]) -> "list[A]":
        """Take the next *free* entries whose model is still as it was when the plan was made."""
        taken: list[A] = []
        while queue and len(taken) < free:
            action = queue.popleft()
            if action.name not in busy and action.name not in self.touched:
                taken.append(action)
                self.touched.add(action.name)
        return taken
