"""A connected byte stream, plain or TLS, read without waiting into a buffer that is used again and again.

TLS reads from the socket itself: with memory buffers between, one large receive feeds many records, but
the copies cost more than the system calls saved (1.0 against 1.1 to 1.6 CPU seconds a GiB).
"""

import contextlib
import socket
import ssl
from typing import Protocol


class Wire(Protocol):
    """What an exchange needs of a connection. Raises OSError (ssl.SSLError is one)."""

    @property
    def descriptor(self) -> int:
        """For epoll."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether `read` has something although the kernel may have nothing."""
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


class PlainWire:
    """TCP."""

    buffered = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._socket = sock
        self.descriptor = sock.fileno()
        self._receive = sock.recv_into

    def read(self, into: memoryview) -> int | None:
        """Receive once; see `Wire`."""
        try:
            return self._receive(into)
        except BlockingIOError:
            return None

    def write(self, data: bytes) -> int:
        """Send what the kernel takes."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TlsWire:
    """TLS; made by `dial` after the handshake."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._socket = sock
        self.descriptor = sock.fileno()
        self._receive = sock.recv_into

    @property
    def buffered(self) -> bool:
        """The rest of a record may wait in memory."""
        return self._socket.pending() > 0

    def read(self, into: memoryview) -> int | None:
        """Fill *into* from as many records as are there: one is 16 KiB at most, a write should be more."""
        done, room, receive = 0, len(into), self._receive
        try:
            while done < room:
                count = receive(into[done:])
                if not count:
                    return done
                done += count
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return done or None
        return done

    def write(self, data: bytes) -> int:
        """Send what the kernel takes."""
        try:
            return self._socket.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def close(self) -> None:
        """Close the socket; the other side is not told, nothing that it says matters any more."""
        with contextlib.suppress(OSError):
            self._socket.close()
