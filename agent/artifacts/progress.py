"""How far a fetch is: plain counters that worker threads raise and the event loop reads at any time.

Nothing here reads a clock: `since` and `now` are the caller's, on one monotonic clock.
"""

import threading
from collections import deque

from agent.core.progress import ProgressReading

WINDOW_SECONDS = 10.0
"""The rate is that of the last ten seconds, or of all the time where that is shorter."""

_MOST_SAMPLES = 100  # of one window, however often somebody looks


class Meter:
    """The bytes of one object that are on disk; raised by any thread, lowered where bytes are thrown away."""

    __slots__ = ("_done", "_lock", "_moved")

    def __init__(self) -> None:
        self._done = self._moved = 0
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Bytes so far."""
        return self._done

    @property
    def moved(self) -> int:
        """Bytes that really came, those too that were thrown away and came again."""
        return self._moved

    def add(self, count: int) -> None:
        """Count *count* more bytes that came."""
        with self._lock:
            self._done += count
            self._moved += count

    def set(self, done: int) -> None:
        """Start again from *done*, which was on disk already."""
        with self._lock:
            self._done = done


class Progress:
    """The progress of one fetch: what was there already, and the meters of what is being moved.

    `expect`, `held` and `follow` are called by the fetch, `snapshot` by whoever wants to know, all on
    the event loop. Two fetches that share a transfer follow the same meter. The rate is that of bytes that
    come, never of bytes that were found; known from the second look on, or the first if *since* tells when
    it began.
    """

    def __init__(self, since: float | None = None) -> None:
        self._total: int | None = None
        self._held = 0
        self._came = self._mine = 0  # of meters that are followed no more: bytes that came, and those for us
        self._meters: dict[Meter, tuple[int, bool]] = {}  # what had come before, and whether we move it
        self._samples: deque[tuple[float, int]] = deque([] if since is None else [(since, 0)])

    def expect(self, total_bytes: int | None) -> None:
        """Begin (again): nothing is done yet, *total_bytes* are to come, None where nobody knows."""
        self._total = total_bytes
        for meter in list(self._meters):
            self.settle(meter)
        self._held = 0

    def held(self, count: int) -> None:
        """Count bytes that were on disk already."""
        self._held += count

    @property
    def moved_bytes(self) -> int:
        """Bytes that this fetch itself brought: neither those found on disk nor those others brought."""
        return self._mine + sum(
            meter.moved - before for meter, (before, mine) in self._meters.items() if mine
        )

    def follow(self, meter: Meter, *, mine: bool) -> None:
        """Count what *meter* counts, from now on; *mine*: this fetch is the one that moves it."""
        self._meters.setdefault(meter, (meter.moved, mine))

    def settle(self, meter: Meter) -> None:
        """Count the bytes of *meter* as they stand and follow it no longer."""
        followed = self._meters.pop(meter, None)
        if followed is not None:
            before, mine = followed
            self._held += meter.done
            self._came += meter.moved - before
            self._mine += meter.moved - before if mine else 0

    def snapshot(self, now: float) -> ProgressReading:
        """Return how far the fetch is at *now*."""
        done = self._held + sum(meter.done for meter in self._meters)
        came = self._came + sum(meter.moved - before for meter, (before, _) in self._meters.items())
        rate = self._rate(now, came)
        eta = max(0, self._total - done) / rate if self._total is not None and rate else None
        return ProgressReading(done, self._total, rate, eta)

    def _rate(self, now: float, came: int) -> float | None:
        samples = self._samples
        samples.append((now, came))
        while len(samples) > 2 and (samples[1][0] <= now - WINDOW_SECONDS or len(samples) > _MOST_SAMPLES):
            samples.popleft()
        then, before = samples[0]
        return (came - before) / (now - then) if now > then else None
