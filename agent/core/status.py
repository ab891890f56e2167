"""What is said of each model: phase, readiness, reason, message, next try. Pure; the shell renders it.

`ready` means that the server itself lists the name (law 4). `reason` is None only where the model is
ready and up to date (design §8.4).
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.core import words
from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.budget import Shortage
from agent.core.conditions import Condition, ConditionType, carried_over
from agent.core.model import Integrity, ModelName, ModelSpec, ObservedState, Revision
from agent.core.plan import Verdict
from agent.core.reasons import Reason
from agent.core.retry import Hold


class Phase(StrEnum):
    """The phases shown to people (design §7)."""

    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    DOWNLOADED = "Downloaded"
    LOADING = "Loading"
    READY = "Ready"
    UPDATING = "Updating"
    UNLOADING = "Unloading"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Everything said of one model, but for the progress of a running download.

    `revision` is the wanted one, `served_revision` the one the server confirmed; None where not known.
    `next_retry` is monotonic seconds; `attempts` counts the tries that failed in a row. `held_bytes` is what
    the budget counts for this name now, `shortage` the sum that it waits for. `integrity` is of `revision`.
    """

    name: ModelName
    phase: Phase
    ready: bool
    reason: Reason | None
    message: str | None
    spec: ModelSpec | None
    revision: Revision | None
    served_revision: Revision | None
    attempts: int
    next_retry: float | None
    conditions: tuple[Condition, ...]
    held_bytes: int = 0
    shortage: Shortage | None = None
    integrity: Integrity | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one model at one moment. `hold` is that of the running action, if it failed before."""

    name: ModelName
    spec: ModelSpec | None
    verdict: Verdict | None
    running: Action | None
    hold: Hold | None = None


def model_status(
    facts: Facts, observed: ObservedState, before: ModelStatus | None, now: float
) -> ModelStatus:
    """Say what *facts* mean. *before* gives the times of conditions that did not change; *now* is Unix."""
    name, spec, verdict = facts.name, facts.spec, facts.verdict
    ready = name in observed.loaded
    served = observed.serves(name)
    stored = observed.stored.get(spec.storage_uri) if spec is not None else None
    settled = spec is not None and observed.settled(name, spec)
    hold = facts.hold or (verdict.hold if verdict is not None else None)
    reason = _reason(facts, settled=settled)
    message = _message(facts, observed, reason)
    fresh = _conditions(facts, reason, message, ready=ready, stored=stored is not None, settled=settled)
    return ModelStatus(
        name=name,
        phase=_phase(facts, before, ready=ready, stored=stored is not None, settled=settled),
        ready=ready,
        reason=reason,
        message=message,
        spec=spec,
        revision=stored.revision if stored is not None else None,
        served_revision=served.revision if served is not None else _still_served(facts, before, ready=ready),
        attempts=hold.failures if hold is not None else 0,
        next_retry=hold.until if hold is not None and facts.running is None else None,
        conditions=carried_over(fresh, before.conditions if before is not None else (), now),
        held_bytes=_held_bytes(facts, observed),
        shortage=verdict.shortage if verdict is not None and facts.running is None else None,
        integrity=stored.integrity if stored is not None else None,
    )


def _held_bytes(facts: Facts, observed: ObservedState) -> int:
    if isinstance(facts.running, Load):
        return facts.running.replaces_bytes + facts.running.spec.memory_bytes
    return observed.held_bytes(facts.name, facts.spec)


def _still_served(facts: Facts, before: ModelStatus | None, *, ready: bool) -> Revision | None:
    """Return what serves while its successor is being loaded: what was told says only the successor."""
    loading = isinstance(facts.running, Load) and ready
    return before.served_revision if loading and before is not None else None


def _phase(facts: Facts, before: ModelStatus | None, *, ready: bool, stored: bool, settled: bool) -> Phase:
    if facts.spec is None:
        return Phase.UNLOADING
    if settled:
        return Phase.READY
    if facts.running is not None:
        return _running_phase(facts.running, before, ready=ready)
    verdict = facts.verdict
    waiting = Phase.UPDATING if ready else Phase.DOWNLOADED if stored else Phase.PENDING
    if verdict is None:
        return waiting
    if verdict.hold is not None or verdict.reason is Reason.EXCEEDS_MEMORY_BUDGET:
        return Phase.FAILED
    if verdict.reason is Reason.DOWNLOADING and not ready:
        return Phase.DOWNLOADING
    return waiting


def _running_phase(running: Action, before: ModelStatus | None, *, ready: bool) -> Phase:
    first = before is not None and before.phase is Phase.LOADING
    match running:
        case Load():
            return Phase.UPDATING if ready and not first else Phase.LOADING
        case Unload():
            return Phase.UPDATING
        case Fetch():
            return Phase.UPDATING if ready else Phase.DOWNLOADING


def _reason(facts: Facts, *, settled: bool) -> Reason | None:
    if facts.spec is None:
        return Reason.UNLOADING
    if settled:
        over = facts.verdict is not None and facts.verdict.reason is Reason.OVER_COMMITTED
        return Reason.OVER_COMMITTED if over else None
    match facts.running:
        case Fetch():
            return Reason.DOWNLOADING
        case Load():
            return Reason.LOADING
        case Unload():
            return Reason.UPDATING
        case None:
            pass
    if facts.verdict is None or facts.verdict.reason is None:
        return Reason.QUEUED
    return facts.verdict.reason


def _message(facts: Facts, observed: ObservedState, reason: Reason | None) -> str | None:
    verdict = facts.verdict
    if reason is None or facts.running is not None or verdict is None:
        return None
    if verdict.hold is not None:
        served = observed.serves(facts.name)
        stays = f"; revision {served.revision[:12]} keeps serving" if served is not None else ""
        return f"{verdict.hold.message}{stays}"
    if verdict.shortage is not None:
        return _sum(verdict.shortage)
    if reason is Reason.WAITING_FOR_SERVER:
        return "waits for the model server to answer and be ready"
    return None


def _sum(shortage: Shortage) -> str:
    need, free, budget = (
        words.size(count) for count in (shortage.need_bytes, shortage.free_bytes, shortage.budget_bytes)
    )
    match shortage.reason:
        case Reason.EXCEEDS_MEMORY_BUDGET:
            return f"needs {need}, the whole memory budget is {budget}: it can never be loaded"
        case Reason.OVER_COMMITTED:
            return f"stays loaded, but needs {need} where {free} of the budget of {budget} are left for it"
        case Reason.UPDATE_NEEDS_ROOM:
            return (
                f"the new revision needs {need} beside the old one, {free} of {budget} are free; "
                "the old one keeps serving"
            )
        case _:
            return f"waits for memory: needs {need}, {free} of the budget of {budget} are free"


def _conditions(
    facts: Facts, reason: Reason | None, message: str | None, *, ready: bool, stored: bool, settled: bool
) -> tuple[Condition, ...]:
    short = facts.verdict is not None and facts.verdict.shortage is not None

    def said(kind: ConditionType, status: bool) -> Condition:  # noqa: FBT001
        return Condition(kind, status) if status else Condition(kind, status, reason, message)

    if facts.spec is None:
        return (said(ConditionType.READY, ready),)
    return (
        said(ConditionType.ADMITTED, not short),
        said(ConditionType.DOWNLOADED, stored),
        said(ConditionType.LOADED, ready),
        said(ConditionType.UP_TO_DATE, settled),
        said(ConditionType.READY, ready),
    )
