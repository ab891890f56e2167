"""What a document would make the agent do: the planner itself, over a world where every step succeeds.

Pure. Nothing here decides; it asks `plan` again and again, as the loop does, until it has no more to say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.core import words
from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.model import DesiredState, ModelName, ObservedState, Revision, Told
from agent.core.plan import Plan, Rules, Verdict, plan
from agent.core.reasons import Reason
from agent.core.retry import Hold, Holds, Step
from agent.core.seen import as_declared


class Verb(StrEnum):
    """What would happen to a model, in the order in which it is told."""

    REFUSE = "refuse"
    WAIT = "wait"
    FETCH = "fetch"
    LOAD = "load"
    UNLOAD = "unload"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """One model. `verbs` in their order; `fetch_bytes` None where unknown; `memory_bytes` after minus before.

    `reason` and `message` tell why it waits or is refused, `next_try_seconds` when a step that failed is
    tried again, None where it waits for something else than a time.
    """

    name: str
    verbs: tuple[Verb, ...]
    fetch_bytes: int | None = 0
    memory_bytes: int = 0
    reason: Reason | None = None
    message: str | None = None
    next_try_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """Everything that would happen, by name; bytes reserved of the budget before and after."""

    changes: tuple[Change, ...]
    before_bytes: int
    after_bytes: int
    budget_bytes: int | None

    @property
    def anything(self) -> bool:
        """Whether anything would change, or is going to be tried again."""
        return any(
            set(change.verbs) - {Verb.KEEP, Verb.WAIT, Verb.REFUSE} or change.next_try_seconds is not None
            for change in self.changes
        )

    @property
    def refused(self) -> bool:
        """Whether anything is refused."""
        return any(Verb.REFUSE in change.verbs for change in self.changes)


@dataclass(frozen=True, slots=True)
class Size:
    """What a listing told of a URI: bytes, or the reason why there is none. Bytes are None where unknown."""

    bytes: int | None = None
    reason: Reason | None = None
    message: str | None = None


class _World:
    """The simulated world, and what was done in it."""

    def __init__(self, observed: ObservedState) -> None:
        self.done: dict[ModelName, list[Action]] = {}
        self._start = observed
        self._stored = dict(observed.stored)
        self._told = dict(observed.told)
        self._loaded = set(observed.loaded)

    def seen(self) -> ObservedState:
        return replace(
            self._start,
            stored=dict(self._stored),
            told=dict(self._told),
            restorable=frozenset(self._told),
            loaded=frozenset(self._loaded),
        )

    def apply(self, action: Action) -> None:
        self.done.setdefault(action.name, []).append(action)
        match action:
            case Fetch():
                uri = action.spec.storage_uri
                self._stored[uri] = as_declared(action.spec, Revision(f"of {uri}"))
            case Load():
                spec = action.spec
                told = Told(action.revision, action.uri, spec.framework, spec.memory_bytes, confirmed=True)
                self._told[action.name] = told
                self._loaded.add(action.name)
            case Unload():
                self._loaded.discard(action.name)
                if not action.aside:
                    self._told.pop(action.name, None)


def preview(
    desired: DesiredState, observed: ObservedState, *, holds: Holds, rules: Rules, sizes: Mapping[str, Size]
) -> Preview:
    """Return what would happen until nothing more does.

    *holds* are the failures that the agent waits over, with their `until` in the future of time nought.
    *sizes* are what listings told of the URIs that are not on disk; a URI that is in none is of unknown size.
    """
    held = {
        (Step.FETCH, name, spec.source): Hold(1, math.inf, size.reason, size.message or "", terminal=True)
        for name, spec in desired.models.items()
        if (size := sizes.get(spec.storage_uri)) is not None and size.reason is not None
    }
    holds = {**holds, **held}
    world = _World(observed)
    made = _ask(desired, observed, holds, rules)
    rounds = 4 * (len(desired.models) + len(observed.told)) + 1  # fetch, step aside, load, and one to spare
    while (made.unloads or made.loads or made.fetches) and rounds:
        rounds -= 1
        actions: tuple[Action, ...] = (*made.unloads, *made.loads, *made.fetches)
        for action in actions:
            world.apply(action)
        made = _ask(desired, world.seen(), holds, rules)
    ended = world.seen()
    rejected = {entry.name for entry in desired.rejected}
    names = (desired.models.keys() - rejected) | world.done.keys()
    changes = [
        _change(name, world.done.get(name, []), made.verdicts.get(name), desired, (observed, ended), sizes)
        for name in names
    ]
    changes += [
        Change(entry.name or "?", (Verb.REFUSE,), 0, 0, entry.reason, entry.message)
        for entry in desired.rejected
    ]
    ordered = sorted(changes, key=lambda change: (list(Verb).index(change.verbs[0]), change.name))
    before, after = (_reserved(seen, desired) for seen in (observed, ended))
    return Preview(tuple(ordered), before, after, rules.budget_bytes)


def _reserved(seen: ObservedState, desired: DesiredState) -> int:
    names = seen.told.keys() | desired.models.keys()
    return sum(seen.held_bytes(name, desired.models.get(name)) for name in names)


def _ask(desired: DesiredState, seen: ObservedState, holds: Holds, rules: Rules) -> Plan:
    return plan(desired, seen, busy={}, holds=holds, rules=rules, now=0.0)


def _change(
    name: ModelName,
    actions: Sequence[Action],
    verdict: Verdict | None,
    desired: DesiredState,
    seen: tuple[ObservedState, ObservedState],
    sizes: Mapping[str, Size],
) -> Change:
    spec = desired.models.get(name)
    verbs = tuple(_VERBS[type(action)] for action in actions)
    size = sizes.get(spec.storage_uri, Size()) if spec is not None else Size(0)
    before, after = (each.held_bytes(name, spec) for each in seen)
    fetched = size.bytes if Verb.FETCH in verbs else 0
    if size.reason is not None:
        return Change(name, (*verbs, Verb.REFUSE), 0, after - before, size.reason, size.message)
    if verdict is not None and verdict.reason is not None and spec is not None:
        verb = Verb.REFUSE if verdict.reason is Reason.EXCEEDS_MEMORY_BUDGET else Verb.WAIT
        why = verdict.reason, _message(verdict), _next_try(verdict)
        return Change(name, (*verbs, verb), fetched, after - before, *why)
    return Change(name, verbs or (Verb.KEEP,), fetched, after - before)


def _next_try(verdict: Verdict) -> float | None:
    hold = verdict.hold
    return hold.until if hold is not None and math.isfinite(hold.until) else None


def _message(verdict: Verdict) -> str | None:
    if verdict.hold is not None:
        return verdict.hold.message
    if verdict.shortage is None:
        return None
    short = verdict.shortage
    need, free, budget = map(words.size, (short.need_bytes, short.free_bytes, short.budget_bytes))
    return f"needs {need}, {free} of the budget of {budget} are free"


_VERBS: Mapping[type[Action], Verb] = {Fetch: Verb.FETCH, Load: Verb.LOAD, Unload: Verb.UNLOAD}
