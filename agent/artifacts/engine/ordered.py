"""Digests that need the bytes in order, over a file that is filled in any order.

A thread follows the front of what is complete while those bytes are still in the page cache.
"""

import os
import threading
from collections.abc import Callable, Iterable

from agent.artifacts.digests import Digests

_READ = 1 << 20


class OrderedDigests:
    """Digests of the first *size* bytes of a file; `run` on a thread of its own, the rest on any."""

    def __init__(
        self, descriptor: int, size: int, algorithms: Iterable[str], moved: Callable[[], None]
    ) -> None:
        self._descriptor, self._size = os.dup(descriptor), size
        self._digests = Digests(algorithms, size)
        self._moved = moved
        self._changed = threading.Condition()
        self._front = 0
        self._stopped = False
        self.done = 0

    def advance(self, front: int) -> None:
        """All bytes up to *front* are on disk."""
        with self._changed:
            self._front = front
            self._changed.notify()

    def stop(self) -> None:
        """Make `run` return soon."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def close(self) -> None:
        """Give it up before `run` was ever called."""
        os.close(self._descriptor)

    def run(self) -> dict[str, str] | None:
        """Return the digests once all bytes were seen, None if stopped. Call it once. Raises OSError."""
        try:
            return self._run()
        finally:
            os.close(self._descriptor)

    def _run(self) -> dict[str, str] | None:
        buffer = memoryview(bytearray(_READ))
        told = 0
        while self.done < self._size:
            with self._changed:
                while self._front <= self.done and not self._stopped:
                    self._changed.wait()
                front = self._front
                if self._stopped:
                    return None
            while self.done < front and not self._stopped:
                count = os.preadv(self._descriptor, [buffer[: front - self.done]], self.done)
                if not count:
                    raise OSError("a partial got shorter while it was read")
                self._digests.update(buffer[:count])
                self.done += count
            if self.done - told >= 16 * _READ:
                told = self.done
                self._moved()
        return self._digests.result()
