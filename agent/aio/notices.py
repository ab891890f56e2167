"""Notices about a folder: something there may have changed. They wake, they never tell what.

watchfiles does it. Its native part looks at what the kernel queued every STEP_MS: a change is noticed
within about two steps, and each step costs some 70 µs: 0.3 CPU seconds a minute.
"""

import errno
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Protocol

from watchfiles import awatch

from agent.aio.workers import threads_are_to_be_had

STEP_MS = 15
DEBOUNCE_MS = 100  # in a storm of changes, one look so often


class Notices(Protocol):
    """Notices about some names of one folder, until it is closed."""

    @property
    def mode(self) -> str:
        """The word for this way of noticing on /status and in metrics."""
        ...

    async def wait(self) -> bool:
        """Return True soon after one of the names may have changed, False when patience has run out.

        Also True when the watch itself may have broken: whoever waits looks for himself.
        """
        ...

    async def close(self) -> None:
        """Give back what the kernel gave."""
        ...


class Watchfiles:
    """Notices by the watchfiles package; `wait` raises OSError where the system gives it no watch.

    Its native part needs a thread of its own and one of Python's, and ends the process where it gets none.
    """

    mode = "watchfiles"

    def __init__(self, folder: Path, names: Collection[str], patience_seconds: float) -> None:
        wanted = frozenset(names)
        self._began = False
        self._changes: AsyncIterator[object] = awatch(
            folder,
            watch_filter=lambda _, path: os.path.basename(path) in wanted,  # noqa: PTH119 (text, not a file)
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=max(1, int(patience_seconds * 1000)),
            yield_on_timeout=True,
            recursive=False,
        )

    async def wait(self) -> bool:
        """Return True soon after one of the names may have changed, False when patience has run out."""
        if not self._began and not threads_are_to_be_had(2):
            raise OSError(errno.EAGAIN, "no thread to watch with")
        self._began = True
        try:
            return bool(await anext(self._changes))
        except (FileNotFoundError, PermissionError):
            raise
        except (RuntimeError, OSError) as error:  # without a number where the kernel has no watch left
            raise OSError(errno.ENOSPC, "watchfiles cannot watch") from error
        except ExceptionGroup as errors:  # it runs a task group, in which a thread was not to be had
            raise OSError(errno.EAGAIN, "watchfiles cannot wait") from errors

    async def close(self) -> None:
        """End the thread that watches."""
        await self._changes.aclose()  # type: ignore[attr-defined]  # awatch is an async generator
