"""CRCs that compose: what parallel ranges have, taken together, is what the whole has."""

from collections.abc import Iterable
from typing import Protocol

from anycrc.crc import Model
from google_crc32c import extend, implementation

_ANYCRC32C = Model("CRC32C")


class Crc(Protocol):
    """One algorithm."""

    def calc(self, data: bytes | bytearray | memoryview, crc: int = 0, /) -> int:
        """Go on from *crc* over *data*."""
        ...

    def combine(self, first: int, second: int, second_length: int, /) -> int:
        """Return the CRC of two ranges from theirs."""
        ...


_COPIED_BYTES = 256 << 10


class _Crc32c:
    """By google-crc32c, which leaves the interpreter's lock to other threads meanwhile; anycrc holds it."""

    combine = _ANYCRC32C.combine

    @staticmethod
    def calc(data: bytes | bytearray | memoryview, crc: int = 0, /) -> int:
        """See `Crc`; it takes `bytes` only, so that what is copied has to stay in the cache."""
        for at in range(0, len(data), _COPIED_BYTES):
            crc = extend(crc, bytes(data[at : at + _COPIED_BYTES]))
        return crc


CRCS: dict[str, Crc] = {
    "crc32c": _Crc32c() if implementation == "c" else _ANYCRC32C,  # else it is Python, and slow
    "crc64nvme": Model("CRC64-NVME"),
}
DIGITS = {"crc32c": 8, "crc64nvme": 16}


def combined(algorithm: str, parts: Iterable[tuple[int, int]]) -> str:
    """Return the hex CRC of consecutive ranges, each given as (its CRC, its length)."""
    combine = CRCS[algorithm].combine
    whole = 0
    for crc, length in parts:
        whole = combine(whole, crc, length)
    return f"{whole:0{DIGITS[algorithm]}x}"
