"""Where bytes are that a service redirects to: asked for once, and remembered while that is worth anything.

`hf://` and `oci://` share it: each range of an object would cost a request to the service otherwise.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_REMEMBERED = 4096  # about 2 KiB each
MAX_AT_ONCE = 32  # asked after
FRESH_SECONDS = 10.0  # what is refused sooner than this did not expire

L = TypeVar("L")


@dataclass(slots=True, eq=False)
class Known(Generic[L]):
    """A landing, when it was learnt, and whether it is over."""

    landing: L
    at: float
    expired: bool = False


class Landings(Generic[L]):
    """Landings by key. *old* tells, of a landing and its age in seconds, whether it has to be asked for anew.

    *dropped* is told of keys that had to make room.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        old: Callable[[L, float], bool],
        dropped: Callable[[str], object] = lambda _key: None,
    ) -> None:
        self._clock, self._old, self._dropped = clock, old, dropped
        self._known: OrderedDict[str, Known[L]] = OrderedDict()
        self._asking: dict[str, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def __contains__(self, key: str) -> bool:
        """Whether anything was ever remembered of *key*, be it over."""
        return key in self._known

    def fresh(self, known: Known[L]) -> bool:
        """Whether it is so young that a refusal is no sign of its end."""
        return self._clock() - known.at < FRESH_SECONDS

    def remember(self, key: str, landing: L) -> Known[L]:
        """Take in what was learnt of *key*."""
        known = self._known[key] = Known(landing, self._clock())
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._dropped(self._known.popitem(last=False)[0])
        return known

    async def of(self, key: str, ask: Callable[[], Awaitable[L]]) -> Known[L]:
        """Return the landing of *key*; *ask* is called where it is not known, once at a time for each key."""
        while (known := self._remembered(key)) is None and (other := self._asking.get(key)) is not None:
            await asyncio.wait((other,))
        return known or await self._asked(key, ask)

    async def _asked(self, key: str, ask: Callable[[], Awaitable[L]]) -> Known[L]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking[key] = done
        try:
            async with self._slots:
                return self.remember(key, await ask())
        finally:
            del self._asking[key]
            done.set_result(None)

    def _remembered(self, key: str) -> Known[L] | None:
        known = self._known.get(key)
        if known is None or known.expired or self._old(known.landing, self._clock() - known.at):
            return None
        return known
