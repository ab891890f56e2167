"""The heads of HTTP/1 messages, as a proxy needs them. Pure: bytes come in, bytes and framing go out.

What two parsers could read differently is refused, so that nobody can hide a request in another's body
(RFC 9112 §11.2): both framings at once, spaces before a colon, folded lines, bare line feeds.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

MAX_HEAD_BYTES = 1 << 16
CHUNKED, UNTIL_CLOSE = -1, -2
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*(?:\r\n|\Z))*")
_EXTENSION = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_DROPPED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"upgrade",
    }
)
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"forwarded"})
_PROBING = frozenset({b"user-agent", b"k-kubelet-probe", b"k-network-probe", b"k-network-hash"})
_NOTED_OF_REQUEST = _FRAMING | _DROPPED | _FORWARDED | _PROBING | {b"host"}
_NOTED_OF_RESPONSE = _FRAMING | _DROPPED
_NEVER_LISTED = _FRAMING | {b"host"}
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}


class BadMessage(Exception):  # noqa: N818 - what it is, as `UsageError` is
    """A message that cannot be passed on; `status` is what its sender is answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request(NamedTuple):
    """A request's head: what is sent on, how long its body is, and what a probe is known by."""

    method: bytes
    head: bytes
    length: int
    keep: bool
    upgrade: bool
    noted: Mapping[bytes, bytes]


class Response(NamedTuple):
    """A response's head: `keep` tells whether its connection may be used again."""

    status: int
    head: bytes
    length: int
    keep: bool


def read_request(head: bytes, peer: bytes) -> Request:
    """Read a head, without its last empty line. *peer* is the client's address, empty for a local socket."""
    first, noted, kept = _split(head, _NOTED_OF_REQUEST)
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadMessage(400, "no HTTP/1 request line")
    method, _, minor = line.groups()
    if method == b"CONNECT":
        raise BadMessage(405, "CONNECT is not for a reverse proxy")
    length = _length(noted, minor)
    tokens, kept = _connection(noted, kept)
    keep = b"close" not in tokens and minor == b"1"
    upgrade = b"upgrade" in tokens and noted.get(b"upgrade", b"").lower() not in {b"", b"h2c"}
    if upgrade:
        kept += [b"Connection: Upgrade", b"Upgrade: " + noted[b"upgrade"]]
    if b"trailers" in noted.get(b"te", b"").lower():
        kept.append(b"TE: trailers")
    if b"forwarded" not in noted and (shim := _forwarded(noted)):
        kept.append(b"Forwarded: " + shim)
    if via := b", ".join(filter(None, (noted.get(b"x-forwarded-for"), peer))):
        kept.append(b"X-Forwarded-For: " + via)
    sent = b"\r\n".join((first, *kept, b"", b""))
    return Request(method, sent, 0 if length == UNTIL_CLOSE else length, keep, upgrade, noted)


def read_response(head: bytes, method: bytes, *, closing: bool) -> Response:
    """Read a head, without its last empty line. *closing*: tell the client that its connection ends."""
    first, noted, kept = _split(head, _NOTED_OF_RESPONSE)
    line = _STATUS_LINE.fullmatch(first)
    if line is None:
        raise BadMessage(502, "the model server sent no HTTP/1 answer")
    status = int(line[2])
    tokens, kept = _connection(noted, kept)
    if (status < 200 or status == 204) and b"transfer-encoding" in noted:
        raise BadMessage(502, "a Transfer-Encoding in an answer that has no body")
    if status < 200:
        if status == 101:
            kept += [b"Connection: Upgrade", b"Upgrade: " + noted.get(b"upgrade", b"")]
        return Response(status, b"\r\n".join((first, *kept, b"", b"")), 0, keep=True)
    length = 0 if method == b"HEAD" or status in {204, 304} else _length(noted, line[1])
    keep = b"close" not in tokens and (line[1] == b"1" or b"keep-alive" in tokens) and length != UNTIL_CLOSE
    if closing or length == UNTIL_CLOSE:
        kept.append(b"Connection: close")
    return Response(status, b"\r\n".join((first, *kept, b"", b"")), length, keep)


def answer(status: int, text: str, *more: bytes, close: bool = False) -> bytes:
    """Write a whole answer of the proxy's own."""
    body = text.encode()
    fields = [
        b"HTTP/1.1 %d %b" % (status, REASONS[status]),
        b"Content-Type: text/plain; charset=utf-8",
        b"X-Content-Type-Options: nosniff",
        b"Content-Length: %d" % len(body),
        *more,
    ]
    return b"\r\n".join((*fields, *([b"Connection: close"] if close else []), b"", body))


