"""Which parents are to be looked at, and when.

Many rings are one look, and no parent is looked at twice at once.
"""

import asyncio
import random
from collections.abc import Callable

from agent.kube.resources import Key

_LONGEST_PAUSE = 60.0


class Queue:
    """Keys with the time each is due; the earliest wish wins.

    After a look the next one of the same key comes no sooner than after *rest_seconds*, and after what the
    look took, so that one busy parent leaves half of the time to the others.
    """

    def __init__(self, rest_seconds: float = 0.1) -> None:
        self._rest_seconds = rest_seconds
        self._due: dict[Key, float] = {}
        self._free_at: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._busy: set[Key] = set()
        self._news = asyncio.Event()

    def ring(self, key: Key, after_seconds: float = 0.0) -> None:
        """Have *key* looked at, at the latest after so many seconds."""
        at = self._now() + after_seconds
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            self._news.set()

    def failed(self, key: Key, first_pause: float, retry_after_seconds: float | None) -> None:
        """Have *key* looked at again after a pause that doubles from the first, or the one asked for."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(first_pause * 2 ** (failures - 1), _LONGEST_PAUSE)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self.ring(key, retry_after_seconds if retry_after_seconds is not None else pause * jitter)

    def failures(self, key: Key) -> int:
        """Return how often *key* failed since it last succeeded."""
        return self._failures.get(key, 0)

    def succeeded(self, key: Key) -> None:
        """Forget earlier failures of *key*."""
        self._failures.pop(key, None)

    @property
    def quiet(self) -> bool:
        """Tell whether nothing is being looked at and nothing is due now."""
        now = self._now()
        return not self._busy and all(at > now for at in self._due.values())

    async def take(self) -> Key:
        """Return the next key that is due and not being looked at; call `done` with it afterwards."""
        while True:
            now = self._now()
            waiting = {key: at for key, at in self._due.items() if key not in self._busy}
            ready = {key: max(at, self._free_at.get(key, 0.0)) for key, at in waiting.items()}
            key = min(ready, key=lambda item: ready[item], default=None)
            if key is not None and ready[key] <= now:
                del self._due[key]
                self._busy.add(key)
                return key
            self._news.clear()
            try:
                async with asyncio.timeout(None if key is None else ready[key] - now):
                    await self._news.wait()
            except TimeoutError:
                pass

    def done(self, key: Key, took_seconds: float) -> None:
        """End a look."""
        self._busy.discard(key)
        self._free_at[key] = self._now() + max(self._rest_seconds, took_seconds)
        self._news.set()

    def drop(self, known: Callable[[Key], bool]) -> None:
        """Forget what is remembered of keys that are not known any more."""
        for kept in (self._free_at, self._failures):
            for key in [key for key in kept if not known(key)]:
                del kept[key]

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
