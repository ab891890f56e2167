"""One model's orders on their way through the engine: feeds the pool, retries, and knows when it is over.

Lives on the event loop; what it promises as a `Crew` may be called on any thread.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from agent.artifacts.engine.dial import Route, route_of
from agent.artifacts.engine.pieces import Download
from agent.artifacts.engine.pool import Job, Pool
from agent.artifacts.engine.ranged import Ranged
from agent.artifacts.engine.settings import SMALL_BYTES
from agent.artifacts.engine.streamed import Streamed
from agent.artifacts.orders import Order
from agent.artifacts.retries import patiently
from agent.artifacts.threads import Threads
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource, Source

_BACKLOG = 128
"""So many downloads are ready or under way at once; sources are asked for only shortly before."""

_AHEAD = 8
"""So many sources of large objects are asked for at once: some ask the service for a checksum first."""

_GRACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Tools:
    """What a crew works with; the engine's own."""

    pool: Pool
    threads: Threads
    break_off: Callable[[Job], None]
    move_locally: Callable[[Order, Source], Awaitable[None]]
    boot: str
    keep_cached: Callable[[], bool]
    clock: Callable[[], float]


class OrderCrew:
    """Carries out the orders of one call of `Engine.move`."""

    def __init__(self, orders: Sequence[Order], tools: Tools) -> None:
        self._orders, self._tools = orders, tools
        self._loop = asyncio.get_running_loop()
        self.job = self._job = Job()
        self._left = len(orders)
        self._lock = threading.Lock()
        self._moving: dict[Download, Route] = {}
        self._local = 0
        self._ranged = 0
        self._starved = False
        self._error: BaseException | None = None
        self._over = asyncio.Event()
        self._idle = asyncio.Event()
        self._room = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._job.idle = lambda: self._post(self._idle.set)
        self._job.fail = self.failed
        self.total_bytes = sum(order.obj.size or 0 for order in orders)

    async def run(self) -> None:
        """Move all; raises the first failure. When cancelled, lets go within a second."""
        self._tools.pool.add(self._job)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                feeder = group.create_task(self._feed(), name="feed")
                await self._over.wait()
                if self._error is not None:
                    raise self._error
                feeder.cancel()
        finally:
            self._group = None
            await self._let_go()

    async def _let_go(self) -> None:
        tools, job = self._tools, self._job
        tools.pool.remove(job)
        if job.writing:
            tools.break_off(job)
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    while job.writing:
                        self._idle.clear()
                        if job.writing:
                            await self._idle.wait()
        hangs = bool(job.writing)
        left = list(self._moving)
        with suppress(TimeoutError, AgentError):  # closing and removing may hang too
            async with asyncio.timeout(_GRACE_SECONDS):
                await tools.threads.run(lambda: _give_up(left, hangs=hangs))

    async def _feed(self) -> None:
        ahead = Ahead(self._orders, self._tools.clock)
        for number, order in enumerate(self._orders):
            while self._load >= _BACKLOG:
                self._room.clear()
                self._starved = True
                if self._load >= _BACKLOG:
                    await self._room.wait()
            source, asked_at = await ahead.source(number, self._group)
            if isinstance(source, HttpSource):
                await self._begin(order, source, asked_at)
            elif self._group is not None:
                self._local += 1
                self._group.create_task(self._locally(order, source), name="local")

    @property
    def _load(self) -> int:
        """How full the backlog is: a large object has two files open, so it counts for eight small ones."""
        return len(self._moving) + 7 * self._ranged + self._local

    async def _begin(self, order: Order, source: HttpSource, asked_at: float) -> None:
        route, size = route_of(source), order.obj.size
        if size is None or size <= SMALL_BYTES or not order.obj.pinned:
            download: Download = Streamed(
                order, source, self, now=asked_at, keep_cached=self._tools.keep_cached
            )
            self._moving[download] = route
        else:
            tools = self._tools
            download = Ranged(
                order, source, self, boot=tools.boot, start_thread=tools.threads.start, now=asked_at,
                keep_cached=tools.keep_cached,
            )  # fmt: skip
            self._moving[download] = route
            self._ranged += 1
            await tools.threads.run(download.prepare, abort=partial(self._abort, download))
        self._tools.pool.offer(self._job, route, download)
        if not self._tools.pool.saturated(self._job):
            self._tools.pool.pump()

    def _abort(self, download: Download) -> None:
        """Make `prepare` end soon, from the loop: what may block is done by another thread."""
        with suppress(AgentError):
            self._tools.threads.start(download.give_up)

    async def _locally(self, order: Order, source: Source) -> None:
        await self._tools.move_locally(order, source)
        self._local -= 1
        self._count()

    async def _once_more(self, download: Download, pause_seconds: float) -> None:
        await asyncio.sleep(pause_seconds)
        if download not in self._moving:
            return  # another piece's pause was shorter, and all of it came meanwhile
        source = await patiently(download.order.source)
        if not isinstance(source, HttpSource):
            raise RetryableError(Reason.STORAGE_ERROR, "storage changed the way to read an object")
        download.refreshed(source, self._tools.clock())
        await self._tools.threads.run(download.prepare, abort=partial(self._abort, download))
        if download in self._moving:
            self._moving[download] = route_of(source)
            self.offer(download)

    # The promises of `Crew`, from any thread.

    def again(self, download: Download, pause_seconds: float) -> None:
        """See `Crew`."""
        self._post(lambda: self._spawn(download, pause_seconds))

    def offer(self, download: Download) -> None:
        """See `Crew`."""
        route = self._moving.get(download)
        if route is not None:
            self._tools.pool.offer(self._job, route, download)
            self._tools.pool.pump()

    def replace(self, old: Download, new: Download) -> None:
        """See `Crew`."""
        route = self._moving.pop(old, None)
        if route is not None:
            self._moving[new] = route
            with self._lock:
                self._ranged -= 1
            self.offer(new)

    def done(self, download: Download) -> None:
        """See `Crew`."""
        if self._moving.pop(download, None) is not None and isinstance(download, Ranged):
            with self._lock:
                self._ranged -= 1
        self._count()

    def moves(self, download: Download) -> bool:
        """Whether it is one of ours and not done. From any thread."""
        return download in self._moving

    def failed(self, error: BaseException) -> None:
        """See `Crew`."""
        self._post(lambda: self._fail(error))

    def _count(self) -> None:
        with self._lock:
            self._left -= 1
            left = self._left
        if not left:
            self._post(self._over.set)
        elif self._starved and self._load <= _BACKLOG * 3 // 4:
            self._starved = False
            self._post(self._room.set)

    def _fail(self, error: BaseException) -> None:
        if self._error is None and not self._over.is_set():
            self._error = error
        self._over.set()

    def _spawn(self, download: Download, pause_seconds: float) -> None:
        if self._group is not None and not self._over.is_set():
            self._group.create_task(self._retried(download, pause_seconds), name="again")

    async def _retried(self, download: Download, pause_seconds: float) -> None:
        try:
            await self._once_more(download, pause_seconds)
        except AgentError as error:
            self._fail(error)

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call)


