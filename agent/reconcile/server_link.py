"""The agent's line to the model server: who it is, what it holds, and one load at a time where it must be.

The server is the truth (law 4): it is read every 2 s, sooner in doubt, and never while a load of our
own keeps its loop busy. A reading that an outcome has overtaken is thrown away.
"""

import asyncio
import logging
from collections.abc import Callable, Collection

from agent.aio.wakeup import Wakeup
from agent.core.errors import AgentError, RetryableError
from agent.core.model import ModelName
from agent.core.presence import Presence, after_outcome, after_reading, after_silence, in_doubt
from agent.core.reasons import Reason
from agent.servers.base import ModelServer, ModelState, ServerGoneError, ServerReading

log = logging.getLogger("agent.server")

READ_SECONDS = 2.0
DOUBT_SECONDS = 0.25  # a name is missing, or the server is down: look again soon
FRESH_SECONDS = 0.25  # no server ends and reads its folders again in less
UNKNOWN_OUTCOMES = frozenset({Reason.LOAD_TIMEOUT, Reason.SERVER_UNAVAILABLE})  # of a load
MOVING = frozenset({ModelState.LOADING, ModelState.UNLOADING})


class ServerLink:
    """Reads the server for ever and carries out loads and unloads on it.

    *ring* is called when what the server says has changed.
    """

    def __init__(self, server: ModelServer, ring: Callable[[], None]) -> None:
        self.presence = Presence()
        self.server = server
        self._ring = ring
        self._silence = ""
        self._busy: set[ModelName] = set()
        self._overtaken = 0
        self.read_at: float | None = None  # loop time of the last answer
        self._heard_at = float("-inf")  # loop time of the last answer to anything
        self._reading = asyncio.Lock()
        self._look = Wakeup()

    @property
    def slots(self) -> int:
        """How many loads and unloads may run at once."""
        return self.server.traits.concurrent_loads

    async def watch(self) -> None:
        """Read the server until cancelled."""
        while True:
            if not (self._busy and self.server.traits.blocks_while_loading):
                await self._read()
            sure = self.presence.up and not self.presence.doubted
            await self._look.wait(READ_SECONDS if sure else DOUBT_SECONDS)

    async def make_sure(self) -> None:
        """Return if the server answers at this moment; to be called before a folder is published.

        A server that starts reads all folders, and may end over a bad one: it must be past that (design §5).
        Raises RetryableError(ServerUnavailable).
        """
        now = asyncio.get_running_loop().time()
        if self._busy or (self.presence.up and now - self._heard_at < FRESH_SECONDS):
            return
        error = await self._read()
        if not self.presence.up:
            silence = error.message if error is not None else "the model server is not ready"
            raise RetryableError(Reason.SERVER_UNAVAILABLE, f"{silence}; nothing was published")

    async def load(self, name: ModelName) -> None:
        """Load *name* and remember that it is confirmed. Raises what the server's adapter raises."""
        await self._operate(name, loaded=True)

    async def unload(self, name: ModelName) -> None:
        """Unload *name* and remember that it is gone. Raises what the server's adapter raises."""
        await self._operate(name, loaded=False)

    def look(self) -> None:
        """Have the server read now; an event only rings (law 3)."""
        self._look.ring()

    async def close(self) -> None:
        """Give back the connections."""
        await self.server.close()

    async def _operate(self, name: ModelName, *, loaded: bool) -> None:
        self._busy.add(name)
        try:
            await (self.server.load(name) if loaded else self.server.unload(name))
        except AgentError as error:
            self._look.ring()  # what the server holds now is not known: look at once
            if loaded and error.reason in UNKNOWN_OUTCOMES:
                self.presence = in_doubt(self.presence, name)
            raise
        else:
            self._overtaken += 1
            self._heard_at = asyncio.get_running_loop().time()
            self.presence = after_outcome(self.presence, name, loaded=loaded)
        finally:
            self._busy.discard(name)

    async def _read(self) -> AgentError | None:
        """Read once and take it in; return why there was no answer."""
        async with self._reading:
            return await self._read_alone()

    async def _read_alone(self) -> AgentError | None:
        overtaken, busy = self._overtaken, frozenset(self._busy)
        before, silence = self.presence, None
        try:
            reading = await self.server.read()
        except AgentError as error:
            if busy or self._busy:
                return error  # never judge a server by its silence during a load of our own
            silence = error
            self.presence = after_silence(self.presence, refused=isinstance(error, ServerGoneError))
            if before.up or self._silence != error.reason:
                self._silence = error.reason
                log.warning("the model server does not answer; looking again and again", extra=_why(error))
        else:
            self.read_at = self._heard_at = asyncio.get_running_loop().time()
            if overtaken != self._overtaken:
                self._look.ring()
                return None
            self._silence = ""
            self.presence = _read_off(before, reading, busy | self._busy)
            if before.failures == 0 and not before.loaded <= self.presence.loaded:
                log.warning("the model server has lost models that it had confirmed")
            if self.presence.up and not before.up:
                log.info("the model server is ready", extra={"models": len(self.presence.loaded)})
        if _changed(before, self.presence):
            self._ring()
        return silence


def _why(error: AgentError) -> dict[str, str]:
    return {"reason": error.reason, "message_": error.message}


def _read_off(before: Presence, reading: ServerReading, busy: Collection[ModelName]) -> Presence:
    loaded = {ModelName(name) for name, state in reading.models.items() if state is ModelState.READY}
    moving = {ModelName(name) for name, state in reading.models.items() if state in MOVING}
    return after_reading(
        before, ready=reading.ready, loaded=frozenset(loaded), moving=frozenset(moving), busy=busy
    )


def _changed(before: Presence, after: Presence) -> bool:
    return (before.up, before.loaded, before.moving, before.restarts) != (
        after.up,
        after.loaded,
        after.moving,
        after.restarts,
    )
