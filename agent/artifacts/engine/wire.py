"""A connected byte stream, plain or TLS, read without waiting into a buffer that is used again and again.

TLS runs over memory buffers: one large receive feeds many records, where the ssl module's own socket
makes two system calls a record of 16 KiB.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast

RAW_BYTES = 128 << 10


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
    """TLS over memory buffers; made by `dial` after the handshake, with what the handshake left over."""

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._socket = sock
        self.descriptor = sock.fileno()
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing
        self._raw = memoryview(bytearray(RAW_BYTES))

    @property
    def buffered(self) -> bool:
        """Records may wait in memory."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def read(self, into: memoryview) -> int | None:
        """Fill *into* from as many records as are there."""
        done, room = 0, len(into)
        read = cast("Callable[[int, memoryview], int]", self._tls.read)  # the stub forgets the buffer
        while done < room:
            try:
                count = read(room - done, into[done:])
            except ssl.SSLWantReadError:
                fed = self._feed()
                if fed is None:
                    break
                if not fed:  # the end without a word: never a good end of a body of unknown length
                    return done or 0
                continue
            except ssl.SSLZeroReturnError:
                return done
            if not count:
                return done
            done += count
        if self._outgoing.pending:
            self._flush()
        return done or None

    def _feed(self) -> int | None:
        try:
            count = self._socket.recv_into(self._raw)
        except BlockingIOError:
            return None
        if count:
            self._incoming.write(self._raw[:count])
        return count

    def write(self, data: bytes) -> int:
        """Encrypt all of *data*; what the kernel does not take at once is sent when it does."""
        self._tls.write(data)
        self._flush()
        return len(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        self._socket.setblocking(True)  # noqa: FBT003 - a request head always fits the send buffer
        self._socket.settimeout(10)
        try:
            self._socket.sendall(data)
        finally:
            self._socket.setblocking(False)  # noqa: FBT003 - as above

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
