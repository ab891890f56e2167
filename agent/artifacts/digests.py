"""Checksums over bytes as they pass: the algorithms we can compute, by the names that services use."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

import google_crc32c

COMPUTABLE = ("sha256", "crc32c", "md5")
"""Strongest first: one that is known and verified is enough."""


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = google_crc32c.extend(self._value, bytes(data))  # takes no writable buffer

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _new(algorithm: str) -> _Digest:
    if algorithm == "crc32c":
        return _Crc32c()
    return hashlib.new(algorithm, usedforsecurity=False)


class Digests:
    """Several digests of one stream of bytes."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._running = {name: _new(name) for name in algorithms}

    def update(self, data: memoryview) -> None:
        """Take in the next bytes."""
        for digest in self._running.values():
            digest.update(data)

    def result(self) -> dict[str, str]:
        """Return each digest in lower-case hex."""
        return {name: digest.hexdigest() for name, digest in self._running.items()}


def needed(want: Iterable[str], known: Mapping[str, str]) -> frozenset[str]:
    """Return the digests to compute: what is wanted anyway, and the strongest that can be compared."""
    strongest = next((name for name in COMPUTABLE if name in known), None)
    return frozenset(want) | (frozenset({strongest}) if strongest else frozenset())


def strongest(known: Mapping[str, str]) -> str | None:
    """Return the strongest checksum as manifests write it ("sha256:<hex>"), None where there is none."""
    return next((f"{name}:{known[name].lower()}" for name in COMPUTABLE if name in known), None)
