"""Threads that may hang cost their caller nothing but themselves."""

import asyncio
import subprocess
import sys
import threading

import pytest

from agent.aio.threads import Daemons


@pytest.fixture
def daemons():
    daemons = Daemons("test", limit=2, spare=2)
    yield daemons
    daemons.close()


class Hang:
    """Work that stays in the call until it is released."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self._release = threading.Event()

    def __call__(self):
        self._loop.call_soon_threadsafe(self.begun.set)
        self._release.wait(30)
        return "late"

    def release(self):
        self._release.set()


async def abandon(daemons):
    """Start work that hangs, and stop waiting for it."""
    hang = Hang()
    task = asyncio.ensure_future(daemons.run(hang))
    await hang.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return hang


async def drained(daemons):
    """Wait until nothing hangs any more."""
    while daemons.hanging:
        await daemons.run(int)


async def test_results_and_errors_come_back(daemons):
    assert await daemons.run(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await daemons.run(divmod, 7, 0)


async def test_work_is_done_on_daemon_threads_that_are_used_again(daemons):
    seen = {await daemons.run(threading.current_thread) for _ in range(20)}
    assert len(seen) <= 2
    assert all(thread.daemon for thread in seen)


async def test_no_more_than_the_limit_work_at_once(daemons):
    now, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(2, timeout=10)

    def work():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait()
        with lock:
            now -= 1

    await asyncio.gather(*(daemons.run(work) for _ in range(10)))
    assert most == 2


async def test_a_hanging_call_is_left_at_once_and_another_thread_takes_its_place(daemons):
    hanging = [await abandon(daemons) for _ in range(3)]  # more than the limit
    assert daemons.hanging == 3
    assert await daemons.run(str, 1) == "1"
    for hang in hanging:
        hang.release()
    await drained(daemons)


async def test_when_limit_and_spares_hang_callers_wait_and_can_still_leave(daemons):
    hanging = [await abandon(daemons) for _ in range(4)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await daemons.run(str, 1)
    waiting = asyncio.ensure_future(daemons.run(str, 2))
    hanging[0].release()
    assert await waiting == "2"
    for hang in hanging:
        hang.release()
    await drained(daemons)


async def test_work_that_was_not_begun_is_never_begun_once_cancelled(daemons):
    hanging = [Hang(), Hang()]
    blocked = [asyncio.ensure_future(daemons.run(hang)) for hang in hanging]
    for hang in hanging:
        await hang.begun.wait()
    done = []
    queued = asyncio.ensure_future(daemons.run(done.append, 1))
    await asyncio.sleep(0)
    queued.cancel()
    for hang in hanging:
        hang.release()
    assert await asyncio.gather(*blocked) == ["late", "late"]
    assert await daemons.run(len, done) == 0


async def test_closing_cancels_what_waits_and_refuses_more(daemons):
    hanging = [await abandon(daemons) for _ in range(4)]
    waiting = asyncio.ensure_future(daemons.run(str, 1))
    await asyncio.sleep(0)
    daemons.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError):
        await daemons.run(str, 1)
    for hang in hanging:
        hang.release()


def test_a_process_ends_while_a_call_hangs():
    script = (
        "import asyncio, time\n"
        "from agent.aio.threads import Daemons\n"
        "async def main():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.05): await Daemons('t').run(time.sleep, 60)\n"
        "    except TimeoutError: print('left')\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert ended.stdout == "left\n"
