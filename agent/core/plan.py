"""The planner: from what is wanted and what is there to what is started now (design §3).

The plan is always made whole, never from what changed. It contains only actions that may start at
this moment, and all its loads together fit the budget, so the shell may start any of them in any
order until the next plan. Linear in the number of models.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.budget import Rank, Shortage, admit
from agent.core.model import DesiredState, ModelName, ModelSpec, ObservedState, StoredRevision
from agent.core.reasons import Reason
from agent.core.retry import Hold, Holds, Step


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided.

    `budget_bytes` is None without a budget. With `step_aside` (`--update-policy=resource`) a model is
    unloaded first where old and new do not fit together; otherwise the old one goes on serving.
    """

    budget_bytes: int | None = None
    step_aside: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a model stands where it stands; `reason` is None where nothing is left to do for it."""

    reason: Reason | None
    shortage: Shortage | None = None
    hold: Hold | None = None


SETTLED = Verdict(None)
QUEUED = Verdict(Reason.QUEUED)
FETCHING = Verdict(Reason.DOWNLOADING)
LOADING = Verdict(Reason.LOADING)
UNLOADING = Verdict(Reason.UNLOADING)
NO_SERVER = Verdict(Reason.WAITING_FOR_SERVER)


@dataclass(frozen=True, slots=True)
class Plan:
    """What may start now, each list in the order to start it, and a verdict for every wanted model.

    `cancel` names running fetches that nobody wants any more, or that stand in the way of bringing
    back what served. `reserved_bytes` is what the server holds or may hold, running loads included.
    """

    unloads: tuple[Unload, ...] = ()
    loads: tuple[Load, ...] = ()
    fetches: tuple[Fetch, ...] = ()
    cancel: tuple[ModelName, ...] = ()
    verdicts: Mapping[ModelName, Verdict] = field(default_factory=dict)
    reserved_bytes: int = 0


SUSPECT_WAITS_SECONDS = 600.0
"""How long a load that took the server down before lets the others go first (design §8.3's patience)."""

_Wish = Fetch | Load | Hold | None


def plan(
    desired: DesiredState,
    observed: ObservedState,
    *,
    busy: Mapping[ModelName, Action],
    holds: Holds,
    rules: Rules,
    now: float,
    waited: Collection[ModelName] = (),
    relist_before: float = 0.0,
) -> Plan:
    """Decide what to start so that *observed* moves towards *desired*.

    *now* is monotonic, as the holds are. *waited* have been short of memory for so long that the next
    room is theirs. Listings made before *relist_before* (Unix seconds) are made again.
    """
    draft = _Draft(desired, observed, busy, holds, rules, now, relist_before)
    draft.wish_all()
    draft.admit_all(frozenset(waited))
    draft.emit_unloads()
    draft.emit_loads()
    draft.emit_fetches()
    return draft.plan()


class _Draft:
    """One plan while it is being made."""

    def __init__(
        self,
        desired: DesiredState,
        observed: ObservedState,
        busy: Mapping[ModelName, Action],
        holds: Holds,
        rules: Rules,
        now: float,
        relist_before: float,
    ) -> None:
        self._models = desired.models
        self._seen = observed
        self._busy = busy
        self._holds = holds
        self._rules = rules
        self._now = now
        self._relist_before = relist_before
        self._wishes: dict[ModelName, _Wish] = {}
        self._instead: dict[ModelName, _Wish] = {}  # of a way back that finds no room
        self._interrupts: dict[ModelName, Load] = {}  # ways back that a running fetch stands in
        self._shortages: Mapping[ModelName, Shortage] = {}
        self._verdicts: dict[ModelName, Verdict] = {}
        self._unloads: list[Unload] = []
        self._loads: list[Load] = []
        self._fetches: list[Fetch] = []
        self._cancel: list[ModelName] = []
        self._reserved = 0
        self._kept_clear = False  # nothing may start now beside what runs or was emitted

    def plan(self) -> Plan:
        return Plan(
            tuple(self._unloads),
            tuple(self._loads),
            tuple(self._fetches),
            tuple(self._cancel),
            self._verdicts,
            self._reserved,
        )

    # What each model needs next, the budget aside.

    def wish_all(self) -> None:
        for name in sorted(self._models):
            spec = self._models[name]
            running = self._busy.get(name)
            if running is None and name in self._seen.moving:
                self._verdicts[name] = self._moving(name, spec)
            elif running is None:
                self._wishes[name] = self._wish(name, spec)
            else:
                self._verdicts[name] = _RUNNING[type(running)]
                if isinstance(running, Fetch):
                    self._judge(running, spec)
        self._cancel += [
            name
            for name, action in self._busy.items()
            if isinstance(action, Fetch) and name not in self._models
        ]

    def _moving(self, name: ModelName, spec: ModelSpec) -> Verdict:
        stored = self._seen.stored.get(spec.storage_uri)
        hold = self._held(Step.LOAD, name, stored.revision) if stored is not None else None
        return Verdict(hold.reason, hold=hold) if hold is not None else LOADING

    def _judge(self, running: Fetch, spec: ModelSpec) -> None:
        """Stop a fetch of what is no longer meant, or one that what served cannot wait for."""
        back = self._way_back(running.name) if self._seen.server_up else None
        if running.spec.source != spec.source:
            self._cancel.append(running.name)
        elif back is not None:
            self._interrupts[running.name] = back

    def _wish(self, name: ModelName, spec: ModelSpec) -> _Wish:
        stored = self._seen.stored.get(spec.storage_uri)
        if stored is not None and self._seen.settled(name, spec):
            again = (
                stored.resolved_at < self._relist_before and self._held(Step.FETCH, name, spec.source) is None
            )
            return Fetch(name, spec, relist=True) if again else None
        wish = self._forward(name, spec, stored)
        back = None if isinstance(wish, Load) and not self._takes_down(wish) else self._way_back(name)
        if back is None or (isinstance(wish, Load) and wish.revision == back.revision):
            return wish
        self._instead[name] = wish
        return back

    def _takes_down(self, load: Load) -> bool:
        """Whether what served is gone, perhaps by this very load: then it comes back first (law 2)."""
        return self._suspect(load) and load.name not in self._seen.loaded

    def _forward(
        self, name: ModelName, spec: ModelSpec, stored: StoredRevision | None
    ) -> Fetch | Load | Hold:
        unreachable = self._held(Step.FETCH, name, spec.source)
        if stored is None or not stored.fits(spec):
            return unreachable or Fetch(name, spec, relist=stored is not None)
        refused = self._holds.get((Step.LOAD, name, stored.revision))
        if refused is None or (refused.until <= self._now and not refused.relist):
            return Load(name, spec, stored.revision, spec.storage_uri, self._held_bytes(name))
        if refused.until > self._now and stored.resolved_at >= self._relist_before:
            return refused
        return unreachable or Fetch(name, spec, relist=True)

    def _way_back(self, name: ModelName) -> Load | None:
        """Return the load that brings back what served before, if the server lost it or may have."""
        told = self._seen.told.get(name)
        if told is None or self._seen.serves(name) is not None or name not in self._seen.restorable:
            return None
        hold = self._holds.get((Step.LOAD, name, told.revision))
        if hold is not None and (hold.until > self._now or hold.relist):
            return None
        spec = ModelSpec(told.uri, told.framework, told.memory_bytes)
        return Load(name, spec, told.revision, told.uri, self._held_bytes(name))

    def _held(self, step: Step, name: ModelName, target: str) -> Hold | None:
        hold = self._holds.get((step, name, target))
        return hold if hold is not None and hold.until > self._now else None

    # Memory: what the server holds, and who may come in.

    def _held_bytes(self, name: ModelName) -> int:
        """Return what the server holds under *name* while no action of ours runs there."""
        return self._seen.held_bytes(name, self._models.get(name))

    def admit_all(self, waited: frozenset[ModelName]) -> None:
        self._reserved = self._count_reserved()
        self._shortages = self._admitted(waited)
        closed = {name for name in (*self._instead, *self._interrupts) if not self._opens(name)}
        for name in closed:
            if self._interrupts.pop(name, None) is None:
                self._wishes[name] = self._instead[name]
        if closed:
            self._shortages = self._admitted(waited)
        self._cancel += self._interrupts

    def _opens(self, name: ModelName) -> bool:
        """Whether the way back to what served has room, beside what the server may hold of this name too."""
        back, budget = self._interrupts.get(name) or self._wishes[name], self._rules.budget_bytes
        if name in self._shortages or not isinstance(back, Load):
            return False
        return budget is None or self._fits(back, budget) or self._may_step_aside(back, budget)

    def _fits(self, load: Load, budget: int) -> bool:
        need = load.spec.memory_bytes
        return self._reserved + need <= budget or need == 0

    def _admitted(self, waited: frozenset[ModelName]) -> Mapping[ModelName, Shortage]:
        budget = self._rules.budget_bytes
        if budget is None:
            return {}
        needs = (self._need(name, spec, waited) for name, spec in self._models.items())
        return admit((need for need in needs if need is not None), budget)

    def _count_reserved(self) -> int:
        held = 0
        there = self._seen.loaded | self._seen.moving
        for name in there & (self._seen.told.keys() | self._models.keys()):
            if not isinstance(self._busy.get(name), Load):
                held += self._held_bytes(name)
        for action in self._busy.values():
            if isinstance(action, Load):
                held += action.replaces_bytes + action.spec.memory_bytes
        return held

    def _need(
        self, name: ModelName, spec: ModelSpec, waited: Collection[ModelName]
    ) -> tuple[Rank, ModelName, int] | None:
        """Return what a model is to have, None while it is put off for minutes: it keeps no room (law 6)."""
        running, budget = self._busy.get(name), self._rules.budget_bytes
        if isinstance(running, Load):
            return (Rank.RESIDENT, name, max(running.replaces_bytes, spec.memory_bytes))
        wish = self._wishes.get(name) or self._interrupts.get(name)
        put_off = isinstance(wish, Hold) and wish.terminal
        if name in self._seen.loaded or name in self._seen.moving:
            held = self._held_bytes(name)
            never = budget is not None and spec.memory_bytes > budget  # so it keeps no room for that either
            stays = put_off or never or self._seen.settled(name, spec)
            return (Rank.RESIDENT, name, held if stays else max(held, spec.memory_bytes))
        if put_off:
            return None
        need = wish.spec.memory_bytes if isinstance(wish, Load) else spec.memory_bytes
        if name in self._seen.told:
            return (Rank.TOLD, name, need)
        if name in waited:
            return (Rank.WAITED, name, need)
        return (Rank.ON_DISK if spec.storage_uri in self._seen.stored else Rank.NEW, name, need)

    # What may start.

    def emit_unloads(self) -> None:
        for name in sorted(
            self._seen.told.keys() - self._models.keys() - self._busy.keys() - self._seen.moving
        ):
            if self._seen.server_up and self._held(Step.UNLOAD, name, "") is None:
                self._unloads.append(Unload(name, self._held_bytes(name)))

    def emit_loads(self) -> None:
        """Emit what fits: sound loads first; a suspect one alone, since it may take its neighbours down."""
        told = self._seen.told
        loads = [wish for wish in self._wishes.values() if isinstance(wish, Load)]
        loads.sort(key=lambda load: load.name not in told)  # stable: then by name
        sound = [load for load in loads if not self._suspect(load)]
        suspects = sorted(
            (load for load in loads if self._suspect(load)), key=lambda load: self._hold_of(load).until
        )
        running = [action for action in self._busy.values() if isinstance(action, Load)]
        self._kept_clear = any(map(self._suspect, running)) or any(map(self._overdue, suspects))
        for load in sound:
            self._verdicts[load.name] = self._start(load)
        for load in suspects:
            self._kept_clear = bool(running or self._loads)
            self._verdicts[load.name] = self._start(load)

    def _hold_of(self, load: Load) -> Hold:
        return self._holds[Step.LOAD, load.name, load.revision]

    def _suspect(self, load: Load) -> bool:
        hold = self._holds.get((Step.LOAD, load.name, load.revision))
        return hold is not None and hold.crashed

    def _overdue(self, load: Load) -> bool:
        """Whether a suspect has waited so long that the others are to make way, and there is room for it."""
        budget = self._rules.budget_bytes
        fits = budget is None or self._fits(load, budget)
        late = self._hold_of(load).until + SUSPECT_WAITS_SECONDS <= self._now
        return late and fits and load.name not in self._shortages

    def _start(self, load: Load) -> Verdict:
        if not self._seen.server_up:
            return NO_SERVER
        shortage = self._shortages.get(load.name)
        if shortage is not None:
            return Verdict(shortage.reason, shortage=shortage)
        budget, need = self._rules.budget_bytes, load.spec.memory_bytes
        if budget is None or self._fits(load, budget):
            if self._kept_clear:
                return QUEUED
            self._reserved += need
            self._loads.append(load)
            return QUEUED
        if load.replaces_bytes and self._may_step_aside(load, budget):
            if self._kept_clear:
                return QUEUED
            refused = self._held(Step.UNLOAD, load.name, "")
            if refused is not None:
                return Verdict(refused.reason, hold=refused)
            self._unloads.append(Unload(load.name, load.replaces_bytes, aside=True))
            return QUEUED
        reason = Reason.UPDATE_NEEDS_ROOM if load.name in self._seen.loaded else Reason.MEMORY_BUDGET_EXCEEDED
        return Verdict(reason, shortage=Shortage(reason, need, max(budget - self._reserved, 0), budget))

    def _may_step_aside(self, load: Load, budget: int) -> bool:
        """Never for a revision that failed before: a good old one would go down for it at each try."""
        return (
            self._rules.step_aside
            and (Step.LOAD, load.name, load.revision) not in self._holds
            and load.name in self._seen.told
            and self._reserved - load.replaces_bytes + load.spec.memory_bytes <= budget
        )

    def emit_fetches(self) -> None:
        on_the_way = {action.spec.storage_uri for action in self._busy.values() if isinstance(action, Fetch)}
        first: list[Fetch] = []
        later: list[Fetch] = []
        for name, wish in self._wishes.items():
            if wish is None:
                shortage = self._shortages.get(name)
                self._verdicts[name] = Verdict(shortage.reason, shortage) if shortage else SETTLED
            elif isinstance(wish, Hold):
                self._verdicts[name] = Verdict(wish.reason, hold=wish)
            elif isinstance(wish, Fetch):
                self._verdicts[name] = self._fetch(
                    wish, on_the_way, later if name in self._seen.loaded else first
                )
        self._fetches = first + later

    def _fetch(self, fetch: Fetch, on_the_way: set[str], queue: list[Fetch]) -> Verdict:
        settled = self._seen.settled(fetch.name, fetch.spec)
        shortage = self._shortages.get(fetch.name)
        if shortage is not None and not settled:
            return Verdict(shortage.reason, shortage=shortage)
        if fetch.spec.storage_uri in on_the_way:
            return SETTLED if settled else FETCHING
        on_the_way.add(fetch.spec.storage_uri)
        queue.append(fetch)
        return SETTLED if settled else QUEUED


_RUNNING: Mapping[type[Action], Verdict] = {Fetch: FETCHING, Load: LOADING, Unload: UNLOADING}
