"""Resident memory of the agent, and of the model server where its process can be seen.

It can with a shared process namespace, and on a laptop. psutil reads it; what the whole machine has is
never asked of psutil, since in a container it would tell the host's.
"""

import errno
import os
from collections.abc import Callable
from urllib.parse import urlsplit

import psutil

from agent.core.errors import RetryableError
from agent.core.reasons import Reason

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def own_rss_bytes() -> int | None:
    """Return the resident bytes of this process, None where /proc hides them. Blocks.

    Raises RetryableError(ResourceExhausted) where there is no descriptor to read them by.
    """
    return _read(lambda: int(psutil.Process().memory_info().rss))


def _read(read: Callable[[], int | None]) -> int | None:
    """Take a process that cannot be seen for none; psutil raises the system's own errors beside its own."""
    try:
        return read()
    except psutil.Error:
        return None
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            return None
        why = os.strerror(error.errno)
        raise RetryableError(
            Reason.RESOURCE_EXHAUSTED, f"reading memory in use: {why}; raise the limit (ulimit -n, memory)"
        ) from error


class ServerProcess:
    """The process that listens at *url* on this machine; found once and found again if it went."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._process: psutil.Process | None = None

    def rss_bytes(self) -> int | None:
        """Return its resident bytes with those of its children; None where it cannot be seen. Blocks.

        Raises RetryableError(ResourceExhausted) as `own_rss_bytes` does.
        """
        return _read(self._family_rss)

    def _family_rss(self) -> int | None:
        process, self._process = self._process, None  # looked for again if anything goes wrong
        if process is None or not process.is_running():
            process = self._find()
        if process is None:
            return None
        family = [process, *process.children(recursive=True)]
        rss = sum(int(member.memory_info().rss) for member in family)
        self._process = process
        return rss

    def _find(self) -> psutil.Process | None:
        port = _port(self._url())
        if port is None:
            return None
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            listens = connection.status == psutil.CONN_LISTEN
            if listens and address and address.port == port and connection.pid:
                return psutil.Process(connection.pid)
        return None


def _port(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
            return None
        return parts.port or {"http": 80, "https": 443}[parts.scheme]
    except ValueError:
        return None
