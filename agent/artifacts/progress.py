"""How far a fetch is: plain counters that worker threads raise and the event loop reads at any time.

Nothing here reads a clock: `since` and `now` are the caller's, on one monotonic clock.
"""

import threading
from collections import deque

from agent.core.status import ProgressReading

WINDOW_SECONDS = 10.0
"""The rate is that of the last ten seconds, or of all the time where that is shorter."""

_MOST_SAMPLES = 100  # of one window, however often somebody looks


class Meter:
    """The bytes of one object that are on disk; raised by any thread, lowered where bytes are thrown away."""

    __slots__ = ("_done", "_lock")

    def __init__(self) -> None:
        self._done = 0
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Bytes so far."""
        return self._done

    def add(self, count: int) -> None:
        """Count *count* more bytes; negative where they turned out worthless."""
        with self._lock:
            self._done += count

    def set(self, done: int) -> None:
        """Start again from *done*."""
        with self._lock:
            self._done = done


class Progress:
    """The progress of one fetch: what was there already, and the meters of what is being moved.

    `expect`, `held` and `follow` are called by the fetch, `snapshot` by whoever wants to know, all on
    the event loop. Two fetches that share a transfer follow the same meter. The rate is known from the
    second look on, or from the first if *since* tells when it began.
    """

    def __init__(self, since: float | None = None) -> None:
        self._total: int | None = None
        self._held = self._found = 0
        self._meters: set[Meter] = set()
        self._samples: deque[tuple[float, int]] = deque([] if since is None else [(since, 0)])

    def expect(self, total_bytes: int | None) -> None:
        """Begin (again): nothing is done yet, *total_bytes* are to come, None where nobody knows."""
        self._total = total_bytes
        self._held = self._found = 0
        self._meters.clear()

    def held(self, count: int) -> None:
        """Count bytes that were on disk already."""
        self._held += count
        self._found += count

    @property
    def moved_bytes(self) -> int:
        """Bytes of the files that were not on disk whole when this fetch began."""
        return self._held - self._found + sum(meter.done for meter in self._meters)

    def follow(self, meter: Meter) -> None:
        """Count what *meter* counts, from now on."""
        self._meters.add(meter)

    def settle(self, meter: Meter) -> None:
        """Count the bytes of *meter* as they stand and follow it no longer."""
        if meter in self._meters:
            self._meters.remove(meter)
            self._held += meter.done

    def snapshot(self, now: float) -> ProgressReading:
        """Return how far the fetch is at *now*."""
        done = self._held + sum(meter.done for meter in self._meters)
        rate = self._rate(now, done)
        eta = max(0, self._total - done) / rate if self._total is not None and rate else None
        return ProgressReading(done, self._total, rate, eta)

    def _rate(self, now: float, done: int) -> float | None:
        samples = self._samples
        samples.append((now, done))
        while len(samples) > 2 and (samples[1][0] <= now - WINDOW_SECONDS or len(samples) > _MOST_SAMPLES):
            samples.popleft()
        then, before = samples[0]
        return max(0.0, (done - before) / (now - then)) if now > then else None
