"""One number of bytes a second for all connections together, exact over any few seconds."""

import threading
from collections.abc import Callable

BURST_SECONDS = 0.1
"""How much may be saved up while nobody reads; little, so that a limit is a limit at once."""


class Throttle:
    """A bucket that fills at *rate* bytes a second. Safe from any thread."""

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._most = max(rate * BURST_SECONDS, 4096.0)
        self._level = 0.0
        self._filled_at = clock()
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        """Return how many bytes may be read now, at most *wanted*; 0 where it is not worth it yet."""
        with self._lock:
            now = self._clock()
            self._level = min(self._most, self._level + (now - self._filled_at) * self._rate)
            self._filled_at = now
            worth = min(wanted, int(self._most) // 4)
            if self._level < worth:
                return 0
            granted = min(wanted, int(self._level))
            self._level -= granted
            return granted

    def give_back(self, unused: int) -> None:
        """Return what was granted and not read."""
        with self._lock:
            self._level += unused

    @property
    def pause_seconds(self) -> float:
        """How long to wait after a 0: the time in which a read's worth flows in."""
        return self._most / 4 / self._rate
