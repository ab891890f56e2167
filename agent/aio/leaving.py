"""The end of the process: code and last words are out, and nothing that hangs on a thread keeps it.

`asyncio.run` would wait for the threads of its executor, and the interpreter for all others; a sync on a
dead disk or a hung mount never comes back (design §8.10, fault D8).
"""

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from agent.core.errors import AgentError

log = logging.getLogger("agent")


def run_and_leave(main: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run *main* on an event loop and end the process with its code, 1 where it could not start."""
    asyncio.run(_run(main))
    raise AssertionError("the process has ended")


async def _run(main: Callable[[], Awaitable[int]]) -> NoReturn:
    code = 1
    try:
        code = await main()
    except OSError as error:
        log.error("cannot start", extra=said_of(error))  # noqa: TRY400 - a user's mistake has no traceback
    except AgentError as error:
        fields = {"reason": error.reason, "message_": error.message}
        log.error("cannot start", extra=fields)  # noqa: TRY400 - told in words
    except Exception:  # noqa: BLE001 - a bug: whatever it is, it must not leave a process that hangs
        sys.excepthook(*sys.exc_info())
    leave(code)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Have the first SIGTERM or SIGINT set *stop*; the second ends the process at once, with 1."""

    def told() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)


def said_of(error: OSError) -> dict[str, str]:
    """Return what a line says of what the system refused: what, where, and what next."""
    said = {"error": error.strerror or str(error)}
    if error.filename is not None:
        said["path"] = str(error.filename)
    if error.errno == errno.EADDRINUSE:
        said["next"] = "end what listens there, or name another port"
    return said


def leave(code: int) -> NoReturn:
    """End the process now, after what was logged and printed is out."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
