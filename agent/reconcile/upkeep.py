"""What is looked after at the resync interval: the disk, what stands in the model dir, and memory in use.

It only observes and repairs; what it finds missing the next plan sees by itself (law 3).
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from agent.artifacts.errors import disk_errors
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

    def make(self, missing_bytes: int, coming_bytes: int = 0) -> None:
        """Free *missing_bytes* more than are free now, and room in the budget for those that are to come."""
        where = self._store.store_dir
        with disk_errors(f"asking for the room in {where}", volume=where):
            usage = shutil.disk_usage(where)
        share = min(1.0, (usage.free + missing_bytes) / max(usage.total, 1))
        policy = replace(self._policy, keep_free_ratio=max(share, self._policy.keep_free_ratio))
        if policy.budget_bytes is not None:
            policy = replace(policy, budget_bytes=max(0, policy.budget_bytes - coming_bytes))
        self._collect(policy)

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
        """Go round until cancelled; what fails is told once and tried again with the next round."""
        said: dict[str, Reason] = {}
        server = ServerProcess(lambda: self.board.server.url)
        steps: Mapping[str, Callable[[], Awaitable[None]]] = {
            "check": partial(self.pod.inspect, CHECKED_AT_ONCE),
            "room": self._keep_room(),
            "memory": partial(self._weigh, server),
        }
        while True:
            for name, step in steps.items():
                try:
                    await step()
                except AgentError as error:
                    if said.get(name) is not error.reason:
                        fields = {"step": name, "reason": error.reason, "message_": error.message}
                        log.warning("upkeep", extra=fields)
                    said[name] = error.reason
                else:
                    said.pop(name, None)
            await asyncio.sleep(self.seconds)

    def _keep_room(self) -> Callable[[], Awaitable[None]]:
        stuck: Mapping[str, str] = {}

        async def keep() -> None:
            nonlocal stuck
            await asyncio.to_thread(self.room.keep)
            stuck = _told_of(self.room.cannot_remove(), stuck)

        return keep

    async def _weigh(self, server: ServerProcess) -> None:
        own, rss = await asyncio.to_thread(own_rss_bytes), await asyncio.to_thread(server.rss_bytes)
        self.board.say(memory=replace(self.board.memory, agent_rss_bytes=own, server_rss_bytes=rss))


def _told_of(stuck: Mapping[str, str], before: Mapping[str, str]) -> Mapping[str, str]:
    """Log what is newly stuck, once."""
    for path, why in stuck.items():
        if path not in before:
            fields = {"reason": Reason.CANNOT_REMOVE, "path": path, "error": why}
            log.warning("an old folder cannot be removed; it is tried again", extra=fields)
    return stuck
