"""Streams of an archive's bytes, decompressed in bounded pieces; a stream that ends too early is refused.

Whoever reads asks for exact counts. What is decompressed is counted before more is (`expand`).
"""

import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from agent.artifacts.unpack.sink import refused

PIECE = 1 << 20
MAX_WINDOW = 1 << 27
"""zstd's own default for `--long`; larger windows are refused."""
_FIRST_BITE = 4096


class Stream:
    """Exact reads from an iterator of pieces; ArchiveRefused where they end too early."""

    def __init__(self, pieces: Iterator[bytes], expand: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._expand = expand
        self._left = memoryview(b"")

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes; only for sizes that the caller has bounded."""
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next *size* bytes, whatever pieces they come in."""
        while size:
            piece = self._some(size)
            if not piece:
                raise refused("the archive is cut short: its last member or its end is missing")
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Pass over the next *size* bytes."""
        for _ in self.pieces(size):
            pass

    def at_end(self) -> bool:
        """Tell whether nothing follows."""
        return not self._left and not self._more()

    def is_zero_from_here(self) -> bool:
        """Read all that follows, checksums of the compression included, and tell whether it is zeros."""
        zero = True
        while piece := self._some(PIECE):
            zero = zero and not any(piece)
        return zero

    def _some(self, size: int) -> memoryview:
        if not self._left and not self._more():
            return self._left
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    def _more(self) -> bool:
        for piece in self._pieces:
            if piece:
                self._expand(len(piece))
                self._left = memoryview(piece)
                return True
        return False


def plain(descriptor: int) -> Iterator[bytes]:
    """Yield a file's bytes."""
    while piece := os.read(descriptor, PIECE):
        yield piece


def gunzipped(descriptor: int) -> Iterator[bytes]:
    """Yield the content of a gzip file, of all its members one after the other (RFC 1952), each checked."""
    try:
        yield from _gunzipped(_Bites(descriptor))
    except zlib.error as error:
        raise refused(f"the gzip stream is damaged ({error}); make the archive anew") from error


def _gunzipped(bites: "_Bites") -> Iterator[bytes]:
    while data := bites.take(_FIRST_BITE):
        if not any(data):
            continue  # padding to a block, as tapes have it
        member = zlib.decompressobj(wbits=31)
        size = _FIRST_BITE
        while not member.eof:
            content = member.decompress(data, PIECE)
            if not content and not data and not member.eof:
                raise refused("the gzip stream is cut short; upload the archive again")
            yield content
            size = min(size * 2, PIECE)
            data = b"" if member.eof else member.unconsumed_tail or bites.take(size)
        bites.give_back(len(member.unused_data))


class _Bites:
    """Reads a file by bites; the caller's begin small at each gzip member.

    zlib copies what follows a member, so that large bites of many tiny members would cost their square.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return up to *size* bytes, none at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = os.read(self._descriptor, PIECE), 0
        bite = self._buffer[self._at : self._at + size]
        self._at += len(bite)
        return bite

    def give_back(self, size: int) -> None:
        """Take back the last *size* bytes of the last bite."""
        self._at -= size


def unzstd(descriptor: int) -> Iterator[bytes]:
    """Yield the content of a zstd file, of all its frames one after the other (RFC 8878), each checked.

    The library takes a frame that is cut short for a good end. So a frame of our own follows the file, and
    its content must come out last. It is a random word many times over: no unfinished block that swallows
    the compressed frame can show it.
    """
    import zstandard  # noqa: PLC0415 (a native library that few archives need)

    mark = os.urandom(8) * 64
    closing = zstandard.ZstdCompressor().compress(mark)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    held = b""
    try:
        source: Any = _Followed(descriptor, closing)
        with decompressor.stream_reader(source, read_across_frames=True) as reader:
            while piece := reader.read(PIECE):
                held += piece
                yield held[: -len(mark)]
                held = held[-len(mark) :]
    except zstandard.ZstdError as error:
        raise refused(f"the zstd stream is damaged ({error}); make the archive anew") from error
    if held != mark:
        raise refused("the zstd stream is cut short; upload the archive again")


class _Followed:
    """A file with some bytes after its end, for a library that wants an object with `read`."""

    def __init__(self, descriptor: int, after: bytes) -> None:
        self._descriptor = descriptor
        self._after = after

    def read(self, size: int = -1) -> bytes:
        if piece := os.read(self._descriptor, size if size > 0 else PIECE):
            return piece
        piece, self._after = self._after, b""
        return piece
