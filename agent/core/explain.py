"""Why is this model not loaded? One answer for the status port, the page and the terminal. Pure.

It says what is known, since when, what the agent does next and when, and what an operator can do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.core import words
from agent.core.explanations import EXPLANATIONS
from agent.core.history import History, failures, state_began, trouble_began
from agent.core.model import ModelName
from agent.core.reasons import Explanation, Reason
from agent.core.status import ModelStatus, Phase

MOST_HOLDERS = 10
MOST_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class MemorySum:
    """What the model needs and what is free for it, in bytes; `holders` are the largest of those who
    hold the rest, `other_models` and `other_bytes` those who are not named."""  # noqa: D205, D209

    need_bytes: int
    free_bytes: int
    budget_bytes: int
    holders: tuple[tuple[ModelName, int], ...]
    other_models: int
    other_bytes: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why models.json as it is now does not count: a model's entry is refused, or with `whole` all of it."""

    reason: Reason
    message: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer. `since` is Unix seconds, `next_at` monotonic ones, None where no time is set.

    `next_step` is what the agent does next, `waits_for` what that needs. `attempts` are the last tries
    that failed, oldest first. `told` is the reason's entry; None where there is nothing to explain.
    `refusal` tells that the newest word of models.json on the model does not count.
    """

    summary: str
    since: float | None
    next_step: str
    next_at: float | None
    waits_for: str | None
    memory: MemorySum | None
    attempts: History
    told: Explanation | None
    refusal: Refusal | None = None


def explain(
    status: ModelStatus, history: History, others: Iterable[ModelStatus], refusal: Refusal | None = None
) -> Answer:
    """Explain how *status* stands. *others* are all models of the pod, this one may be among them.

    *refusal* is that of its entry, or of the whole document, in models.json as it is now.
    """
    reason = status.reason or (refusal.reason if refusal is not None else None)
    settled = status.reason is None and refusal is not None
    return Answer(
        summary=_summary(status) if refusal is None else _refused_summary(status, refusal),
        since=_since(status, history),
        next_step=_NEXT_OF_REFUSED if settled else _next_step(status),
        next_at=status.next_retry,
        waits_for=_correction(refusal) if settled and refusal is not None else _waits_for(status),
        memory=_memory(status, others),
        attempts=failures(history)[-MOST_ATTEMPTS:],
        told=EXPLANATIONS[reason] if reason is not None else None,
        refusal=refusal,
    )


def explain_refused(refusal: Refusal) -> Answer:
    """Explain why nothing is done for a name that no accepted document asks for and nothing serves under."""
    if refusal.whole:
        summary = (
            f"models.json as it is now is refused as a whole: {refusal.message}. "
            "No model of this name is in the document accepted last, and nothing serves under it."
        )
    else:
        summary = f"Rejected: {_sentence(refusal.message)} Nothing serves under this name."
    told = EXPLANATIONS[refusal.reason]
    correction = _correction(refusal)
    return Answer(summary, None, _NEXT_OF_REFUSED, None, correction, None, (), told, refusal)


_NEXT_OF_REFUSED = "Read models.json again as soon as it changes."


def _correction(refusal: Refusal) -> str:
    return "a models.json that can be accepted" if refusal.whole else "a corrected entry in models.json"


def _sentence(text: str) -> str:
    """Return a message as a sentence; one that begins with a URI or a name of code stays as it is."""
    text = text.rstrip(".")
    first = text.partition(" ")[0].rstrip(",;:")
    return f"{text[:1].upper()}{text[1:]}." if first.isalpha() else f"{text}."


def _refused_summary(status: ModelStatus, refusal: Refusal) -> str:
    if refusal.whole:
        return (
            f"{_summary(status)} That is by the document accepted last; "
            f"models.json as it is now is refused as a whole: {refusal.message}."
        )
    stays = "What was accepted before stays in force"
    if status.reason is None:
        stays += f": revision {(status.served_revision or '?')[:12]} serves."
    else:
        stays += f". {_summary(status)}"
    return f"Rejected: {_sentence(refusal.message)} {stays}"


def _summary(status: ModelStatus) -> str:
    if status.reason is None:
        return "Ready: the model server confirms the wanted revision."
    serves = " An older revision keeps serving." if status.ready and status.phase is not Phase.READY else ""
    why = status.message or EXPLANATIONS[status.reason].meaning
    tries = f" {status.attempts} tries have failed in a row." if status.attempts > 1 else ""
    return f"{status.phase}: {_sentence(why)}{tries}{serves if 'serving' not in why else ''}"


def _since(status: ModelStatus, history: History) -> float | None:
    """Return when the present trouble, or the present state, began: retries do not begin it anew."""
    if not history or history[-1].fine != (status.reason is None):
        return None
    if status.attempts > 0:
        return history[trouble_began(history)].at
    if (history[-1].phase, history[-1].reason) != (status.phase, status.reason):
        return None
    return history[state_began(history)].at


def _next_step(status: ModelStatus) -> str:
    match status.phase:
        case Phase.READY:
            return "Keep it: nothing is to be done." if status.reason is None else "Keep what serves."
        case Phase.DOWNLOADING:
            return "Verify the bytes, then load the model."
        case Phase.LOADING:
            return "Wait for the model server to confirm."
        case Phase.UNLOADING:
            return "Wait for the model server to let it go, then remove its folder."
        case Phase.FAILED if status.next_retry is None:
            return "Look again when models.json, the budget or the server changes."
        case Phase.FAILED:
            return "Try again at the time given, sooner if models.json or the server changes."
        case Phase.PENDING | Phase.DOWNLOADED | Phase.UPDATING:
            return _next_of_waiting(status)


def _next_of_waiting(status: ModelStatus) -> str:
    match status.reason:
        case Reason.DOWNLOADING:
            return "Verify the new bytes, then load them beside what serves."
        case Reason.LOADING:
            return "Wait for the model server to confirm; the old revision comes back if it refuses."
        case Reason.MEMORY_BUDGET_EXCEEDED | Reason.UPDATE_NEEDS_ROOM:
            return "Go on as soon as enough memory is free."
        case Reason.WAITING_FOR_SERVER:
            return "Load it as soon as the model server is ready."
        case _:
            stored = status.revision is not None
            return "Load it when its turn comes." if stored else "Download it when its turn comes."


def _waits_for(status: ModelStatus) -> str | None:
    if status.shortage is not None and status.reason is not Reason.OVER_COMMITTED:
        missing = status.shortage.need_bytes - status.shortage.free_bytes
        return f"{words.size(max(missing, 0))} more memory"
    match status.reason:
        case Reason.QUEUED:
            return "a free slot"
        case Reason.WAITING_FOR_SERVER:
            return "the model server"
        case Reason.DOWNLOADING:
            return "the storage"
        case Reason.LOADING | Reason.UNLOADING:
            return "the model server"
        case _:
            return "the time of the next try" if status.next_retry is not None else None


def _memory(status: ModelStatus, others: Iterable[ModelStatus]) -> MemorySum | None:
    short = status.shortage
    if short is None:
        return None
    holding = sorted(
        (-other.held_bytes, other.name) for other in others if other.held_bytes and other.name != status.name
    )
    named = tuple((name, -size) for size, name in holding[:MOST_HOLDERS])
    rest = holding[MOST_HOLDERS:]
    return MemorySum(
        short.need_bytes,
        short.free_bytes,
        short.budget_bytes,
        named,
        len(rest),
        -sum(size for size, _ in rest),
    )
