"""One client's connection and its own connection to the model server: bytes pass as they come.

Nothing is kept whole: a side that does not read stops the other side's sending. Each request sees the
model server once: it is repeated only on a connection that was kept open and died before a byte of an
answer, and only where RFC 9110 §9.2.2 allows it.
"""

import asyncio
import fcntl
import socket
import termios
from typing import cast

from agent.web.proxy_heads import (
    CHUNKED,
    IDEMPOTENT,
    MAX_HEAD_BYTES,
    PREFACE,
    BadMessage,
    Chunks,
    Request,
    answer,
    read_request,
)
from agent.web.proxy_hub import Hub
from agent.web.proxy_upstream import BUFFER_BYTES, Upstream

HEAD, BODY, WAITING, PROBING, TUNNEL, LEAVING = range(6)

_CONNECTING, _FULL, _AHEAD, _SLOW = 1, 2, 4, 8  # why a client is not read


class Client(asyncio.Protocol):
    """The client's side."""

    __slots__ = (
        "_again",
        "_buffer",
        "_chunks",
        "_held",
        "_hub",
        "_left",
        "_moved",
        "_peer",
        "_pending",
        "_probes_only",
        "_seen_unsent",
        "_transport",
        "_upstream",
        "request",
        "since",
        "state",
    )

    def __init__(self, hub: "Hub[Client]") -> None:
        self._hub = hub
        self._buffer = b""
        self._pending = b""
        self._again = b""
        self._left = 0
        self._held = 0
        self._chunks = Chunks()
        self._upstream: Upstream | None = None
        self._probes_only = False
        self.state = HEAD
        self.since = self._moved = hub.now()
        self._seen_unsent = 0

    @property
    def unsent(self) -> int:
        """How many bytes of answers the client has not taken in, as far as that can be known."""
        left = self._transport.get_write_buffer_size()
        if self.state != LEAVING or (own := self._transport.get_extra_info("socket")).fileno() < 0:
            return left
        return left + int.from_bytes(fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, bytes(4)), "little")

    @property
    def busy(self) -> bool:
        """Whether a request or a tunnel is under way."""
        return self.state in {BODY, WAITING, PROBING, TUNNEL}

    @property
    def closing(self) -> bool:
        """Whether this connection ends with the answer that comes."""
        return not self.request.keep or self._hub.draining or self.state == BODY

    @property
    def begun(self) -> bool:
        """Whether half a head is there, and nothing but the client is waited for."""
        return self.state == HEAD and bool(self._buffer) and not self._held

    @property
    def idle(self) -> bool:
        """Whether it is between two requests."""
        return self.state == HEAD and not self._buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES)
        own = transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        name = transport.get_extra_info("peername")
        self._peer = name[0].encode() if isinstance(name, tuple) else b""
        self._probes_only = not self._hub.join(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Take the request away from the model server too: nobody waits for its answer."""
        self._hub.part(self)
        self.state = LEAVING
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def eof_received(self) -> bool:
        """In a tunnel each direction ends for itself; elsewhere the client has gone."""
        if self.state == TUNNEL and self._upstream is not None:
            return self._upstream.end_of_client()
        return False

    def data_received(self, data: bytes) -> None:
        """Pass on, or look for the next request."""
        if self.state == HEAD:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer, self.since = data, self._hub.now()
            self._next()
        elif self.state == BODY:
            self._pass_body(data)
        elif self.state == TUNNEL:
            self.since = self._hub.now()
            self._send(data)
        elif self.state != LEAVING:
            self._buffer += data
            if len(self._buffer) > MAX_HEAD_BYTES:
                self._hold(_AHEAD)

    def pause_writing(self) -> None:
        """Have the model server wait for this client."""
        self._hold(_SLOW)
        if self._upstream is not None:
            self._upstream.hold()

    def resume_writing(self) -> None:
        """Go on."""
        self._release(_SLOW)
        if self._upstream is not None:
            self._upstream.release()
        self._next()

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        self._transport.write(data)

    def refuse(self, status: int, text: str) -> None:
        """Answer for the model server, and end the connection; cut it where an answer has begun."""
        if self.state == LEAVING:
            return
        if self._upstream is not None and self._upstream.answering:
            self.abort()
            return
        self._transport.write(answer(status, text + "\n", close=True))
        self.leave()

    def leave(self) -> None:
        """End the connection so that the last bytes still arrive: unread input would reset it."""
        whole = self.idle or self.state not in {BODY, HEAD}
        self.state = LEAVING
        self._moved, self._seen_unsent = self._hub.now(), 0
        self._drop_upstream()
        if whole or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._held = 0
        self._transport.resume_reading()
        self._transport.write_eof()
        self._linger()

    def _linger(self, *, taken: bool = False) -> None:
        """Cut the connection a while after the client took in all that was sent."""
        if self._transport.is_closing():
            return
        if taken:
            self._transport.abort()
            return
        asyncio.get_running_loop().call_later(
            self._hub.linger_seconds, lambda: self._linger(taken=not self.unsent)
        )

    def abort(self) -> None:
        """Cut the connection, so that half an answer is not taken for a whole one."""
        self.state = LEAVING
        self._drop_upstream()
        self._transport.abort()

    def end_of_server(self) -> bool:
        """Pass on the end of the other direction of a tunnel; true while this one is open."""
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
        return not self._transport.is_closing()

    def done(self, *, keep: bool) -> None:
        """Go on to the next request once the answer has passed."""
        if not keep:
            self._drop_upstream()
        if self.state == WAITING and self.request.keep and not self._hub.draining:
            self._again_from_head()
        else:
            self.leave()

    def lost_idle(self) -> None:
        """Forget a kept connection that the model server closed."""
        self._upstream = None

    def _again_from_head(self) -> None:
        self.state = HEAD
        self.since = self._hub.now()
        self._release(_AHEAD)
        if self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Take the next request from what is there, if its head is complete."""
        if self.state != HEAD or self._held & _SLOW or not self._buffer:
            return
        data = self._buffer
        if data[:4] == b"PRI " and PREFACE.startswith(data[: len(PREFACE)]):
            if len(data) >= len(PREFACE):
                self._splice()
            return
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(data) > MAX_HEAD_BYTES:
                self.refuse(431, f"a request's head may have {MAX_HEAD_BYTES} bytes")
            elif data.startswith(b"\r\n"):
                self._buffer = data[2:]
            return
        try:
            request = self.request = read_request(data[:end].lstrip(b"\r\n"), self._peer)
            self._begin(request, data[end + 4 :])
        except BadMessage as error:
            self.refuse(error.status, str(error))

    def _begin(self, request: Request, rest: bytes) -> None:
        probe = self._hub.probe(request)
        if probe is not None:
            self._buffer, self.state = (rest if request.length == 0 else b""), PROBING
            self._hub.in_background(probe, self._probed)
            return
        if self._probes_only:
            self.refuse(503, "too many connections are open")
            return
        self._hub.seen()
        size = len(rest)
        if request.length == CHUNKED:
            self._chunks = Chunks()
            end = self._chunks.end(rest)
            self._left, whole = 0, end >= 0
            end = end if whole else size
        else:
            end = min(request.length, size)
            self._left, whole = request.length - end, request.length <= size
        self.state = WAITING if whole else BODY
        self._buffer = rest[end:]
        sent = request.head + rest[:end] if end else request.head
        self._forward(request, sent, replayable=whole and request.method in IDEMPOTENT)

    def _forward(self, request: Request, sent: bytes, *, replayable: bool) -> None:
        upstream = self._upstream
        self._again = sent if replayable else b""
        if upstream is not None and upstream.usable(self._hub.now()):
            upstream.expect(request)
            upstream.write(sent)
            return
        self._drop_upstream()
        self._connect(sent)

    def _connect(self, sent: bytes) -> None:
        self._pending = sent
        self._hold(_CONNECTING)
        self._hub.connect(lambda: Upstream(self, self._hub.now), self._unreachable)

    def _unreachable(self) -> None:
        if self.state == TUNNEL:
            self.abort()  # HTTP/2 would not read our words
        else:
            self.refuse(502, "the model server cannot be reached")

    def connected(self, upstream: "Upstream") -> bool:
        """Take a new connection to the model server; false where nobody needs it any more."""
        if self.state == LEAVING:
            return False
        self._upstream = upstream
        if self.state == TUNNEL:
            upstream.tunnel()
        else:
            upstream.expect(self.request)
        if self._held & _SLOW:
            upstream.hold()
        upstream.write(self._pending)
        self._pending = b""
        self._release(_CONNECTING)
        return True

    def lost(self, *, answered: bool, stale: bool) -> None:
        """Try a kept connection's request again on a new one, else say that the model server went away."""
        self._upstream = None
        if stale and self._again:
            again, self._again = self._again, b""
            self._connect(again)
        elif answered:
            self.abort()
        else:
            self.refuse(502, "the model server closed the connection without an answer")

    def full(self) -> None:
        """Stop reading: the model server does not take more."""
        self._hold(_FULL)

    def drained(self) -> None:
        """Read on."""
        self._release(_FULL)

    def to_tunnel(self) -> None:
        """Pass everything in both directions from now on."""
        self.state = TUNNEL
        rest, self._buffer = self._buffer, b""
        self._release(_AHEAD)
        if rest:
            self._send(rest)

    def _splice(self) -> None:
        if self._probes_only:
            self.abort()  # HTTP/2 would not read our words
            return
        self._hub.seen()
        self.state = TUNNEL
        rest, self._buffer = self._buffer, b""
        self._connect(rest)

    def _pass_body(self, data: bytes) -> None:
        if self._left:
            end = min(self._left, len(data))
            self._left -= end
            whole = self._left == 0
        else:
            try:
                end = self._chunks.end(data)
            except BadMessage as error:
                self.refuse(error.status, str(error))
                return
            whole = end >= 0
            end = end if whole else len(data)
        if end < len(data):
            data, self._buffer = data[:end], data[end:]
        if whole:
            self.state = WAITING
        self._send(data)

    def _send(self, data: bytes) -> None:
        if self._upstream is None:
            self._pending += data  # while connecting; reading is held, so this is one piece
        else:
            self._upstream.write(data)

    def _probed(self, data: bytes) -> None:
        if self.state != PROBING:
            return
        self._transport.write(data)
        if self.request.keep and not self._hub.draining and self.request.length == 0:
            self._again_from_head()
        else:
            self.leave()

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _hold(self, why: int) -> None:
        if not self._held:
            self._transport.pause_reading()
        self._held |= why

    def _release(self, why: int) -> None:
        if self._held:
            self._held &= ~why
            if not self._held:
                self._transport.resume_reading()

    def sweep(self, kept_before: float, moved_before: float) -> None:
        """Let go of the connection to the server, idle since then, or of this one, where nothing moved."""
        if self.state == HEAD and self.since < kept_before:
            self._drop_upstream()
        unsent = self.unsent
        if not unsent or unsent != self._seen_unsent:
            self._seen_unsent, self._moved = unsent, self._hub.now()
        elif self._moved < moved_before:
            self.abort()
