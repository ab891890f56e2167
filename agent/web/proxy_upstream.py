"""The model server's side of one client's connection: requests go out, answers come back as they are.

An answer's end is found by its framing alone, so a kept connection is never used half-way through one.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from agent.web.proxy_heads import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    BadMessage,
    Chunks,
    Request,
    read_response,
)

BUFFER_BYTES = 1 << 18
KEPT_SECONDS = 3.0
"""Servers close what is idle for 5 s (uvicorn) or more; ours ends first, so that no request meets a close."""

_IDLE, _HEAD, _BODY, _TUNNEL = range(4)


class Asker(Protocol):
    """The client's side, as this one sees it."""

    request: Request
    since: float

    @property
    def closing(self) -> bool:
        """Whether the client's connection ends with this answer."""
        ...

    def connected(self, upstream: "Upstream") -> bool:
        """Take a new connection; false where nobody needs it any more."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        ...

    def refuse(self, status: int, text: str) -> None:
        """Answer for the model server, and end the connection."""
        ...

    def done(self, *, keep: bool) -> None:
        """Go on to the next request: the answer has passed."""
        ...

    def to_tunnel(self) -> None:
        """Pass everything in both directions from now on."""
        ...

    def lost(self, *, answered: bool, stale: bool) -> None:
        """Hear that the connection broke; *stale*: a kept one, before a byte of an answer."""
        ...

    def lost_idle(self) -> None:
        """Hear that a kept connection was closed between two requests."""
        ...

    def leave(self) -> None:
        """End the connection so that the last bytes still arrive."""
        ...

    def abort(self) -> None:
        """Cut the connection, so that half an answer is not taken for a whole one."""
        ...

    def full(self) -> None:
        """Stop reading: the model server does not take more."""
        ...

    def drained(self) -> None:
        """Read on."""
        ...

    def end_of_server(self) -> bool:
        """Pass on the end of one direction of a tunnel; true while the other one is open."""
        ...


class Upstream(asyncio.Protocol):
    """The model server's side of one client's connection."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_client",
        "_ended",
        "_idle_since",
        "_keep",
        "_left",
        "_method",
        "_now",
        "_reused",
        "_state",
        "_transport",
        "_untouched",
        "_used",
    )  # fmt: skip

    def __init__(self, client: Asker, now: Callable[[], float]) -> None:
        self._client: Asker | None = client
        self._now = now
        self._buffer = b""
        self._state, self._left = _IDLE, 0
        self._method = b""
        self._chunks = Chunks()
        self._keep = self._untouched = True
        self._used = self._reused = self._ended = False
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES)
        if self._client is None or not self._client.connected(self):
            self._client = None
            self._transport.abort()

    @property
    def answering(self) -> bool:
        """Whether an answer has begun to pass."""
        return self._state in {_BODY, _TUNNEL}

    def usable(self, now: float) -> bool:
        """Whether the next request may go on this connection."""
        return (
            self._state == _IDLE
            and now - self._idle_since < KEPT_SECONDS
            and not self._transport.is_closing()
        )

    def expect(self, request: Request) -> None:
        """Wait for the answer to a request that is sent now."""
        self._method, self._state = request.method, _HEAD
        self._reused, self._used, self._untouched = self._used, True, True

    def tunnel(self) -> None:
        """Pass everything."""
        self._state = _TUNNEL

    def write(self, data: bytes) -> None:
        """Send bytes of a request."""
        self._transport.write(data)

    def abort(self) -> None:
        """Let go of the connection, whatever it does."""
        self._client = None
        self._transport.abort()

    def hold(self) -> None:
        """Stop reading: the client does not take more."""
        self._transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Have the client wait for the model server."""
        if self._client is not None:
            self._client.full()

    def resume_writing(self) -> None:
        """Go on."""
        if self._client is not None:
            self._client.drained()

    def data_received(self, data: bytes) -> None:
        """Pass an answer on."""
        client = self._client
        if client is None:
            return
        if self._state == _HEAD:
            self._untouched = False
            self._buffer = self._buffer + data if self._buffer else data
            self._read_head(client)
        elif self._state == _BODY:
            self._pass_body(client, data)
        elif self._state == _TUNNEL:
            client.since = self._now()
            client.write(data)
        else:  # an answer to nothing
            self._transport.abort()

    def end_of_client(self) -> bool:
        """Pass on the end of one direction of a tunnel; true while the other one is open."""
        if self._ended or self._transport.is_closing():
            return False
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._ended = True
        return True

    def eof_received(self) -> bool:
        """In a tunnel each direction ends for itself."""
        if self._state == _TUNNEL and self._client is not None and not self._ended:
            self._ended = True
            return self._client.end_of_server()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the client what that means for the request under way."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._state == _IDLE:
            client.lost_idle()
        elif error is None and (
            self._state == _TUNNEL or (self._state == _BODY and self._left == UNTIL_CLOSE)
        ):
            client.leave()
        elif self._state == _TUNNEL:
            client.abort()
        else:
            client.lost(answered=self._state == _BODY, stale=self._untouched and self._reused)

    def _read_head(self, client: Asker) -> None:
        while True:
            data = self._buffer
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    client.refuse(502, "the model server sent a head without end")
                return
            try:
                response = read_response(data[:end], self._method, closing=client.closing)
            except BadMessage as error:
                client.refuse(502, f"the model server's answer cannot be passed on: {error}")
                return
            self._buffer = data[end + 4 :]
            if response.status == 101:
                if not client.request.upgrade:
                    client.refuse(502, "the model server changed the protocol unasked")
                    return
                self._state = _TUNNEL
                client.write(response.head + self._buffer)
                self._buffer = b""
                client.to_tunnel()
                return
            if response.status >= 200:
                break
            client.write(response.head)
        rest, self._buffer = self._buffer, b""
        self._keep = response.keep
        self._left, self._state = response.length, _BODY
        if response.length == 0:
            client.write(response.head)
            self._end(client, rest)
            return
        if response.length == CHUNKED:
            self._chunks = Chunks()
        self._pass_body(client, rest, response.head)

    def _pass_body(self, client: Asker, data: bytes, head: bytes = b"") -> None:
        size = len(data)
        if self._left > 0:
            end = min(self._left, size)
            self._left -= end
            whole = self._left == 0
        elif self._left == CHUNKED:
            try:
                end = self._chunks.end(data)
            except BadMessage:
                client.abort()
                return
            whole = end >= 0
            end = end if whole else size
        else:
            end, whole = size, False
        client.write(head + data[:end] if head or end < size else data)
        if whole:
            self._end(client, data[end:])

    def _end(self, client: Asker, rest: bytes) -> None:
        self._state = _IDLE
        self._idle_since = self._now()
        client.done(keep=self._keep and not rest)
