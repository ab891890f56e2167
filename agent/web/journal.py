"""Who changed, in the order of the last change: what /events tells, and where a reader goes on.

Level, not edge: the journal holds names and not values, each name once. A reader is one number, however
slow it is, and is told what is true now of all that changed since (law 9).
"""

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from agent.core.model import ModelName
from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board

MOST_GONE = 10_000
"""So many models that are gone are remembered; a reader who misses older ones has to read everything anew."""

MOVING = frozenset({Phase.DOWNLOADING, Phase.UPDATING})


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed up to `upto`: models by name, the oldest change first, and whether head and config did.

    What is said of the config may be as long as the document, while memory changes with every load.
    """

    upto: int
    names: tuple[ModelName, ...]
    head: bool
    config: bool


class Journal:
    """Follows a board for as long as both live. Positions are numbers that grow with each change.

    `boot` names this life of the agent: a position of another life means nothing here. `moving` are the
    models that may have progress.
    """

    def __init__(self, board: Board, boot: str | None = None, most_gone: int = MOST_GONE) -> None:
        self.boot = boot if boot is not None else secrets.token_hex(4)
        self.position = 0
        self.moving: set[ModelName] = set()
        self.closed = False
        self._board, self._most_gone = board, most_gone
        self._order: OrderedDict[ModelName, int] = OrderedDict()
        self._gone: OrderedDict[ModelName, None] = OrderedDict()
        self._head = self._config_at = 0
        self._config = board.config
        self._floor = 0
        self._bell = asyncio.Event()
        for name in board.models:
            self._on_model(name, board.models[name])
        board.watch(self._on_model)
        board.watch_head(self._on_head)

    def mark(self, position: int) -> str:
        """Return *position* as a Last-Event-ID."""
        return f"{self.boot}-{position}"

    def position_of(self, mark: str) -> int | None:
        """Return the position that *mark* tells, None where one cannot go on from it."""
        boot, _, number = mark.partition("-")
        if boot != self.boot or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        return int(number) if self._floor <= int(number) <= self.position else None

    def since(self, position: int, most: int) -> Changes | None:
        """Return what changed after *position*, the oldest *most* models of it; None: read all anew."""
        if position < self._floor:
            return None
        newest: list[ModelName] = []
        for name in reversed(self._order):
            if self._order[name] <= position:
                break
            newest.append(name)
        names = tuple(newest[: -most - 1 : -1])
        upto = self._order[names[-1]] if len(newest) > most else self.position
        head, config = (position < at <= upto for at in (self._head, self._config_at))
        return Changes(upto, names, head, config)

    async def beyond(self, position: int, seconds: float) -> bool:
        """Wait until something changed after *position*, at most *seconds*; whether it did."""
        try:
            async with asyncio.timeout(seconds):
                while self.position <= position and not self.closed:
                    await self._bell.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let every reader go."""
        self.closed = True
        self._ring()

    def _on_model(self, name: ModelName, status: ModelStatus | None) -> None:
        self.position += 1
        self._order[name] = self.position
        self._order.move_to_end(name)
        if status is not None and status.phase in MOVING:
            self.moving.add(name)
        else:
            self.moving.discard(name)
        if status is not None:
            self._gone.pop(name, None)
        else:
            self._gone[name] = None
            self._forget()
        self._ring()

    def _on_head(self) -> None:
        self.position += 1
        self._head = self.position
        if self._board.config is not self._config:
            self._config, self._config_at = self._board.config, self.position
        self._ring()

    def _forget(self) -> None:
        while len(self._gone) > self._most_gone:
            name, _ = self._gone.popitem(last=False)
            self._floor = max(self._floor, self._order.pop(name))

    def _ring(self) -> None:
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()
