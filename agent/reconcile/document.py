"""The services around the mounted document: what it says is wanted at once, what it said before until then.

Nothing is acted on by what an event told: each ring of the bell reads the document whole (law 3).
"""

import asyncio
import logging
from typing import Literal, cast

from agent.aio.wakeup import Wakeup
from agent.core.model import DesiredState
from agent.core.reasons import Reason
from agent.reconcile.config import ConfigKeeper, DocumentRules, Shelf
from agent.reconcile.loop import Reconciler
from agent.reconcile.readiness import Readiness
from agent.settings import Settings
from agent.telemetry.board import Board
from agent.watch import ConfigSource

log = logging.getLogger("agent")


class DocumentServices:
    """The document's two services: one hears of changes, one reads it."""

    def __init__(self, settings: Settings, shelf: Shelf, board: Board, reconciler: Reconciler) -> None:
        rules = DocumentRules(settings.default_model_memory, settings.max_removal)
        self._source = ConfigSource(settings.config_dir)
        self._keeper = ConfigKeeper(self._source, shelf, board, rules)
        self._reconciler = reconciler
        self._board = board
        self._bell = Wakeup()
        self._resync_seconds = settings.resync_interval
        self._readiness = Readiness(board, cast("Literal['tried', 'loaded']", settings.ready_when))
        board.missing = self._readiness.missing

    def watch_mode(self) -> str:
        """Return how changes are noticed now."""
        return self._source.mode

    async def watch(self) -> None:
        """Ring the bell whenever the document may have changed."""
        await self._source.watch(self._bell.ring)

    async def follow(self) -> None:
        """Read the document at each ring, and at the resync interval."""
        recalled = await asyncio.to_thread(self._keeper.recall)
        if recalled is not None:
            self._keeper.start_from(recalled)
        await self._keeper.look(self._want)
        if recalled is not None and self._keeper.desired is recalled:
            log.warning("going on with the document that was accepted before this start")
            missing = self._board.config.error and self._board.config.error[0] is Reason.CONFIG_MISSING
            self._want(recalled, counts=not missing)
        while True:
            await self._bell.wait(self._resync_seconds)
            await self._keeper.look(self._want)

    def resync(self) -> None:
        """Read everything again, the storage's listings too."""
        log.info("SIGHUP: reading everything again")
        self._bell.ring()
        self._reconciler.resync()

    def _want(self, desired: DesiredState, *, counts: bool = True) -> None:
        """Have *desired* made real. Where nothing is mounted, what was recalled makes nobody ready."""
        if counts:
            self._readiness.first(desired)
        self._reconciler.want(desired)
