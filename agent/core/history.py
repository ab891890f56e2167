"""What happened to a model, bounded: the last transitions, with their times. Pure.

A transition is a change of phase, reason, message or number of failed tries. The newest are kept; how
many, `MOST` says (law 9).
"""

from dataclasses import dataclass

from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase

MOST = 20
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Transition:
    """What was said of a model from `at` (Unix seconds) on."""

    at: float
    phase: Phase
    reason: Reason | None
    message: str | None
    attempts: int


History = tuple[Transition, ...]


def noted(history: History, status: ModelStatus, now: float) -> History:
    """Return *history* with what *status* says, if that is news; the oldest go where it gets too long."""
    message = status.message and status.message[:_LONGEST_MESSAGE]
    fresh = Transition(now, status.phase, status.reason, message, status.attempts)
    if history and _same(history[-1], fresh):
        return history
    return (*history[-(MOST - 1) :], fresh)


def failures(history: History) -> History:
    """Return the tries that failed, oldest first."""
    return tuple(each for each in history if each.phase is Phase.FAILED)


def _same(before: Transition, after: Transition) -> bool:
    return (before.phase, before.reason, before.message, before.attempts) == (
        after.phase,
        after.reason,
        after.message,
        after.attempts,
    )
