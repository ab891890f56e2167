"""Has the store read again from time to time (`--scrub-interval`). It repairs nothing: the plan does."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from agent.artifacts.scrub import scrub
from agent.artifacts.store import Store
from agent.core import words
from agent.core.errors import AgentError

log = logging.getLogger("agent.scrub")


@dataclass(frozen=True, slots=True)
class Scrubbing:
    """*seconds* between two passes, *rate* in bytes a second. *ring* is called when bytes were damaged."""

    store: Store
    seconds: float
    rate: int
    ring: Callable[[], None]

    async def run(self) -> None:
        """Go on until cancelled; a pass that fails is told, and the next one comes in its time."""
        while True:
            await asyncio.sleep(self.seconds)
            try:
                done = await scrub(self.store, self.rate)
            except AgentError as error:
                fields = {"reason": error.reason, "message_": error.message}
                log.warning("the stored files could not all be read again", extra=fields)
                continue
            told = {"files": done.blobs, "size": words.size(done.size_bytes), "damaged": len(done.damaged)}
            log.info("the stored files were read again", extra=told)
            if done.damaged:
                self.ring()
