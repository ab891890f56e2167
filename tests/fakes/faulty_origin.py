"""A small HTTP/1.1 origin that misbehaves on demand: what networks, proxies and services really do.

Each answer to a path takes the next `Fault` of its script, and is honest once the script is used up.
Everything asked for and every byte sent is on record.
"""

import contextlib
import gzip
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

_SLICE = 64 << 10


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for an answer to go wrong. Offsets are of the answer's body, but for `flip`.

    `cut`, `reset`, `stall`: after so many body bytes close, send RST, or send nothing more.
    `drip`: bytes a second. `flip`: the object's byte at this offset is sent with a bit turned over.
    `shift`: the Content-Range says the asked range, the bytes come from so much further on.
    `claim_range`: the Content-Range as sent, in place of the true one.
    `ignore_range`: 200 with the whole object. `encode`: gzip, though nobody asked for it.
    `swap_etag`: another validator. `drop_etag`: none. `chunked`: Transfer-Encoding, no length.
    `extra`: so many bytes more than the object has. `short`: so many fewer, with a consistent length.
    `status`: this answer in place of the bytes, with `headers`. `hang_up`: close before any answer.
    """

    cut: int | None = None
    reset: int | None = None
    stall: int | None = None
    drip: int | None = None
    flip: int | None = None
    shift: int = 0
    claim_range: str | None = None
    ignore_range: bool = False
    encode: bool = False
    swap_etag: bool = False
    drop_etag: bool = False
    chunked: bool = False
    extra: int = 0
    short: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    close: bool = False


HONEST = Fault()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in; `connection` numbers the TCP connections, `target` is path and query."""

    method: str
    path: str
    headers: Mapping[str, str]
    connection: int
    at: float
    target: str = ""


class FaultyOrigin:
    """Serves `objects` (path to bytes) on a free port of 127.0.0.1, a thread a connection."""

    def __init__(self, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.objects: dict[str, bytes] = {}
        self.answer_headers: Callable[[str], Mapping[str, str]] = lambda _: {}
        self.every: Fault = HONEST
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self.most_connections = 0  # at any moment so far
        self.on_request: Callable[[Asked], None] = lambda _: None
        self._scripts: dict[str, list[Fault]] = {}
        self._etags: dict[str, str] = {}
        self._context = context
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._stopped = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        self.connected = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{self.host}:{self.port}"

    def put(self, path: str, content: bytes, faults: Iterable[Fault] = ()) -> None:
        """Serve *content*, the next answers going wrong as *faults* say."""
        with self._lock:
            self.objects[path] = content
            self._etags[path] = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            self._scripts[path] = list(faults)

    def etag(self, path: str) -> str:
        return self._etags[path]

    def requests(self, path: str | None = None) -> list[Asked]:
        with self._lock:
            return [each for each in self.asked if path is None or each.path == path]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connected += 1
                threading.Thread(target=self._serve, args=(connection, self.connected), daemon=True).start()

    def _serve(self, raw: socket.socket, number: int) -> None:
        connection = raw
        with self._lock:
            self._connections.add(raw)
            self.most_connections = max(self.most_connections, len(self._connections))
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                connection = self._context.wrap_socket(raw, server_side=True)
            reader = connection.makefile("rb")
            while not self._stopped.is_set() and self._exchange(connection, reader, number):
                pass
        except (OSError, ValueError):
            return
        finally:
            with self._lock:
                self._connections.discard(raw)
            with contextlib.suppress(OSError):
                connection.close()

    def _exchange(self, connection, reader, number: int) -> bool:
        """Answer one request; false where the connection is over."""
        line = reader.readline()
        if not line.strip():
            return False
        method, target, _ = line.decode().split()
        headers = {}
        while (header := reader.readline()).strip():
            name, _, value = header.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        path = re.sub(r"^https?://[^/]*", "", target).partition("?")[0]
        asked = Asked(method, path, headers, number, time.monotonic(), target)
        with self._lock:
            self.asked.append(asked)
            fault = self._next_fault(asked)
        self.on_request(asked)
        return self._answer(connection, asked, fault)

    def _next_fault(self, asked: Asked) -> Fault:
        """Say what goes wrong with this answer; asked under the lock."""
        script = self._scripts.get(asked.path)
        return script.pop(0) if script else self.every

    def _answer(self, connection, asked: Asked, fault: Fault) -> bool:
        if fault.hang_up:
            return False
        content = self.objects.get(asked.path)
        if content is None or fault.status:
            status = fault.status or 404
            return self._send(connection, status, dict(fault.headers), b"<Error>no</Error>", HONEST)
        headers = {"ETag": '"swapped"' if fault.swap_etag else self.etag(asked.path)}
        if fault.drop_etag:
            del headers["ETag"]
        headers |= self.answer_headers(asked.path) | fault.headers
        pinned = asked.headers.get("if-match")
        if pinned is not None and pinned != self.etag(asked.path):
            return self._send(connection, 412, {}, b"", HONEST)
        if asked.method == "HEAD":
            return self._send(connection, 200, {**headers, "Content-Length": str(len(content))}, b"", HONEST)
        if fault.flip is not None:
            changed = bytearray(content)
            changed[fault.flip] ^= 1
            content = bytes(changed)
        status, body = self._body(asked, content, fault, headers)
        return self._send(connection, status, headers, body, fault)

    def _body(self, asked: Asked, content: bytes, fault: Fault, headers: dict[str, str]) -> tuple[int, bytes]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
        status, body = 200, content
        if match and not fault.ignore_range:
            start, stop = int(match[1]), min(int(match[2]) + 1 if match[2] else len(content), len(content))
            if start >= len(content):
                headers["Content-Range"] = f"bytes */{len(content)}"
                return 416, b""
            headers["Content-Range"] = fault.claim_range or f"bytes {start}-{stop - 1}/{len(content)}"
            body = content[start + fault.shift : stop + fault.shift]
            status, body = 206, body + content[: stop - start - len(body)]
        if fault.short or fault.extra:
            body = body[: len(body) - fault.short] + b"x" * fault.extra
        if fault.encode:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        return status, body

    def _send(self, connection, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> bool:
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.setdefault("Content-Length", str(len(body)))
        if fault.close:
            headers["Connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode())
        ends = [end for end in (fault.cut, fault.reset, fault.stall) if end is not None]
        end = min([*ends, len(body)])
        for at in range(0, end, fault.drip or _SLICE):
            piece = memoryview(body)[at : min(at + (fault.drip or _SLICE), end)]
            with self._lock:
                self.sent_bytes += len(piece)  # first: who has the last bytes may look at once
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), bytes(piece)) if fault.chunked else piece)
            if fault.drip and self._stopped.wait(1):
                return False
        if fault.stall is not None:
            self._stopped.wait(60)
            return False
        if fault.reset is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if fault.cut is not None:
            return False
        if fault.chunked:
            connection.sendall(b"0\r\n\r\n")
        return not fault.close
