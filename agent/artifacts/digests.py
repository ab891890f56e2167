"""Checksums over bytes as they pass: the algorithms we can compute, by the names that services use."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from agent.artifacts.crc import CRCS, DIGITS

COMPUTABLE = ("sha256", "crc64nvme", "crc32c", "md5")
"""Strongest first, but for md5, which is slow: one that is known and verified is enough."""

GIT = "git-sha1"
"""Git's name of a file: it begins with the size, so it is compared where that is known; never recorded."""

SEEN_FIRST = frozenset({"crc32c"})
"""What is recorded of bytes whose identity is pinned but whom no service gave a checksum (design §6)."""


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc:
    def __init__(self, algorithm: str) -> None:
        self._calc = CRCS[algorithm].calc
        self._digits = DIGITS[algorithm]
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._calc(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


def _new(algorithm: str, size: int | None) -> _Digest:
    if algorithm == GIT:
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    return _Crc(algorithm) if algorithm in CRCS else hashlib.new(algorithm, usedforsecurity=False)


class Digests:
    """Several digests of one stream of bytes, of *size* where `GIT` is among them."""

    def __init__(self, algorithms: Iterable[str], size: int | None = None) -> None:
        self._running = {name: _new(name, size) for name in algorithms}

    def update(self, data: memoryview) -> None:
        """Take in the next bytes."""
        for digest in self._running.values():
            digest.update(data)

    def result(self) -> dict[str, str]:
        """Return each digest in lower-case hex."""
        return {name: digest.hexdigest() for name, digest in self._running.items()}


def needed(want: Iterable[str], known: Mapping[str, str], size: int | None = None) -> frozenset[str]:
    """Return the digests to compute: what is wanted anyway, and the strongest that can be compared.

    *size* is that of the bytes, where it is known beforehand.
    """
    if not known:
        return frozenset(want)
    best = next((name for name in COMPUTABLE if name in known), None)
    if best is None and GIT in known and size is not None:
        return frozenset(want) | {GIT} | SEEN_FIRST
    return frozenset(want) | (frozenset({best}) if best else frozenset())


def strongest(known: Mapping[str, str]) -> str | None:
    """Return the strongest checksum as manifests write it ("sha256:<hex>"), None where there is none."""
    return next((f"{name}:{known[name].lower()}" for name in COMPUTABLE if name in known), None)
