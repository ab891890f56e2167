"""CRCs that compose: what parallel ranges have, taken together, is what the whole has."""

from collections.abc import Iterable
from typing import Protocol

from anycrc.crc import Model


class Crc(Protocol):
    """One algorithm."""

    def calc(self, data: bytes | bytearray | memoryview, crc: int = 0, /) -> int:
        """Go on from *crc* over *data*."""
        ...

    def combine(self, first: int, second: int, second_length: int, /) -> int:
        """Return the CRC of two ranges from theirs."""
        ...


CRCS: dict[str, Crc] = {"crc32c": Model("CRC32C"), "crc64nvme": Model("CRC64-NVME")}
DIGITS = {"crc32c": 8, "crc64nvme": 16}


def combined(algorithm: str, parts: Iterable[tuple[int, int]]) -> str:
    """Return the hex CRC of consecutive ranges, each given as (its CRC, its length)."""
    combine = CRCS[algorithm].combine
    whole = 0
    for crc, length in parts:
        whole = combine(whole, crc, length)
    return f"{whole:0{DIGITS[algorithm]}x}"
