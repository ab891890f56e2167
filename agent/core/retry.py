"""When a step that failed may be tried again. A hold is the only memory of a failure (law 7).

Holds are keyed by what was tried, not by the model alone: a new URI, revision or removal starts fresh,
and a failed unload is never mistaken for a failed load. Times are monotonic seconds.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.core.actions import Action, Cancelled, Failed, Fetch, Load, Outcome, Unload
from agent.core.model import DesiredState, ModelName, Told
from agent.core.reasons import Reason


class Step(StrEnum):
    """What was tried."""

    FETCH = "fetch"
    LOAD = "load"
    UNLOAD = "unload"


HoldKey = tuple[Step, ModelName, str]
"""The step, the model, and what was fetched (`ModelSpec.source`) or loaded, '' for an unload."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A failure and the time of the next try.

    `failures`  how many in a row, of any kind; `refusals` and `crashes` how many of them were a no to the
                bytes, and how many took the server down. Neither is forgotten before the step succeeds.
    `relist`    the storage is listed again before that try: new bytes may mend what was refused.
    """

    failures: int
    until: float
    reason: Reason
    message: str
    terminal: bool = False
    relist: bool = False
    crashes: int = 0
    refusals: int = 0

    @property
    def crashed(self) -> bool:
        """Whether the server ever died over it: then its restart is no reason to try at once."""
        return self.crashes > 0


Holds = Mapping[HoldKey, Hold]


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Waiting times in seconds (design §8.7, §8.8). Full jitter: AWS Architecture Blog, 'Exponential
    Backoff And Jitter'; the floor keeps a draw near nought from becoming a busy loop."""  # noqa: D205, D209

    first_seconds: float = 1.0
    cap_seconds: float = 60.0
    floor_seconds: float = 0.1
    terminal_seconds: float = 300.0
    refused_cap_seconds: float = 3600.0
    retry_after_cap_seconds: float = 300.0
    crashes_before_quarantine: int = 3


def hold_key(action: Action) -> HoldKey:
    """Return what a failure of *action* is remembered under."""
    match action:
        case Fetch():
            return (Step.FETCH, action.name, action.spec.source)
        case Load():
            return (Step.LOAD, action.name, action.revision)
        case Unload():
            return unload_key(action.name)


def unload_key(name: ModelName) -> HoldKey:
    """Return what a failed removal of *name* is remembered under."""
    return (Step.UNLOAD, name, "")


def record(holds: Holds, outcome: Outcome, now: float, policy: BackoffPolicy, jitter: float) -> Holds:
    """Return the holds after *outcome*. *jitter* is a draw from [0, 1).

    A success ends the hold of its step; a fetch also frees a refused load that waited for a new listing.
    """
    key = hold_key(outcome.action)
    if isinstance(outcome, Cancelled):
        return holds
    if isinstance(outcome, Failed):
        return {**holds, key: _hold(holds.get(key), outcome, now, policy, jitter)}
    waiting = [
        other
        for other, hold in holds.items()
        if hold.relist and other[:2] == (Step.LOAD, outcome.action.name) and isinstance(outcome.action, Fetch)
    ]
    if key not in holds and not waiting:
        return holds
    kept = {other: hold for other, hold in holds.items() if other != key}
    return {**kept, **{other: replace(holds[other], relist=False) for other in waiting}}


def _hold(before: Hold | None, outcome: Failed, now: float, policy: BackoffPolicy, jitter: float) -> Hold:
    load = isinstance(outcome.action, Load)
    failures = (before.failures if before else 0) + 1
    crashes = (before.crashes if before else 0) + (outcome.reason is Reason.SERVER_CRASHED)
    refused = outcome.terminal and (load or outcome.reason is Reason.ARCHIVE_REFUSED)  # a try moves bytes
    refusals = (before.refusals if before else 0) + refused
    quarantined = load and crashes >= policy.crashes_before_quarantine
    if quarantined or refused:
        beyond = max(refusals - 1, crashes - policy.crashes_before_quarantine)
        delay = min(policy.refused_cap_seconds, policy.terminal_seconds * 2.0 ** min(beyond, 30))
    elif outcome.terminal:
        delay = policy.terminal_seconds
    else:
        ceiling = min(policy.cap_seconds, policy.first_seconds * 2.0 ** min(failures - 1, 30))
        asked = min(outcome.retry_after_seconds or 0.0, policy.retry_after_cap_seconds)
        delay = max(policy.floor_seconds, ceiling * jitter, asked)
    return Hold(
        failures=failures,
        until=now + delay,
        reason=outcome.reason,
        message=outcome.message,
        terminal=outcome.terminal or quarantined,
        relist=load and outcome.terminal,
        crashes=crashes,
        refusals=refusals,
    )


def remembered(told: Mapping[ModelName, Told], now: float, policy: BackoffPolicy) -> Holds:
    """Return the holds of an agent that starts: what took the server down before stays suspect."""
    return {
        (Step.LOAD, name, each.suspect): _suspicion(each.crashes, now, policy)
        for name, each in told.items()
        if each.suspect is not None and each.crashes
    }


def _suspicion(crashes: int, now: float, policy: BackoffPolicy) -> Hold:
    times = "once" if crashes == 1 else f"{crashes} times"
    quarantined = crashes >= policy.crashes_before_quarantine
    return Hold(
        failures=crashes,
        until=now + (policy.terminal_seconds if quarantined else 0.0),
        reason=Reason.SERVER_CRASHED,
        message=f"the server ended {times} while it loaded this, before this agent started",
        terminal=quarantined,
        crashes=crashes,
    )


def after_restart(holds: Holds) -> Holds:
    """Return the holds once the server has restarted: what it refused, it may take now (design §8.7)."""
    return {key: hold for key, hold in holds.items() if key[0] is Step.FETCH or hold.crashed}


def still_meant(holds: Holds, desired: DesiredState, revisions: Container[tuple[ModelName, str]]) -> Holds:
    """Drop what nobody asks for any more, so that coming back to it later is tried at once.

    *revisions* holds the (name, revision) pairs that are wanted or were told.
    """
    return {key: hold for key, hold in holds.items() if meant(key, desired, revisions)}


def meant(key: HoldKey, desired: DesiredState, revisions: Container[tuple[ModelName, str]]) -> bool:
    """Whether anybody asks for what *key* names; *revisions* as for `still_meant`."""
    step, name, target = key
    match step:
        case Step.FETCH:
            return name in desired.models and desired.models[name].source == target
        case Step.LOAD:
            return (name, target) in revisions
        case Step.UNLOAD:
            return name not in desired.models
