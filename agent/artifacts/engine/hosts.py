"""The addresses of hosts: nobody waits longer than ten seconds, whatever the system's resolver does (S13).

The resolver cannot be stopped, and may hang for minutes where a name server says nothing. So it runs on a
daemon thread, one for a host at a time: all who want that host wait for the same answer, the next ones too,
and an answer is good for a few seconds.
"""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any

from agent.aio.workers import start_thread

PATIENCE_SECONDS = 10.0
KEPT_SECONDS = 5.0
AT_ONCE = 16
"""Lookups that may run or hang at a time; the engine dials no more than that at a time by default."""

Found = list[Any]
Lookup = Callable[[str, int], Found]


def ask_system(host: str, port: int) -> Found:
    """Return what the system's resolver says; raises OSError or UnicodeError as it does."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@dataclass(eq=False, slots=True)
class _Question:
    answered: threading.Event = field(default_factory=threading.Event)
    found: Found = field(default_factory=list)
    failure: OSError | UnicodeError | None = None
    good_until: float = 0.0


class Hosts:
    """Asks *lookup* for the addresses of hosts; safe from any thread."""

    def __init__(
        self,
        lookup: Lookup = ask_system,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup, self._clock = lookup, clock
        self._patience_seconds, self._kept_seconds = patience_seconds, kept_seconds
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._questions: dict[tuple[str, int], _Question] = {}

    def addresses(self, host: str, port: int) -> Found:
        """Return the addresses of *host* as `socket.getaddrinfo` does. Blocks.

        Raises OSError and UnicodeError as that does, TimeoutError where no answer comes in time, and
        RetryableError(ResourceExhausted) where no thread is to be had to ask on.
        """
        if _is_number(host):
            return self._lookup(host, port)
        deadline = self._clock() + self._patience_seconds
        question = self._question(host, port, deadline)
        if not question.answered.wait(max(0.0, deadline - self._clock())):
            raise TimeoutError(_SILENT)
        if question.failure is not None:
            raise question.failure
        return question.found

    def _question(self, host: str, port: int, deadline: float) -> _Question:
        """Return the question that runs for *host*, or was answered lately; ask it where there is none."""
        if (question := self._asked(host, port)) is not None:
            return question
        if not self._room.acquire(timeout=max(0.0, deadline - self._clock())):
            raise TimeoutError(_SILENT)
        with self._lock:
            question = self._questions.get((host, port))
            if question is not None and self._counts(question):
                self._room.release()
                return question
            question = self._questions[host, port] = _Question()
        try:
            start_thread(partial(self._ask, host, port, question), "name")
        except BaseException:
            self._room.release()
            with self._lock:
                del self._questions[host, port]
            raise
        return question

    def _asked(self, host: str, port: int) -> _Question | None:
        with self._lock:
            self._questions = {key: each for key, each in self._questions.items() if self._counts(each)}
            return self._questions.get((host, port))

    def _counts(self, question: _Question) -> bool:
        return not question.answered.is_set() or self._clock() < question.good_until

    def _ask(self, host: str, port: int, question: _Question) -> None:
        try:
            question.found = self._lookup(host, port)
            question.good_until = self._clock() + self._kept_seconds
        except (OSError, UnicodeError) as error:
            question.failure = error
        finally:
            question.answered.set()
            self._room.release()


_SILENT = "no name server answered"


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
