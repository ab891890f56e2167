"""Objects that come by no HTTP request of ours: files of this machine, and readers of a library.

Each is moved on a daemon thread, a few at once, and checked like any other. A library that does not come
back costs its thread, and after a while nothing else (fault S21).
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from agent.artifacts.digests import SEEN_FIRST, Digests, needed
from agent.artifacts.engine.settings import LIBRARY_PIECE_BYTES
from agent.artifacts.engine.streamed import write_all
from agent.artifacts.engine.throttle import Throttle
from agent.artifacts.errors import disk_errors
from agent.artifacts.localfile import copy_file, open_fresh
from agent.artifacts.orders import Moved, Order
from agent.artifacts.retries import patiently
from agent.artifacts.threads import Threads
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import FileSource, ReaderSource, Source

AT_ONCE = 4
AGAIN_SECONDS = 60.0
"""How long to leave a library alone that hangs: each try may cost another thread."""


class LocalMoves:
    """Moves files and reads through libraries; a library gets *patience_seconds* for each of its pieces."""

    def __init__(self, threads: Threads, throttle: Throttle | None, patience_seconds: float) -> None:
        self._threads, self._throttle, self._patience_seconds = threads, throttle, patience_seconds
        self._slots = {kind: asyncio.Semaphore(AT_ONCE) for kind in (FileSource, ReaderSource)}

    async def move(self, order: Order, source: Source) -> None:
        """Bring all of *order* to disk and settle it."""
        first: list[Source] = [source]

        async def attempt() -> None:
            await self._attempt(order, first.pop() if first else await order.source())

        async with self._slots[FileSource if isinstance(source, FileSource) else ReaderSource]:
            await patiently(attempt)

    async def _attempt(self, order: Order, source: Source) -> None:
        cancelled = threading.Event()
        order.meter.set(0)
        match source:
            case FileSource():
                copy = lambda: _file(order, source, cancelled, self._throttle)  # noqa: E731 - one line below
                await self._threads.run(copy, abort=cancelled.set)
            case ReaderSource():
                turns = _Turns()
                read = partial(_library, order, source, cancelled, self._throttle, turns)
                async with self._turning(turns, order.obj.path):
                    moved = await self._threads.run(read, abort=cancelled.set)
                if await source.recheck() != order.obj.identity:
                    raise RetryableError(
                        Reason.SNAPSHOT_CHANGED, f"{order.obj.path} changed while it was read"
                    )
                await self._threads.run(lambda: order.settle(moved))
            case _:
                raise RetryableError(Reason.STORAGE_ERROR, "storage changed the way to read an object")

    @asynccontextmanager
    async def _turning(self, turns: "_Turns", path: str) -> AsyncIterator[None]:
        """Give up with StorageTimeout where the reading does not get on for as long as patience lasts."""
        loop, seen = asyncio.get_running_loop(), turns.count
        ticking: asyncio.TimerHandle
        try:
            async with asyncio.timeout(self._patience_seconds) as limit:

                def look() -> None:
                    nonlocal seen, ticking
                    if turns.count != seen:
                        seen = turns.count
                        limit.reschedule(loop.time() + self._patience_seconds)
                    ticking = loop.call_later(self._patience_seconds / 4, look)

                ticking = loop.call_later(self._patience_seconds / 4, look)
                try:
                    yield
                finally:
                    ticking.cancel()
        except TimeoutError:
            raise RetryableError(
                Reason.STORAGE_TIMEOUT,
                f"the library that reads {path} brought nothing for {self._patience_seconds:.0f} s; "
                "its call is left behind",
                retry_after_seconds=AGAIN_SECONDS,
            ) from None


@dataclass(slots=True)
class _Turns:
    """How often a reading has got on: a piece came, or its bandwidth was waited for."""

    count: int = 0


def _file(order: Order, source: FileSource, cancelled: threading.Event, throttle: Throttle | None) -> None:
    want = needed(order.want, order.obj.checksums)
    pay = partial(_pay, throttle=throttle, cancelled=cancelled, turns=_Turns())
    moved = copy_file(source.open, order.partial, order.meter, cancelled, want, pay)
    if not cancelled.is_set():
        order.settle(moved)


def _library(
    order: Order,
    source: ReaderSource,
    cancelled: threading.Event,
    throttle: Throttle | None,
    turns: _Turns,
) -> Moved:
    digests = Digests(needed(order.want, order.obj.checksums) or SEEN_FIRST)
    size, at = order.obj.size, 0
    with disk_errors("writing a download", need_bytes=size, volume=order.partial.parent):
        descriptor = open_fresh(order.partial)
    try:
        while not cancelled.is_set() and (size is None or at < size):
            stop = at + LIBRARY_PIECE_BYTES if size is None else min(at + LIBRARY_PIECE_BYTES, size)
            piece = source.read(at, stop)
            turns.count += 1
            if not piece or cancelled.is_set():
                break
            with disk_errors("writing a download", need_bytes=len(piece), volume=order.partial.parent):
                write_all(descriptor, memoryview(piece), at)
            digests.update(memoryview(piece))
            at += len(piece)
            order.meter.add(len(piece))
            _pay(len(piece), throttle, cancelled, turns)
    finally:
        os.close(descriptor)
    return Moved(at, digests.result())


def _pay(count: int, throttle: Throttle | None, cancelled: threading.Event, turns: _Turns) -> None:
    """Wait until what was read fits the bandwidth limit."""
    while throttle is not None and count > 0 and not cancelled.is_set():
        granted = throttle.take(count)
        count -= granted
        turns.count += 1
        if not granted:
            cancelled.wait(throttle.pause_seconds)
