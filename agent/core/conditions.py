"""Conditions in the manner of Kubernetes' metav1.Condition: a time changes only when the status does."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.core.reasons import Reason


class ConditionType(StrEnum):
    """What is said of each model; `Ready` sums up: the server confirmed some revision of this name."""

    ADMITTED = "Admitted"
    DOWNLOADED = "Downloaded"
    LOADED = "Loaded"
    UP_TO_DATE = "UpToDate"
    READY = "Ready"


@dataclass(frozen=True, slots=True)
class Condition:
    """`status` is None for Unknown. `since` is Unix seconds. True conditions carry no reason."""

    type: ConditionType
    status: bool | None
    reason: Reason | None = None
    message: str | None = None
    since: float = 0.0


def carried_over(
    fresh: Iterable[Condition], before: Iterable[Condition], now: float
) -> tuple[Condition, ...]:
    """Return *fresh* with the times of those of *before* whose status is the same, *now* for the others."""
    known = {condition.type: condition for condition in before}

    def since(condition: Condition) -> float:
        earlier = known.get(condition.type)
        return earlier.since if earlier is not None and earlier.status == condition.status else now

    return tuple(replace(condition, since=since(condition)) for condition in fresh)
