"""Monotonic moments as Unix time: one moment is shown alike, until somebody sets the clock, then rightly."""

from collections.abc import Callable

STEP_SECONDS = 0.5  # less is the clocks' drift and the time between two readings


class UnixTime:
    """Turns a moment of *now* (monotonic seconds) into one of *wall* (Unix seconds)."""

    def __init__(self, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now, self._wall = now, wall
        self._offset = wall() - now()

    def __call__(self, moment: float) -> float:
        """Return Unix seconds by the clock as it is set now."""
        offset = self._wall() - self._now()
        if abs(offset - self._offset) >= STEP_SECONDS:
            self._offset = offset
        return moment + self._offset
