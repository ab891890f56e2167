"""Host names, resolved on daemon threads of their own.

The event loop's executor has a few threads for all bounded local work (design §8.10): a name server that
says nothing for half a minute would take them all, and the reading of documents with them (fault S13).
"""

import socket
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from agent.aio.threads import Daemons

AT_ONCE = 8

Lookup = Callable[..., list[Any]]


class ThreadNames(AbstractResolver):
    """Resolves by *lookup*, the system's own; whoever is cancelled is free at once."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._threads = Daemons("names", limit=AT_ONCE, spare=AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of *host* as numbers, scope ids kept. Raises OSError."""
        found = await self._threads.run(
            self._lookup, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        return [_answer(host, each) for each in found]

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.close()


def _answer(host: str, found: Any) -> ResolveResult:
    family, _, protocol, _, address = found
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    return ResolveResult(
        hostname=host,
        host=f"{address[0].partition('%')[0]}{scope}",
        port=address[1],
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
