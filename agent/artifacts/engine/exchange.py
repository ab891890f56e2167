"""One connection: a request goes out, the answer is judged and handed to its download, byte for byte.

Everything here happens on the connection's lane. A connection is used again only if its last answer was
read exactly to its end.
"""

import errno

from agent.artifacts.engine.checks import refusal
from agent.artifacts.engine.dial import Route, request_of
from agent.artifacts.engine.http1 import MAX_HEAD_BYTES, Chunks, Head, ProtocolError, parse_head
from agent.artifacts.engine.pieces import Piece
from agent.artifacts.engine.settings import BUFFER_BYTES
from agent.artifacts.engine.wire import Wire
from agent.artifacts.neterrors import network_error
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason

MAX_ERROR_BODY = 64 << 10
_NOTHING = memoryview(b"")
_USUAL_HEAD_BYTES = 4096
_MOST_HINTS = 64
"""So many 1xx answers may come before the answer itself; who sends them for ever keeps a thread busy."""


class Connection:
    """A wire, and the exchange that is on it."""

    def __init__(self, wire: Wire, route: Route, now: float) -> None:
        self.wire, self.route = wire, route
        self.piece: Piece | None = None
        self.last_byte = now
        self.asked_at = now
        self.window_began = now
        self.window_bytes = 0
        self.used = False
        self.spoiled = False
        self.reusable = True
        self.midway = False
        self.rest = _NOTHING
        self._unsent = b""
        self._hints = 0
        self._head: Head | None = None
        self._begin_bytes = b""
        self._left: int | None = None
        self._chunks: Chunks | None = None
        self._error_body: bytearray | None = None

    @property
    def wants_to_write(self) -> bool:
        """Whether a part of the request has not gone out yet."""
        return bool(self._unsent)

    @property
    def room(self) -> int:
        """How much to read at once: never beyond the place where a write and its record end."""
        return BUFFER_BYTES if self.piece is None else BUFFER_BYTES - self.piece.at % BUFFER_BYTES

    @property
    def untouched(self) -> bool:
        """A used connection that brought nothing of this answer: it broke while idle, or before its turn."""
        return self.used and self._head is None and not self._begin_bytes

    def start(self, piece: Piece, now: float) -> None:
        """Send the requests of *piece* and of those behind it. Raises OSError, AgentError, ValueError."""
        self._expect(piece)
        self.last_byte = self.window_began = self.asked_at = now
        self.window_bytes, self.midway = 0, False
        if self.spoiled:
            raise ConnectionResetError(errno.ECONNRESET, "it was closed while it was idle")
        span = None if piece.stop is None else (piece.start, piece.stop)
        requests = [request_of(each.source, None) for each in piece.behind]
        self._unsent = b"".join((request_of(piece.source, span), *requests))
        self.flush()

    def go_on(self, piece: Piece) -> None:
        """The answer to *piece* follows, which was asked for behind the one that is over."""
        self._expect(piece)
        self.midway = True

    def _expect(self, piece: Piece) -> None:
        self.piece = piece
        self._head, self._begin_bytes, self._left = None, b"", None
        self._chunks = self._error_body = None
        self._hints = 0

    def flush(self) -> bool:
        """Send what is left of the request; true once all of it is out."""
        self._unsent = self._unsent[self.wire.write(self._unsent) :]
        return not self._unsent

    def received(self, data: memoryview) -> bool:
        """Take bytes from the wire; true once the exchange is over, with `rest` for the next answer.

        Raises AgentError, ProtocolError: then the connection is worthless.
        """
        self.rest = _NOTHING
        if self._head is None:
            rest = self._take_head(data)
            if rest is None:
                return False
            data = rest
            if self._left == 0:
                self._split(data, 0)
                return self._ended()
        if not data:
            return False
        if self._chunks is not None:
            return self._received_chunks(self._chunks, data)
        if self._left is None:
            return self._content(data) and self._ended(early=True)
        data = self._split(data, self._left)
        self._left -= len(data)
        enough = self._content(data)
        if self._left == 0 or enough:
            return self._ended(early=self._left > 0)
        return False

    def _split(self, data: memoryview, left: int) -> memoryview:
        """Return what of *data* belongs to this answer; what is behind may only be the next one."""
        if len(data) > left:
            if not self._piece.behind:
                raise ProtocolError("bytes follow the end of the answer")
            self.rest = data[left:]
        return data[:left]

    def _received_chunks(self, chunks: Chunks, data: memoryview) -> bool:
        for content in chunks.feed(data):
            if self._content(content):
                return self._ended(early=True)
        return self._ended() if chunks.done else False

    def closed(self) -> bool:
        """The other side is done; true where that is how this answer ends. Raises RetryableError."""
        open_ended = self._head is not None and self._left is None and self._chunks is None
        if self.piece is not None and open_ended:
            if self._error_body is None and self.piece.download.order.obj.size is None:
                raise ProtocolError(
                    "the answer does not say how long it is, so that nobody can tell if it broke off"
                )
            self.reusable = False
            return self._ended()
        raise RetryableError(
            Reason.STORAGE_UNAVAILABLE, f"{self.route.place}: the connection broke in the middle of an answer"
        )

    def _take_head(self, data: memoryview) -> memoryview | None:
        """Return what follows the head of the answer, None where that is not there yet."""
        while True:
            raw = self._begin_bytes + bytes(data[:_USUAL_HEAD_BYTES])
            end = raw.find(b"\r\n\r\n")
            if end < 0 and len(data) > _USUAL_HEAD_BYTES:
                raw = self._begin_bytes + bytes(data[:MAX_HEAD_BYTES])
                end = raw.find(b"\r\n\r\n")
            if end < 0:
                if len(self._begin_bytes) + len(data) > MAX_HEAD_BYTES:
                    raise ProtocolError("the answer has an endless head")
                self._begin_bytes = raw
                return None
            data = data[end + 4 - len(self._begin_bytes) :]
            self._begin_bytes = b""
            head = parse_head(raw[:end])
            if not 100 <= head.status < 200:
                break
            self._hints += 1
            if self._hints > _MOST_HINTS:
                raise ProtocolError("only 1xx answers come, and never the answer itself")
        self._head = head
        self._left = head.length
        self._chunks = Chunks() if head.chunked else None
        self.reusable = head.keep_alive
        self._judge(head)
        return data

    def _judge(self, head: Head) -> None:
        piece = self._piece
        if head.status in {200, 206}:
            piece.download.begin(piece, head)
        else:
            self._error_body = bytearray()

    def _content(self, data: memoryview) -> bool:
        if self._error_body is not None:
            self._error_body += data[: MAX_ERROR_BODY - len(self._error_body)]
            return len(self._error_body) >= MAX_ERROR_BODY
        piece = self._piece
        return piece.download.write(piece, data)

    def _ended(self, *, early: bool = False) -> bool:
        if early:
            self.reusable = False
        if self._error_body is not None and self._head is not None:
            raise refusal(self._piece.source, self._head, bytes(self._error_body), self._piece)
        piece = self._piece
        if piece.stop is not None and piece.at < piece.stop:
            raise RetryableError(
                Reason.STORAGE_UNAVAILABLE, f"{self.route.place}: the answer was shorter than it said"
            )
        return True

    @property
    def _piece(self) -> Piece:
        if self.piece is None:
            raise ProtocolError("an answer came that nobody asked for")
        return self.piece


def translated(error: Exception, route: Route) -> AgentError:
    """Return what a failed exchange means."""
    match error:
        case AgentError():
            return error
        case OSError():
            return network_error(error, route.place)
        case ProtocolError():
            return RetryableError(Reason.STORAGE_ERROR, f"{route.place}: {error}")
        case _:
            return RetryableError(
                Reason.STORAGE_ERROR, f"{route.place}: the request cannot be sent ({type(error).__name__})"
            )


def believed(error: AgentError) -> AgentError:
    """Return what to make of an answer among several that were asked for at once.

    Who mixes them up, or answers only one at a time, may refuse an object for another's sake: a refusal
    that would end the job is asked for once more, alone.
    """
    if isinstance(error, RetryableError) and error.reason is not Reason.SNAPSHOT_CHANGED:
        return error
    return RetryableError(Reason.STORAGE_ERROR, f"{error.message} (it is asked for once more, by itself)")
