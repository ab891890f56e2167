"""Which models may be resident at once: first fit in a standing order, never by the order in the file.

What the server holds counts whether it fits or not: a smaller budget evicts nothing (design §8.3).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from agent.core.model import ModelName
from agent.core.reasons import Reason


class Rank(IntEnum):
    """The standing order; within a rank the name decides."""

    RESIDENT = 0
    TOLD = 1  # was resident: after a restart of the server, or stepping aside for its own update
    WAITED = 2  # waited so long that the next room is its own
    ON_DISK = 3
    NEW = 4


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a model is not admitted. `free_bytes` is what the ones before it leave of the budget."""

    reason: Reason
    need_bytes: int
    free_bytes: int
    budget_bytes: int


def admit(needs: Iterable[tuple[Rank, ModelName, int]], budget_bytes: int) -> dict[ModelName, Shortage]:
    """Return the models that may not be resident, each with its sum; all others are admitted.

    *needs* are (rank, name, bytes) in any order. A model of rank WAITED that does not fit yet keeps
    what is left for itself; one that is larger than the whole budget never does.
    """
    shortages: dict[ModelName, Shortage] = {}
    free = budget_bytes
    for rank, name, need in sorted(needs):
        if rank is Rank.RESIDENT:
            if need > max(free, 0):
                shortages[name] = Shortage(Reason.OVER_COMMITTED, need, max(free, 0), budget_bytes)
            free -= need
        elif need > budget_bytes:
            shortages[name] = Shortage(Reason.EXCEEDS_MEMORY_BUDGET, need, max(free, 0), budget_bytes)
        elif need <= free or need == 0:
            free -= need
        else:
            shortages[name] = Shortage(Reason.MEMORY_BUDGET_EXCEEDED, need, max(free, 0), budget_bytes)
            if rank is Rank.WAITED:
                free = min(free, 0)
    return shortages
