"""Daemon threads for library calls that block and may never come back (design §8.10, fault S21).

A call that hangs costs its thread and nothing else: who waits can be cancelled at once, a replacement
takes the thread's place up to `spare` times, and neither the event loop nor the end of the process waits.
"""

import asyncio
import queue
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from agent.aio.workers import start_thread
from agent.core.errors import RetryableError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    abandoned: bool = False
    delivered: bool = field(default=False)


class Daemons:
    """At most *limit* threads at work, and *spare* more in place of those that hang.

    Belongs to one event loop: all but the work itself happens on its thread. Threads are started when
    first needed.
    """

    def __init__(self, name: str, *, limit: int = 4, spare: int = 4) -> None:
        self._name = name
        self._limit = limit
        self._spare = spare
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._idle = 0
        self._started = 0
        self._closed = False

    @property
    def hanging(self) -> int:
        """How many threads are still in a call that nobody waits for any more."""
        return sum(job.abandoned for job in self._running)

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Return what `work(*args)` returns on a thread of its own, or raise what it raises.

        Raises RetryableError(ResourceExhausted) where no thread is to be had. When cancelled, returns at
        once; work that had begun goes on and its outcome is dropped, work that had not is never begun.
        Bound the time with `asyncio.timeout` around it.
        """
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = _Job(partial(copy_context().run, work, *args), loop, future)
        self._waiting.append(job)
        self._dispatch()
        try:
            return await future
        finally:
            if not job.delivered:
                self._abandon(job)

    def close(self) -> None:
        """Let idle threads end, drop what has not begun; threads that hang are left behind."""
        self._closed = True
        for job in self._waiting:
            job.future.cancel()
        self._waiting.clear()
        for _ in range(self._idle):
            self._jobs.put(None)
        self._idle = 0

    def _abandon(self, job: _Job) -> None:
        job.abandoned = True
        if job in self._waiting:
            self._waiting.remove(job)
        self._dispatch()

    def _dispatch(self) -> None:
        room = self._limit + min(self.hanging, self._spare) - len(self._running)
        while self._waiting and room > 0:
            job = self._waiting.popleft()
            if self._idle:
                self._idle -= 1
            elif not self._start_for(job):
                continue
            self._running.add(job)
            self._jobs.put(job)
            room -= 1

    def _start_for(self, job: _Job) -> bool:
        """Start one more thread; where none is to be had the job fails with the reason."""
        try:
            start_thread(partial(_work, self._jobs, self._finished), f"{self._name}-{self._started + 1}")
        except RetryableError as error:
            job.delivered = True
            if not job.future.done():
                job.future.set_exception(error)
            return False
        self._started += 1
        return True

    def _finished(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._running.discard(job)
        job.delivered = True
        if not job.future.done():
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        if self._closed or self._idle + len(self._running) >= self._limit:
            self._jobs.put(None)  # one thread less: spares go when they are free again
        else:
            self._idle += 1
        self._dispatch()


def _work(
    jobs: "queue.SimpleQueue[_Job | None]", finished: Callable[[_Job, Any, BaseException | None], None]
) -> None:
    while (job := jobs.get()) is not None:
        result, error = None, None
        try:
            result = job.work()
        except BaseException as caught:  # noqa: BLE001 - handed to the one who waits, whatever it is
            error = caught
        try:
            job.loop.call_soon_threadsafe(finished, job, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return
