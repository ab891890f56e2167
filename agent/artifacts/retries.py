"""Two quick retries of a storage request inside an attempt; everything slower is the planner's hold."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason

QUICK_RETRIES = 2
_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0
_NEVER_QUICKLY = frozenset(
    {
        Reason.SNAPSHOT_CHANGED,  # the listing is stale: list again first
        Reason.DISK_FULL,
        Reason.DISK_BUDGET_EXCEEDED,
        Reason.DISK_ERROR,
        Reason.READ_ONLY_VOLUME,
        Reason.RESOURCE_EXHAUSTED,
    }
)

T = TypeVar("T")


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Return what *step* returns, trying it up to three times where that may help at once."""
    for tried in range(QUICK_RETRIES):
        try:
            return await step()
        except RetryableError as error:
            pause = pause_before_retry(error, tried)
            if pause is None:
                raise
        await asyncio.sleep(pause)
    return await step()


def pause_before_retry(error: RetryableError, tried: int) -> float | None:
    """Return the seconds to wait before the next quick try, None where a quick one is no use."""
    if error.reason in _NEVER_QUICKLY:
        return None
    asked = error.retry_after_seconds or 0.0
    if asked > _LONGEST_PAUSE_SECONDS:
        return None
    jitter = random.random()  # noqa: S311 - spreads requests, hides nothing
    return max(asked, _PAUSE_SECONDS * (1 << tried) * (0.5 + jitter))


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that matters most: a bug, else one of ours, else a cancellation."""
    leaves = list(_leaves(errors))
    ours = [error for error in leaves if isinstance(error, AgentError)]
    bugs = [error for error in leaves if not isinstance(error, AgentError | asyncio.CancelledError)]
    return (bugs or ours or leaves)[0]


def _leaves(errors: BaseExceptionGroup[BaseException]) -> "list[BaseException]":
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
