"""Resident memory of the agent, and of the model server where its process can be seen.

It can with a shared process namespace, and on a laptop. psutil reads it; what the whole machine has is
never asked of psutil, since in a container it would tell the host's.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

import psutil


def own_rss_bytes() -> int:
    """Return the resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


class ServerProcess:
    """The process that listens at *url* on this machine; found once and found again if it went."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._process: psutil.Process | None = None

    def rss_bytes(self) -> int | None:
        """Return its resident bytes with those of its children; None where it cannot be seen. Blocks."""
        try:
            if self._process is None or not self._process.is_running():
                self._process = self._find()
            if self._process is None:
                return None
            family = [self._process, *self._process.children(recursive=True)]
            return sum(int(member.memory_info().rss) for member in family)
        except psutil.Error:
            self._process = None
            return None

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
