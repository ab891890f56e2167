"""An HTTP relay in front of a real store, that misbehaves on demand as `FaultyOrigin` does.

Requests go upstream as they came, Host and signature too; what comes back takes the next `Fault` of its
script if it is the answer to a read of bytes. Everything else, listings above all, passes untouched.
"""

import gzip
import http.client
import re
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.fakes.faulty_origin import HONEST, Asked, Fault, FaultyOrigin

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyRelay(FaultyOrigin):
    """Relays to *upstream*, a URL of http; *reads* names the script of a request for an object's bytes.

    `scripts` holds the faults of the next reads by that name. `meanwhile` is called once, between the
    store's answer to such a read and its way to whoever asked; `before` once, before it is relayed.
    """

    def __init__(
        self, upstream: str, reads: Callable[[Asked], str | None], *, context: ssl.SSLContext | None = None
    ) -> None:
        self.scripts: dict[str, list[Fault]] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self._upstream = urlsplit(upstream)
        self._reads = reads
        super().__init__(context=context)

    def _next_fault(self, asked: Asked) -> Fault:
        script = self.scripts.get(self._script_of(asked))
        return script.pop(0) if script else HONEST

    def _script_of(self, asked: Asked) -> str:
        return (asked.method == "GET" and self._reads(asked)) or ""

    def _answer(self, connection: socket.socket, asked: Asked, fault: Fault) -> bool:
        if fault.hang_up:
            return False
        if fault.status:
            return self._send(connection, fault.status, dict(fault.headers), b"<Error>no</Error>", HONEST)
        name = self._script_of(asked)
        self.before.pop(name, lambda: None)()
        status, headers, body = self._relayed(asked, drop_range=fault.ignore_range)
        self.meanwhile.pop(name, lambda: None)()
        if asked.method == "HEAD":
            return self._head(connection, status, headers)
        headers = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
        if status in {200, 206}:
            body = self._spoilt(headers, body, fault)
        return self._send(connection, status, headers, body, fault)

    def _relayed(self, asked: Asked, *, drop_range: bool) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self._upstream.hostname, self._upstream.port, timeout=20)
        try:
            upstream.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                if name != "connection" and not (drop_range and name == "range"):
                    upstream.putheader(name, value)
            upstream.endheaders()
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _head(self, connection: socket.socket, status: int, headers: dict[str, str]) -> bool:
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() != "connection"
        )
        connection.sendall(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode())
        return True

    def _spoilt(self, headers: dict[str, str], body: bytes, fault: Fault) -> bytes:
        names = {name.lower(): name for name in headers}
        said = headers.get(names.get("content-range", ""), "")
        start = int(re.match(r"bytes (\d+)", said)[1]) if said else 0
        if fault.flip is not None and start <= fault.flip < start + len(body):
            changed = bytearray(body)
            changed[fault.flip - start] ^= 1
            body = bytes(changed)
        if said and fault.claim_range:
            headers[names["content-range"]] = fault.claim_range
        if said and fault.shift:
            body = body[fault.shift :] + body[: fault.shift]
        if fault.short or fault.extra:
            body = body[: len(body) - fault.short] + b"x" * fault.extra
        if fault.encode:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        for name in ("etag", "x-goog-generation"):
            if name in names and (fault.swap_etag or fault.drop_etag):
                headers[names[name]] = '"swapped"' if name == "etag" else "1"
                if fault.drop_etag:
                    del headers[names[name]]
        headers.update(fault.headers)
        return body
