"""An aiohttp connector that connects to permitted addresses only (fault X1; see `addresses`).

A file of its own, so that who only judges addresses does not wait for aiohttp to be imported.
"""

import errno
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.storage.addresses import AddressPolicy, AddressRefusedError, permit_all, refusal
from agent.storage.names import ThreadNames


def connector(
    policy: AddressPolicy = permit_all, *, resolver: AbstractResolver | None = None, limit: int = 100
) -> aiohttp.TCPConnector:
    """Return a connector that connects to permitted addresses only.

    Needs a running loop. Where a proxy is used the address is the proxy's: what lies behind it is the
    proxy's to refuse (fault X2).
    """

    def make_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        why = refusal(policy, str(address[0]))
        if why:
            raise AddressRefusedError(errno.EPERM, f"{address[0]} may not be connected to: {why}")
        return socket.socket(family=family, type=kind, proto=protocol)

    inner = resolver or ThreadNames()
    return aiohttp.TCPConnector(
        resolver=_Guarded(inner, policy), socket_factory=make_socket, limit=limit, ttl_dns_cache=10
    )


class _Guarded(AbstractResolver):
    """Leaves out refused addresses, so that a host with a permitted one stays reachable."""

    def __init__(self, inner: AbstractResolver, policy: AddressPolicy) -> None:
        self._inner = inner
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the permitted addresses of *host*; raises AddressRefusedError where none is."""
        found = await self._inner.resolve(host, port, family)
        reasons = {answer["host"]: refusal(self._policy, answer["host"]) for answer in found}
        permitted = [answer for answer in found if reasons[answer["host"]] is None]
        if found and not permitted:
            why = "; ".join(f"{address} ({reason})" for address, reason in sorted(reasons.items()))
            raise AddressRefusedError(errno.EPERM, f"no address of {host} may be connected to: {why}")
        return permitted

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._inner.close()
