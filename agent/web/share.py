"""How much of its time the agent spends on making answers, whoever asks how often (fault X7).

The law: one answer is made at a time, and the making takes a quarter of the time at most, but for a second
of it that may come at once after a quiet while. Models keep three quarters of the loop. Nobody is refused
for it: who asks waits a little, and who asks for what was just made has it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

RESTS = 3.0  # as long as the making took, so many times
CREDIT_SECONDS = 4.0  # of quiet that count for what comes then: a second of making with no rest


def is_there(request: web.Request) -> bool:
    """Tell whether who asked still holds the line; for who has gone nothing is made, and nothing kept."""
    return request.transport is not None and not request.transport.is_closing()


class Share:
    """The share of the wall time that goes to answers; *clock* and *sleep* are those of the loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._turn = asyncio.Lock()
        self._not_before = float("-inf")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the caller's turn, which lasts while the context does; first come, first served."""
        async with self._turn:
            yield

    async def rested(self) -> None:
        """Wait, within a turn, until an answer may be made again."""
        left = self._not_before - self._clock()
        if left > 0:
            await self._sleep(left)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Count what is made within against the share; in a turn, once rested."""
        began = self._clock()
        try:
            yield
        finally:
            took = self._clock() - began
            self._not_before = max(self._not_before, began - CREDIT_SECONDS) + (1 + RESTS) * took
