"""Which ranges of a partial are good: survives the process, and, checked by CRC, the machine.

Small records behind a head that binds them to one object's identity and size and this boot of the machine.
A record is believed only if its own check is right; the bytes it speaks of were written before it was.
"""

import contextlib
import hashlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.artifacts.crc import CRCS
from agent.core.errors import RetryableError
from agent.core.reasons import Reason

_MAGIC = b"magnt-j2"
_HEAD = struct.Struct("<8s32s16s16s")  # magic, identity, algorithm, boot
_FRAME = struct.Struct("<cHI")  # kind, length of the body, its check
_KIND_SPAN, _KIND_TOLD = b"s", b"t"
_SPAN = struct.Struct("<QQQ")  # start, stop, crc
_READ = 1 << 20
_MOST_TOLD = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to `stop` are on disk; `crc` is theirs."""

    start: int
    stop: int
    crc: int


class Journal:
    """The open journal of one partial; from any thread, each record one write."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        self._head = head
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def append(self, span: Span) -> None:
        """Record that the bytes of *span* were written. Raises OSError."""
        self._write(_packed(span))

    def tell(self, checksums: Mapping[str, str]) -> None:
        """Record what the service said of the whole object: no other answer may come. Raises OSError."""
        body = _told(checksums)
        if len(body) <= _MOST_TOLD:
            self._write(body)

    def _write(self, record: bytes) -> None:
        with self._lock:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
                if not os.fstat(self._descriptor).st_size:
                    os.write(self._descriptor, self._head)
            os.write(self._descriptor, record)

    def forget(self) -> None:
        """The partial is worthless: begin again."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


@dataclass(frozen=True, slots=True)
class Found:
    """A journal to go on with, the good spans in order and without overlap, and the digest that they use."""

    journal: Journal
    algorithm: str
    spans: Sequence[Span] = ()
    told: Mapping[str, str] = field(default_factory=dict)


def open_journal(
    path: Path,
    partial: int,
    *,
    identity: str,
    size: int,
    algorithm: str,
    boot: str,
    stopped: Callable[[], bool] = lambda: False,
) -> Found:
    """Return the journal of the partial; *algorithm* is for a new one, an old one goes on with its own.

    Everything of another identity or size is worthless. After a reboot a span counts only if the bytes on
    disk still have its CRC. Raises OSError, and RetryableError once *stopped*, with all left as it was.
    """
    raw = _read(path)
    old = raw[: _HEAD.size]
    used = _algorithm_of(old)
    head = _head(identity, size, used or algorithm, boot)
    if used is None or not _same_but_boot(old, head):
        head = _head(identity, size, algorithm, boot)
        journal = Journal(path, head)
        if raw:
            journal.forget()
        return Found(journal, algorithm)
    spans, told, clean = _records(raw)
    good = _disjoint(spans, size)
    if old != head:
        good = [span for span in good if not stopped() and _on_disk(partial, span, used, stopped)]
    if stopped():
        raise RetryableError(Reason.STORAGE_UNAVAILABLE, "no longer wanted")
    if old != head or not clean or len(good) != len(spans):
        _rewrite(path, head, good, told)  # what is appended behind a torn record would never be read
    return Found(Journal(path, head), used, good, told)


def _head(identity: str, size: int, algorithm: str, boot: str) -> bytes:
    bound = hashlib.sha256(f"{identity}\n{size}".encode()).digest()
    return _HEAD.pack(_MAGIC, bound, algorithm.encode(), hashlib.sha256(boot.encode()).digest()[:16])


def _same_but_boot(one: bytes, other: bytes) -> bool:
    return bool(one) and one[:-16] == other[:-16]


def _framed(kind: bytes, body: bytes) -> bytes:
    return _FRAME.pack(kind, len(body), zlib.crc32(kind + body)) + body


def _packed(span: Span) -> bytes:
    return _framed(_KIND_SPAN, _SPAN.pack(span.start, span.stop, span.crc))


def _told(checksums: Mapping[str, str]) -> bytes:
    return _framed(_KIND_TOLD, json.dumps(dict(checksums)).encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _algorithm_of(head: bytes) -> str | None:
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        return None
    name = _HEAD.unpack(head)[2].rstrip(b"\0").decode("ascii", "replace")
    return name if name in CRCS else None


def _records(raw: bytes) -> tuple[list[Span], dict[str, str], bool]:
    """Return what the records say, and whether that was all: nothing after a torn one can be believed."""
    spans: list[Span] = []
    told: dict[str, str] = {}
    at = _HEAD.size
    while at + _FRAME.size <= len(raw):
        kind, length, check = _FRAME.unpack_from(raw, at)
        body = raw[at + _FRAME.size : at + _FRAME.size + length]
        if len(body) != length or zlib.crc32(kind + body) != check:
            break
        if kind == _KIND_SPAN:
            spans.append(Span(*_SPAN.unpack(body)))
        else:
            told.update(json.loads(body))
        at += _FRAME.size + length
    return spans, told, at == len(raw)


def _disjoint(spans: Sequence[Span], size: int) -> list[Span]:
    good: list[Span] = []
    end = 0
    for span in sorted(spans, key=lambda each: each.start):
        if end <= span.start < span.stop <= size:
            good.append(span)
            end = span.stop
    return good


def _on_disk(partial: int, span: Span, algorithm: str, stopped: Callable[[], bool]) -> bool:
    calc = CRCS[algorithm].calc
    at, crc = span.start, 0
    while at < span.stop and not stopped():
        data = os.pread(partial, min(_READ, span.stop - at), at)
        if not data:
            return False
        crc = calc(data, crc)
        at += len(data)
    return crc == span.crc


def _rewrite(path: Path, head: bytes, spans: Sequence[Span], told: Mapping[str, str]) -> None:
    temp = path.with_name(f".agent-tmp-{os.urandom(8).hex()}")
    try:
        records = [_packed(span) for span in spans] + ([_told(told)] if told else [])
        temp.write_bytes(head + b"".join(records))
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
