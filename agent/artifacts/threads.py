"""Daemon threads for work that may hang: never the event loop's executor (design §8.10).

A thread that hangs keeps neither the loop nor the end of the process; whoever is cancelled waits for it
at most `GRACE_SECONDS`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from agent.core.errors import RetryableError
from agent.core.reasons import Reason

GRACE_SECONDS = 0.4
"""How long a cancelled caller waits for its thread to let go: cancel has to be done within a second."""

T = TypeVar("T")


class Threads:
    """A growing pool of named daemon threads; the caller bounds how much runs at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._owed = 0
        self._threads = 0
        self._closed = False
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """How many threads are still in work that nobody waits for any more. On the event loop."""
        return self._hanging

    async def run(self, work: Callable[[], T], *, abort: Callable[[], None] | None = None) -> T:
        """Run *work* on a thread and return what it returns, or raise what it raises.

        When cancelled, call *abort* (which must make *work* return soon and must not block), wait a
        moment for the thread, and go; *work* may then still be running if it hangs in the kernel.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(_retrieve)
        self.start(lambda: _call(work, loop, future))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if abort is not None:
                abort()
            await asyncio.wait([future], timeout=GRACE_SECONDS)
            if not future.done():
                self._hanging += 1
                future.add_done_callback(self._came_back)
            raise

    def _came_back(self, _: object) -> None:
        self._hanging -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end after their work."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def start(self, job: Callable[[], None]) -> None:
        """Run *job* on a thread; it must not raise.

        Raises RetryableError: StorageUnavailable once closed, ResourceExhausted if there can be no thread.
        """
        with self._lock:
            if self._closed:
                raise RetryableError(Reason.STORAGE_UNAVAILABLE, "the agent is stopping")
            self._jobs.put(job)
            if self._idle:
                self._idle -= 1
                return
            thread = threading.Thread(
                target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                if self._threads:
                    self._owed += 1  # the next that is free takes it
                    return
                self._jobs.get_nowait()
                raise RetryableError(
                    Reason.RESOURCE_EXHAUSTED,
                    "no thread can be started; raise the limit on processes (pids.max, ulimit -u)",
                ) from error
            self._threads += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                if self._owed:
                    self._owed -= 1
                else:
                    self._idle += 1


def _call(work: Callable[[], T], loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]") -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - handed to the one who waits, whatever it is
        _post(loop, _fail, future, error)
    else:
        _post(loop, _succeed, future, result)


def _post(loop: asyncio.AbstractEventLoop, deliver: Callable[..., None], *values: object) -> None:
    try:
        loop.call_soon_threadsafe(deliver, *values)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return


def _succeed(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[object]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _retrieve(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