class Ahead:
    """Asks for the sources of the next few large objects while the first of them are moved already."""

    def __init__(self, orders: Sequence[Order], clock: Callable[[], float]) -> None:
        self._orders, self._clock = orders, clock
        self._asked: dict[int, asyncio.Task[tuple[Source, float]]] = {}
        self._next = 0

    async def source(self, number: int, group: asyncio.TaskGroup | None) -> tuple[Source, float]:
        """Return the source of that order, and when it was asked for. Call it for each, in order."""
        self._next = max(self._next, number + 1)
        last = min(number + _BACKLOG, len(self._orders))
        while group is not None and self._next < last and len(self._asked) < _AHEAD:
            if (self._orders[self._next].obj.size or 0) > SMALL_BYTES:  # a small one costs less than a task
                asking = group.create_task(self._ask(self._orders[self._next]), name="source")
                self._asked[self._next] = asking
            self._next += 1
        asked = self._asked.pop(number, None)
        return await (asked if asked is not None else self._ask(self._orders[number]))

    async def _ask(self, order: Order) -> tuple[Source, float]:
        asked_at = self._clock()
        return await patiently(order.source), asked_at


def _give_up(downloads: Sequence[Download], *, hangs: bool) -> None:
    for download in downloads:
        if hangs:  # a thread hangs in the disk: what it still writes must never be taken for a partial
            download.order.partial.unlink(missing_ok=True)
            download.order.journal.unlink(missing_ok=True)
        download.give_up()
