"""The threads behind `asyncio.to_thread`, all started at once: handing them work never fails for want of one.

An executor that starts its threads when they are needed raises in the middle of whatever asked, where the
container has reached its limit of processes (fault K19).
"""

import asyncio
import threading
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


def no_thread() -> RetryableError:
    """Return what is said where the system gives no thread."""
    return RetryableError(
        Reason.RESOURCE_EXHAUSTED,
        "the system gives no more threads; raise the limit of processes (pids.max, ulimit -u)",
    )
