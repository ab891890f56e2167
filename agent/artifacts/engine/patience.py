"""How long to wait before asking again, and when to leave it to the planner's hold."""

from agent.artifacts.retries import QUICK_RETRIES, pause_before_retry
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason

THROTTLED_RETRIES = 6
LONGEST_WAIT_SECONDS = 30.0


def pause_after(error: AgentError, failures: int) -> float | None:
    """Return the seconds to wait after the *failures*-th failure in a row, None where it is hopeless now."""
    if not isinstance(error, RetryableError):
        return None
    if error.reason is Reason.STORAGE_THROTTLED:
        asked = throttled_seconds(error, failures)
        return None if failures > THROTTLED_RETRIES or asked > LONGEST_WAIT_SECONDS else asked
    if failures > QUICK_RETRIES:
        return None
    return pause_before_retry(error, max(0, failures - 1))


def throttled_seconds(error: RetryableError, failures: int) -> float:
    """Return how long the origin is to be left alone: what it asked for, else longer each time."""
    if error.retry_after_seconds is not None:
        return max(0.0, error.retry_after_seconds)
    return min(LONGEST_WAIT_SECONDS, 0.25 * (1 << min(failures, 7)))
