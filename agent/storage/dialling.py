"""Addresses that other people's libraries connect to, judged at the socket itself (fault X1).

A library that we call brings its own way to connect. Whatever that is, Python tells of it by its audit events
(PEP 578) before the kernel is asked, and a hook that raises refuses it. Only what works for such a call is
judged, in its thread and in tasks that it starts on any loop: the agent's own connections, to its server or
to Kubernetes, are not.

Not told of is a socket that a library opens in C, as the system's resolver does to ask a name server; and a
thread that a library starts belongs to no call.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Any

from agent.storage.addresses import AddressPolicy, AddressRefusedError, permit_all, refusal

_CONNECTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})


@dataclass(eq=False, slots=True)
class Judged:
    """One call of a library, and why it was refused an address, if it was."""

    policy: AddressPolicy
    refused: str | None = field(default=None)

    def connects(self, address: object) -> None:
        """Raise AddressRefusedError for an address that the policy refuses."""
        host = str(address[0]) if isinstance(address, tuple) and address else ""
        why = self._why(host)
        if why is not None:
            self.refused = f"{host or 'nowhere'} may not be connected to: {why}"
            raise AddressRefusedError(errno.EPERM, self.refused)

    def _why(self, host: str) -> str | None:
        try:
            return refusal(self.policy, str(ip_address(host)))
        except ValueError:
            return "it is a name to its library, which may lead to another address each time"


_CALL: ContextVar[Judged | None] = ContextVar("agent_judged_call", default=None)


@contextmanager
def judged(policy: AddressPolicy) -> Iterator[Judged]:
    """Judge what is connected to by the work within; it may run on another loop, as fsspec's does."""
    call = Judged(policy)
    if policy is not permit_all:
        _listen()
    token = _CALL.set(None if policy is permit_all else call)
    try:
        yield call
    finally:
        _CALL.reset(token)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _CONNECTS:
        return
    call = _CALL.get()
    if call is None or arguments[0].family not in _FAMILIES:
        return
    if arguments[1] is not None:  # it is where sendmsg goes by a connection that is there
        call.connects(arguments[1])


@cache
def _listen() -> None:
    """Hear from now on; a hook is never taken off again."""
    sys.addaudithook(_hear)
