"""The threads behind `asyncio.to_thread`, all started at once: handing them work never fails for want of one.

An executor that starts its threads when they are needed raises in the middle of whatever asked, where the
container has reached its limit of processes (fault K19).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent.core.errors import RetryableError
from agent.core.reasons import Reason

COUNT = 12


def start_workers(loop: asyncio.AbstractEventLoop, count: int = COUNT) -> None:
    """Give *loop* its executor. Raises RetryableError(ResourceExhausted) if no thread is to be had."""
    executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix="worker")
    together = threading.Event()
    try:
        for _ in range(count):
            executor.submit(together.wait)
    except RuntimeError as error:
        raise no_thread() from error
    finally:
        together.set()
    loop.set_default_executor(executor)


def start_thread(work: Callable[[], None], name: str) -> None:
    """Start a daemon thread. Raises RetryableError(ResourceExhausted) if none is to be had."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise no_thread() from error


def threads_are_to_be_had(count: int) -> bool:
    """Tell whether *count* more threads can be started now: for libraries that end the process if not."""
    enough = threading.Event()
    try:
        for _ in range(count):
            threading.Thread(target=enough.wait, daemon=True).start()
    except RuntimeError:
        return False
    finally:
        enough.set()
    return True


def no_thread() -> RetryableError:
    """Return what is said where the system gives no thread."""
    return RetryableError(
        Reason.RESOURCE_EXHAUSTED,
        "the system gives no more threads; raise the limit of processes (pids.max, ulimit -u)",
    )