def _split(head: bytes, noting: frozenset[bytes]) -> tuple[bytes, dict[bytes, bytes], list[bytes]]:
    """Return the first line, the fields that matter here, and the lines of all that are passed on."""
    first, _, rest = head.partition(b"\r\n")
    if _FIELDS.fullmatch(rest) is None:
        raise BadMessage(400, "a header field that HTTP/1 does not allow")
    noted: dict[bytes, bytes] = {}
    kept = []
    for line in rest.split(b"\r\n") if rest else ():
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in noting:
            value = value.strip(b" \t")
            if key == b"host" and key in noted:
                raise BadMessage(400, "two Host fields")
            noted[key] = noted[key] + b", " + value if key in noted else value
            if key in _DROPPED or key == b"x-forwarded-for":
                continue
        kept.append(line)
    return first, noted, kept


def _length(noted: Mapping[bytes, bytes], minor: bytes) -> int:
    coding, length = noted.get(b"transfer-encoding"), noted.get(b"content-length")
    if coding is not None:
        if minor == b"0":
            raise BadMessage(400, "a Transfer-Encoding in HTTP/1.0, which has none")
        if length is not None:
            raise BadMessage(400, "Content-Length and Transfer-Encoding together")
        if coding.lower() != b"chunked":
            raise BadMessage(501, "no Transfer-Encoding but chunked")
        return CHUNKED
    if length is None:
        return UNTIL_CLOSE
    if _DIGITS.fullmatch(length) is None:
        raise BadMessage(400, "a Content-Length that is no one number")
    return int(length)


def _connection(noted: Mapping[bytes, bytes], kept: list[bytes]) -> tuple[frozenset[bytes], list[bytes]]:
    """Return what Connection says, and the lines without those fields that it names (RFC 9110 §7.6.1)."""
    if b"connection" not in noted:
        return frozenset(), kept
    tokens = frozenset(token.strip(b" \t").lower() for token in noted[b"connection"].split(b","))
    named = tokens - {b"close", b"keep-alive", b"upgrade", b"te", b""} - _NEVER_LISTED
    if named:
        kept = [line for line in kept if line.partition(b":")[0].lower() not in named]
    return tokens, kept


def _forwarded(noted: Mapping[bytes, bytes]) -> bytes:
    """Say in one `Forwarded` (RFC 7239) what the X-Forwarded fields say, as Knative's proxies do."""
    pairs = [
        b"for=" + (b'"[%b]"' % address if b":" in address else address)
        for part in noted.get(b"x-forwarded-for", b"").split(b",")
        if (address := part.strip(b' \t"[]'))
    ]
    more = [
        name + b"=" + value
        for name, key in ((b"host", b"x-forwarded-host"), (b"proto", b"x-forwarded-proto"))
        if (value := noted.get(key))
    ]
    if not pairs and not more:
        return b""
    return b", ".join((b";".join(pairs[:1] + more), *pairs[1:]))


class Chunks:
    """Finds the end of a chunked body in pieces that are passed on as they are."""

    __slots__ = ("_left", "_line", "_state")

    def __init__(self) -> None:
        self._state, self._left, self._line = "size", 0, b""

    def end(self, data: bytes, start: int = 0) -> int:
        """Return where the body ends in *data*, -1 where it goes on. Raises BadMessage."""
        at, size = start, len(data)
        while at < size:
            if self._state == "data":
                step = min(self._left, size - at)
                self._left -= step
                at += step
                if self._left == 0:
                    self._state = "after"
                continue
            stop = data.find(b"\n", at)
            self._line += data[at : stop + 1 if stop >= 0 else size]
            if len(self._line) > 8192:
                raise BadMessage(400, "a chunk's line without end")
            if stop < 0:
                return -1
            at = stop + 1
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise BadMessage(400, "a chunk's line that does not end in CRLF")
            if self._take(line[:-2]):
                return at
        return -1

    def _take(self, line: bytes) -> bool:
        """Take one line; true where it ends the body."""
        match self._state:
            case "size":
                size, _, extension = line.partition(b";")
                digits = size.rstrip(b" \t")
                if _EXTENSION.fullmatch(extension) is None:
                    raise BadMessage(400, "a chunk's extension with control bytes")
                if re.fullmatch(rb"[0-9A-Fa-f]{1,15}", digits) is None:
                    raise BadMessage(400, "a chunk of no size")
                self._left = int(digits, 16)
                self._state = "data" if self._left else "trailer"
            case "after":
                if line:
                    raise BadMessage(400, "a chunk longer than it says")
                self._state = "size"
            case _:
                if _FIELDS.fullmatch(line) is None:
                    raise BadMessage(400, "a trailer field that HTTP/1 does not allow")
                return not line
        return False
