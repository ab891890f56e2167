"""An idle connection to the model server, kept only to break: its end is the first news of the server's end.

It rings the bell and decides nothing (law 3). Without it a server that is back between two readings, and
held nothing that could be missed, would have restarted unseen.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

SOON_SECONDS = 0.05  # after an end: soon enough to find that nobody is there
AGAIN_SECONDS = 0.25
LONGEST_SECONDS = 30.0
SHORT_SECONDS = 5.0  # a connection that ends sooner is one that this server does not want
CONNECT_SECONDS = 5.0


class Tether:
    """Holds the connection. *where* gives the server's URL, None before it is found; *ring* is the bell."""

    def __init__(self, where: Callable[[], str | None], ring: Callable[[], None]) -> None:
        self._where, self._ring = where, ring

    async def run(self) -> None:
        """Hold on until cancelled. A server that ends idle connections is asked more and more rarely."""
        loop = asyncio.get_running_loop()
        pause, was_down = AGAIN_SECONDS, True
        while True:
            url, began = self._where(), loop.time()
            if url is None or not await _held(url):
                pause, was_down = AGAIN_SECONDS, True
            else:
                self._ring()
                meant = was_down or loop.time() - began > SHORT_SECONDS  # it died, or it lasted
                pause, was_down = SOON_SECONDS if meant else min(2 * pause, LONGEST_SECONDS), False
            await asyncio.sleep(pause)


async def _held(url: str) -> bool:
    """Connect and wait for the other end to close; false where there was nobody to connect to."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await _dial(url)
    except (OSError, TimeoutError):
        return False
    try:
        with suppress(OSError):
            while await reader.read(4096):
                pass
    finally:
        writer.transport.abort()
    return True


async def _dial(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(unquote(parts.path))
    return await asyncio.open_connection(
        parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    )
