"""HTTP/1.1 as far as reading objects needs it, pure: request bytes out, heads and bodies in (RFC 9112).

Whatever is not understood exactly is refused: a wrong guess about where a body ends is corruption.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD_BYTES = 64 << 10
_USUAL_BYTES = 2048  # lines of a larger head are not kept: that would be a lot of memory
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BREAKS = re.compile(r"[\r\n\0]")
_NOT_IN_TARGET = re.compile(r"[\x00-\x20\x7f]")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: |$)")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class ProtocolError(Exception):
    """The other side does not speak HTTP/1.1 in a way that can be trusted."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer. Names in lower case; `length` is None for chunked and for until-closed."""

    status: int
    headers: Mapping[str, str]
    length: int | None
    chunked: bool
    keep_alive: bool


def request(target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a GET. Raises ValueError for what cannot be sent safely."""
    if _NOT_IN_TARGET.search(target):
        raise ValueError("an address that cannot be sent")
    values = "".join(headers.values())
    if _BREAKS.search(values) or None in map(_lowered, headers):
        raise ValueError("a header that cannot be sent")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def parse_head(raw: bytes) -> Head:
    """Return the head that *raw* is, without the empty line at its end."""
    status_line, _, rest = raw.partition(b"\r\n")
    match = _STATUS.match(status_line)
    if not match:
        raise ProtocolError("the answer is no HTTP/1.1")
    headers: dict[str, str] = {}
    field = _field if len(raw) <= _USUAL_BYTES else _field.__wrapped__
    for line in rest.split(b"\r\n") if rest else ():
        name, value = field(line)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(match[2])
    chunked = _is_chunked(headers)
    length = None if chunked else _length(headers, status)
    words = headers.get("connection", "").lower()
    keep = "close" not in words and (match[1] == b"1" or "keep-alive" in words)
    framed = chunked or length is not None
    return Head(status, headers, length, chunked, keep and framed)


@lru_cache(maxsize=256)
def _field(line: bytes) -> tuple[str, str]:
    """Return a header's name in lower case, and its value. Most lines of an answer were in the last one."""
    written, colon, value = line.decode("latin-1").partition(":")
    name = _lowered(written)
    if not colon or name is None:
        raise ProtocolError("the answer has a malformed header")
    return name, value.strip(" \t")


@lru_cache(maxsize=128)
def _lowered(name: str) -> str | None:
    """Return a header's name in lower case, None if it cannot be one. The same few come all the time."""
    return name.lower() if _TOKEN.fullmatch(name) else None


def content_range(value: str) -> tuple[int, int, int | None]:
    """Return (start, stop, total) of a Content-Range, stop exclusive, total None for `*`."""
    match = _CONTENT_RANGE.fullmatch(value)
    if not match:
        raise ProtocolError("the Content-Range cannot be read")
    return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])


def _is_chunked(headers: Mapping[str, str]) -> bool:
    coding = headers.get("transfer-encoding")
    if coding is None:
        return False
    if coding.lower() != "chunked" or "content-length" in headers:
        raise ProtocolError("the answer has a Transfer-Encoding that is not just chunked")
    return True


def _length(headers: Mapping[str, str], status: int) -> int | None:
    if status in {204, 304}:
        return 0
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ProtocolError("the answer has a Content-Length that is no number")
    return int(text)


class Chunks:
    """Takes a chunked body apart; `done` once its end, trailers included, was seen."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # of the chunk at hand
        self._line = b""
        self._state = "size"

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Yield the content in *data*; what is only half there is kept for the next call."""
        while data and not self.done:
            if self._state == "data":
                piece = data[: self._left]
                data = data[len(piece) :]
                self._left -= len(piece)
                if not self._left:
                    self._state = "end"
                yield piece
            else:
                data = self._feed_line(data)
        if data:
            raise ProtocolError("bytes follow the end of the answer")

    def _feed_line(self, data: memoryview) -> memoryview:
        raw = bytes(data[: MAX_HEAD_BYTES + 1])
        line, found, _ = raw.partition(b"\n")
        self._line += line
        if len(self._line) > MAX_HEAD_BYTES:
            raise ProtocolError("the chunked answer has an endless line")
        if not found:
            return data[len(raw) :]
        line, self._line = self._line, b""
        if not line.endswith(b"\r"):
            raise ProtocolError("the chunked answer has a bare line feed")
        self._line_ended(line[:-1])
        return data[raw.index(b"\n") + 1 :]

    def _line_ended(self, line: bytes) -> None:
        match self._state:
            case "end":
                if line:
                    raise ProtocolError("a chunk is longer than it said")
                self._state = "size"
            case "size":
                match = _CHUNK.fullmatch(line)
                if not match:
                    raise ProtocolError("a chunk has no size")
                self._left = int(match[1], 16)
                self._state = "data" if self._left else "trailer"
            case _:
                self.done = not line
