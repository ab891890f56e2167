"""The numbers of the engine, with their sums."""

import os
from dataclasses import dataclass, field

MIB = 1 << 20

SMALL_BYTES = MIB
"""Objects up to here are one request and have no journal: a crash fetches at most this much again."""

TOGETHER_BYTES = MIB // 8
MOST_TOGETHER = 8
"""Objects up to the first are asked for so many at once on a connection: a crash fetches no more again."""

BUFFER_BYTES = MIB
"""Reads, writes and records of the journal end at multiples of this: a crash fetches at most this much again
for each connection, and the page cache takes such a write as one large folio (a quarter less CPU)."""

SMALLEST_PART = 4 * MIB
LARGEST_PART = 64 * MIB
"""Parts get smaller towards the end of an object, so that all connections end together."""

SMALLEST_SHARE = MIB // 8
"""So much has to be left of a slow part for another connection to take over half of it."""

LIBRARY_PIECE_BYTES = 8 * MIB
"""What is asked of a library at once."""

WINDOW_BYTES = 256 * MIB
"""How far a download may run ahead of a hash that has to see the bytes in order, while they are cached."""


def _lanes() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an operator may set, and what tests shorten.

    `bandwidth_limit` and `min_rate` are bytes a second. A connection is given up after `stall_seconds`
    without a byte (after `hedge_seconds` once, where all else is done), or after `slow_seconds` below
    `min_rate` unless the whole origin is merely shared out.
    """

    max_connections: int = 16
    bandwidth_limit: int | None = None
    min_rate: int = 64 << 10
    stall_seconds: float = 30.0
    hedge_seconds: float = 5.0
    slow_seconds: float = 60.0
    idle_seconds: float = 20.0
    lanes: int = field(default_factory=_lanes)

    @property
    def library_seconds(self) -> float:
        """How long a library may take for one piece: what the slowest connection may, and a stall."""
        return self.stall_seconds + LIBRARY_PIECE_BYTES / max(1, self.min_rate)
