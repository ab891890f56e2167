"""A connected byte stream, plain or TLS, read without waiting into a buffer that is used again and again."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

RAW_BYTES = 256 << 10
"""So much of TLS is received at once, for each connection."""

_MOST_RECEIVES = 64  # a read: whoever only sends what is no content keeps no lane from its other connections


class Wire(Protocol):
    """What an exchange needs of a connection. Raises OSError (ssl.SSLError is one)."""

    @property
    def descriptor(self) -> int:
        """For epoll."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether `read` may have something although the kernel has nothing."""
        ...

    def read(self, into: memoryview) -> int | None:
        """Read what is there: the number of bytes, 0 at the end, None where nothing is there yet."""
        ...

    def write(self, data: bytes) -> int:
        """Write what can be written now."""
        ...

    def close(self) -> None:
        """Close, from any thread, without waiting."""
        ...


def _sender(sock: socket.socket) -> Callable[[bytes], int]:
    """Return what sends on *sock*, and has what comes then acknowledged at once.

    A server may keep the end of an answer until its beginning is acknowledged (RFC 896 beside RFC 1122
    §4.2.3.2), which else is after 40 ms.
    """
    send, set_option = sock.send, sock.setsockopt

    def send_now(data: bytes) -> int:
        sent = send(data)
        set_option(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # for a while, so each time again
        return sent

    return send if sock.family == socket.AF_UNIX else send_now


class PlainWire:
    """TCP."""

    buffered = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._socket = sock
        self.descriptor = sock.fileno()
        self._receive, self._send = sock.recv_into, _sender(sock)

    def read(self, into: memoryview) -> int | None:
        """Receive once; see `Wire`."""
        try:
            return self._receive(into)
        except BlockingIOError:
            return None

    def write(self, data: bytes) -> int:
        """Send what the kernel takes."""
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TlsWire:
    """TLS between memory buffers, so that the kernel is asked for many records at once.

    Reading records from the socket itself, as `ssl.SSLSocket` does, costs two system calls and often an
    acknowledgement for each 16 KiB: a tenth to a fifth more CPU, although nothing is copied in between.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Shake hands with *host*, in so many *seconds*. Raises OSError (ssl.SSLError is one)."""
        self._socket = sock
        self.descriptor = sock.fileno()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._raw = memoryview(bytearray(RAW_BYTES))
        self._send, self._unsent = _sender(sock), b""
        self._encrypted = False  # what the next `write` brings is in `_outgoing` or `_unsent` already
        self._over = False
        self.buffered = False
        self._shake_hands(time.monotonic() + seconds)
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature

    def read(self, into: memoryview) -> int | None:
        """Fill *into* from as many records as are there: one is 16 KiB at most, a write should be more."""
        done, room, decrypt = 0, len(into), self._tls.read
        receives, self.buffered = _MOST_RECEIVES, False
        while not self._over:
            try:
                while done < room and (count := decrypt(room - done, into[done:])):
                    done += count  # type: ignore[operator] # with a buffer it is a number
            except ssl.SSLWantReadError:
                receives -= 1
                if receives < 0 or not self._received():
                    break
            except ssl.SSLEOFError:  # without a farewell: HTTP itself says what is missing
                self._over = True
            else:
                self.buffered = done == room
                self._over = not self.buffered
                break
        if self._outgoing.pending:  # new keys were asked for
            self._flush()
        return done if done or self._over else None

    def write(self, data: bytes) -> int:
        """Send what the kernel takes: all of *data*, or nothing yet."""
        if not self._encrypted:
            self._tls.write(data)
            self._encrypted = True
        self._flush()
        if self._unsent:
            return 0
        self._encrypted = False
        return len(data)

    def close(self) -> None:
        """Close the socket; the other side is not told, nothing that it says matters any more."""
        self._socket.close()

    def _shake_hands(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._speak(deadline)
                self._received()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._speak(deadline)  # it is told why
                raise
            else:
                self._speak(deadline)
                return

    def _speak(self, deadline: float) -> None:
        """Send what is to be sent, and allow what follows the time that is left. The socket blocks still."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the TLS handshake took too long")
        self._socket.settimeout(left)
        self._socket.sendall(self._outgoing.read())

    def _received(self) -> bool:
        """Receive once; false where nothing is there yet."""
        try:
            count = self._socket.recv_into(self._raw)
        except BlockingIOError:
            return False
        if count:
            self._incoming.write(self._raw[:count])
        else:
            self._incoming.write_eof()
        return True

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._send(self._unsent) :]
