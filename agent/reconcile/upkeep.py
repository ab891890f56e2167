"""What is looked after at the resync interval: the disk, what stands in the model dir, and memory in use.

It only observes and repairs; what it finds missing the next plan sees by itself (law 3).
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from agent.artifacts.store import Store
from agent.core import words
from agent.core.disk import DiskPolicy
from agent.core.errors import AgentError
from agent.core.reasons import Reason
from agent.reconcile.pod import Pod
from agent.telemetry.board import Board
from agent.telemetry.processes import ServerProcess, own_rss_bytes

log = logging.getLogger("agent.upkeep")

CHECKED_AT_ONCE = (
    200  # models whose files are compared in one round: a stat a file, so that idling stays cheap
)


class Room:
    """Keeps the volume as the operator wants it; called on worker threads.

    *wanted* gives the URIs of the document in force, None before there is one.
    """

    def __init__(
        self, store: Store, wanted: Callable[[], Collection[str] | None], policy: DiskPolicy
    ) -> None:
        self._store, self._wanted, self._policy = store, wanted, policy

    def keep(self) -> None:
        """Remove what nobody needs and the policy asks for."""
        self._collect(self._policy)

    def make(self, missing_bytes: int) -> None:
        """Free *missing_bytes* more than are free now, as far as that goes."""
        usage = shutil.disk_usage(self._store.store_dir)
        share = min(1.0, (usage.free + missing_bytes) / max(usage.total, 1))
        self._collect(replace(self._policy, keep_free_ratio=max(share, self._policy.keep_free_ratio)))

    def cannot_remove(self) -> Mapping[str, str]:
        """Return retired folders that the system would not remove, with its words; `keep` tries again."""
        return self._store.cannot_remove()

    def _collect(self, policy: DiskPolicy) -> None:
        wanted = self._wanted()
        if wanted is None:
            return  # nothing is known to be unwanted yet
        collected = self._store.collect(wanted, time.time(), policy)
        if collected.freed_bytes:
            fields = {"freed": words.size(collected.freed_bytes), "revisions": len(collected.revisions)}
            log.info("made room on the volume", extra=fields)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """The service; *seconds* between two rounds."""

    pod: Pod
    room: Room
    board: Board
    seconds: float

    async def run(self) -> None:
        """Go round until cancelled; what fails is logged and tried again with the next round."""
        said = ""
        stuck: Mapping[str, str] = {}
        server = ServerProcess(lambda: self.board.server.url)
        while True:
            try:
                await self.pod.inspect(CHECKED_AT_ONCE)
                await asyncio.to_thread(self.room.keep)
                stuck = _told_of(self.room.cannot_remove(), stuck)
                own, rss = await asyncio.to_thread(own_rss_bytes), await asyncio.to_thread(server.rss_bytes)
                memory = replace(self.board.memory, agent_rss_bytes=own, server_rss_bytes=rss)
                self.board.say(memory=memory)
            except AgentError as error:
                if error.message != said:
                    said = error.message
                    log.warning("upkeep", extra={"reason": error.reason, "message_": said})
            await asyncio.sleep(self.seconds)


def _told_of(stuck: Mapping[str, str], before: Mapping[str, str]) -> Mapping[str, str]:
    """Log what is newly stuck, once."""
    for path, why in stuck.items():
        if path not in before:
            fields = {"reason": Reason.CANNOT_REMOVE, "path": path, "error": why}
            log.warning("an old folder cannot be removed; it is tried again", extra=fields)
    return stuck
