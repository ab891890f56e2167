"""The way in to the status port: how many may stand in it, how slowly one may ask and take (fault X6).

Whoever is slow or comes with a thousand others is put out; who asks and goes, as probes do, gets in,
though the rest of the process has taken every descriptor (fault D7).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agent.aio.spare import Listener, Spare

_BACKLOG = 100


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Connections at once, and seconds in which a request's head has to be there whole.

    While an answer does not fit the line, `taken_bytes` of it have to be taken each `take_seconds`.
    """

    connections: int = 128
    head_seconds: float = 10.0
    take_seconds: float = 30.0
    taken_bytes: int = 32 * 1024


class Door:
    """A protocol factory around another: give it to `loop.create_server`, or let it `listen` itself.

    Beyond the limit the oldest connection goes, since a probe's is young and a hoarder's is not.
    """

    def __init__(self, inner: Callable[[], asyncio.Protocol], limits: DoorLimits | None = None) -> None:
        self.limits = limits or DoorLimits()
        self._inner = inner
        self._guests: dict[_Guest, None] = {}  # oldest first
        self.closed: Callable[[], None] = lambda: None

    async def listen(self, host: str, port: int, spare: Spare) -> list[asyncio.Server]:
        """Listen at the addresses of *host*; who comes while there is no descriptor has one of *spare*.

        Raises OSError for an address that cannot be had.
        """
        loop = asyncio.get_running_loop()
        self.closed = spare.take_back
        bound = await loop.create_server(self, host, port, start_serving=False)
        try:
            listeners = [Listener(each, spare, self.make_room) for each in bound.sockets]
        finally:
            bound.close()
        servers = [await loop.create_server(self, sock=each, backlog=1) for each in listeners]
        for each in listeners:
            each.listen(_BACKLOG)  # the loop took one for: accept one at a turn, so that each is a guest soon
        return servers

    def make_room(self) -> bool:
        """Put the oldest out; false where there is nobody."""
        for guest in self._guests:
            guest.put_out()
            return True
        return False

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Guest(self._inner(), self)

    def enter(self, guest: "_Guest") -> None:
        """Let one in; the oldest goes where there are too many."""
        self._guests[guest] = None
        if len(self._guests) > self.limits.connections:
            self.make_room()

    def leave(self, guest: "_Guest") -> None:
        """One has gone."""
        self._guests.pop(guest, None)


class _Guest(asyncio.Protocol):
    """One connection: hands everything on, and watches how long a request's head and an answer take."""

    def __init__(self, inner: asyncio.Protocol, door: Door) -> None:
        self._inner, self._door = inner, door
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._tail = b""

    def put_out(self) -> None:
        self._door.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream server gives no other
        self._transport = transport
        self._door.enter(self)
        self._begin()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        end = seen.rfind(b"\r\n\r\n")
        if end >= 0:
            self._stop()
            seen = seen[end + 4 :]
        self._tail = seen[-3:]
        if seen and self._timer is None:
            self._begin()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop()
        self._taken()
        self._door.leave(self)
        asyncio.get_running_loop().call_soon(self._door.closed)  # the socket is, right after this
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._look_again()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._taken()
        self._inner.resume_writing()

    def _look_again(self) -> None:
        assert self._transport is not None  # noqa: S101 - who is paused was connected
        waiting = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._taking = loop.call_later(self._door.limits.take_seconds, self._look, waiting)

    def _look(self, waited: int) -> None:
        """Put out who has taken too little of what waited for it."""
        assert self._transport is not None  # noqa: S101 - who is paused was connected
        if waited - self._transport.get_write_buffer_size() < self._door.limits.taken_bytes:
            self.put_out()
        else:
            self._look_again()

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._door.limits.head_seconds, self.put_out)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
