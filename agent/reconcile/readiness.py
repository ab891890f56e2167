"""When the pod may get traffic: each model of the first set was tried once, then for good (design §8.5)."""

from typing import Literal

from agent.core.model import DesiredState, ModelName
from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board

WAITING_FOR_MEMORY = frozenset({Reason.MEMORY_BUDGET_EXCEEDED, Reason.EXCEEDS_MEMORY_BUDGET})


class Readiness:
    """Watches the models of the first document; latched for the life of the process.

    `tried`: ready, failed once, or waiting for memory. `loaded`: ready.
    """

    def __init__(self, board: Board, when: Literal["tried", "loaded"]) -> None:
        self._board = board
        self._enough = _tried if when == "tried" else _ready
        self._left: set[str] | None = None
        board.watch(self._on_change)

    def first(self, desired: DesiredState) -> None:
        """Take the first document that was accepted; later ones change nothing."""
        if self._left is None:
            self._left = set(desired.models)
            for status in list(self._board.models.values()):
                self._on_change(status.name, status)

    def missing(self) -> tuple[str, ...]:
        """Return what is still waited for, a line each; nothing once the pod is ready."""
        if self._left is None:
            error = self._board.config.error
            return (f"{error[0]}: {error[1]}" if error else "the document was not read yet",)
        return tuple(self._line(name) for name in sorted(self._left))

    def _on_change(self, name: str, status: ModelStatus | None) -> None:
        if self._left and (status is None or self._enough(status)):
            self._left.discard(name)

    def _line(self, name: str) -> str:
        status = self._board.models.get(ModelName(name))
        return f"{name}: {status.phase if status else Phase.PENDING}"


def _tried(status: ModelStatus) -> bool:
    return (
        status.ready
        or status.attempts > 0
        or status.phase is Phase.FAILED
        or status.reason in WAITING_FOR_MEMORY
    )


def _ready(status: ModelStatus) -> bool:
    return status.ready
