"""Which ranges of a partial are good: survives the process, and, checked by CRC, the machine.

A file of fixed records behind a head that binds it to one object's identity, size, algorithm and this
boot of the machine. A record is believed only if its own check is right; the bytes it speaks of were
written before it was.
"""

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.artifacts.crc import CRCS

_MAGIC = b"magnt-j1"
_HEAD = struct.Struct("<8s32s16s16s")  # magic, identity, algorithm, boot
_RECORD = struct.Struct("<QQQI")  # start, stop, crc, check of these three
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to `stop` are on disk; `crc` is theirs."""

    start: int
    stop: int
    crc: int


class Journal:
    """The open journal of one partial; `append` from any thread, each record one write."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        self._head = head
        self._descriptor: int | None = None

    def append(self, span: Span) -> None:
        """Record that the bytes of *span* were written."""
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            if not os.fstat(self._descriptor).st_size:
                os.write(self._descriptor, self._head)
        os.write(self._descriptor, _packed(span))

    def forget(self) -> None:
        """The partial is worthless: begin again."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_journal(
    path: Path, partial: int, *, identity: str, size: int, algorithm: str, boot: str
) -> tuple[Journal, list[Span]]:
    """Return the journal of the partial and the spans that are good, in order and without overlap.

    Everything of another identity or size is worthless. After a reboot a span counts only if the bytes on
    disk still have its CRC. Raises OSError.
    """
    head = _head(identity, size, algorithm, boot)
    journal = Journal(path, head)
    old_head, spans = _read(path)
    if old_head != head and not _same_but_boot(old_head, head):
        if old_head:
            journal.forget()
        return journal, []
    good = _disjoint(spans, size)
    if old_head != head:
        good = [span for span in good if _on_disk(partial, span, algorithm)]
    if old_head != head or len(good) != len(spans):
        _rewrite(path, head, good)
    return journal, good


def _head(identity: str, size: int, algorithm: str, boot: str) -> bytes:
    bound = hashlib.sha256(f"{identity}\n{size}".encode()).digest()
    return _HEAD.pack(_MAGIC, bound, algorithm.encode(), hashlib.sha256(boot.encode()).digest()[:16])


def _same_but_boot(one: bytes, other: bytes) -> bool:
    return bool(one) and one[:-16] == other[:-16]


def _packed(span: Span) -> bytes:
    body = struct.pack("<QQQ", span.start, span.stop, span.crc)
    return body + struct.pack("<I", zlib.crc32(body))


def _read(path: Path) -> tuple[bytes, list[Span]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return b"", []
    if len(raw) < _HEAD.size or not raw.startswith(_MAGIC):
        return b"?", []
    spans = []
    for at in range(_HEAD.size, len(raw) - _RECORD.size + 1, _RECORD.size):
        start, stop, crc, check = _RECORD.unpack_from(raw, at)
        if zlib.crc32(raw[at : at + 24]) != check:
            break  # torn: nothing after it can be trusted to be aligned
        spans.append(Span(start, stop, crc))
    return raw[: _HEAD.size], spans


def _disjoint(spans: Sequence[Span], size: int) -> list[Span]:
    good: list[Span] = []
    end = 0
    for span in sorted(spans, key=lambda each: each.start):
        if end <= span.start < span.stop <= size:
            good.append(span)
            end = span.stop
    return good


def _on_disk(partial: int, span: Span, algorithm: str) -> bool:
    calc = CRCS[algorithm].calc
    at, crc = span.start, 0
    while at < span.stop:
        data = os.pread(partial, min(_READ, span.stop - at), at)
        if not data:
            return False
        crc = calc(data, crc)
        at += len(data)
    return crc == span.crc


def _rewrite(path: Path, head: bytes, spans: Sequence[Span]) -> None:
    temp = path.with_name(f".agent-tmp-{os.urandom(8).hex()}")
    try:
        temp.write_bytes(head + b"".join(_packed(span) for span in spans))
        temp.chmod(0o600)
        temp.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise


def boot_id() -> str:
    """Name this boot of the machine, or nothing at all that ever was where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.urandom(16).hex()
