"""What happened to a model, bounded: the last transitions, with their times. Pure.

A transition is a change of phase, reason, message or number of failed tries. The newest are kept; how
many, `MOST` says (law 9). However many follow, kept as well is where the present trouble began and where
the present state did: "since when" is the operator's first question.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase

MOST = 20
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Transition:
    """What was said of a model from `at` (Unix seconds) on; `left_out` counts what came after and went."""

    at: float
    phase: Phase
    reason: Reason | None
    message: str | None
    attempts: int
    left_out: int = 0

    @property
    def fine(self) -> bool:
        """Whether it was ready and up to date."""
        return self.phase is Phase.READY and self.reason is None


History = tuple[Transition, ...]


def noted(history: History, status: ModelStatus, now: float) -> History:
    """Return *history* with what *status* says, if that is news; the oldest go where it gets too long."""
    message = status.message and status.message[:_LONGEST_MESSAGE]
    fresh = Transition(now, status.phase, status.reason, message, status.attempts)
    if history and _same(history[-1], fresh):
        return history
    return _bounded((*history, fresh))


def trouble_began(history: History) -> int:
    """Return where the present trouble began, or the present peace: retries do not begin it anew."""
    return _run(history, lambda each: each.fine == history[-1].fine)


def state_began(history: History) -> int:
    """Return where the last phase and reason began; other words for the same do not begin it anew."""
    last = history[-1]
    return _run(history, lambda each: (each.phase, each.reason) == (last.phase, last.reason))


def _run(history: History, belongs: Callable[[Transition], bool]) -> int:
    """Return where the last entries that all belong begin."""
    return next((i + 1 for i in reversed(range(len(history))) if not belongs(history[i])), 0)


def _bounded(history: History) -> History:
    """Let the oldest go that is no beginning; who stands before it counts it."""
    if len(history) <= MOST:
        return history
    beginnings = {trouble_began(history), state_began(history)}
    gone = next(i for i in range(len(history)) if i not in beginnings)
    if gone == 0:
        return history[1:]
    before = history[gone - 1]
    marked = replace(before, left_out=before.left_out + 1 + history[gone].left_out)
    return (*history[: gone - 1], marked, *history[gone + 1 :])


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
