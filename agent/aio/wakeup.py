"""The bell: whoever has news rings, the loop reads everything afresh (law 3)."""

import asyncio


class Wakeup:
    """Many rings before the door is opened count as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the one who waits; only to be called on the event loop's thread."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Return at the next ring, or when *seconds* have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
