"""Descriptors kept back for the status port: it answers when the models have taken all others (fault D7).

What the kernel refuses for want of a descriptor is tried again with one of these set free. They are taken
back as soon as there are some again; another thread may be quicker than we are, so there are several.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

KEPT_BACK = 16
"""Half for connections: two probes, a scraper, some people. Half for the files that an answer needs (a
token), and for those that a thread was quicker for."""


def is_exhausted(error: OSError) -> bool:
    """Tell whether there was no descriptor to be had."""
    return error.errno in {errno.EMFILE, errno.ENFILE}


class Spare:
    """Some descriptors that nobody else gets."""

    def __init__(self, most: int = KEPT_BACK) -> None:
        self._most = most
        self._kept: list[int] = []
        self.take_back()

    @property
    def scarce(self) -> bool:
        """Whether half of them or more are given away."""
        return len(self._kept) <= self._most // 2

    def used_for(self, work: Callable[[], T]) -> T:
        """Return what *work* returns; where it gets no descriptor one of ours is its. From any thread.

        Raises the OSError of *work* where all of ours are given away.
        """
        while True:
            try:
                return work()
            except OSError as error:
                if not is_exhausted(error) or not self._give():
                    raise

    def take_back(self) -> None:
        """Keep back again what was given away, as far as there is any."""
        while len(self._kept) < self._most:
            try:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def _give(self) -> bool:
        try:
            os.close(self._kept.pop())
        except IndexError:
            return False
        return True


class Listener(socket.socket):
    """A listening socket whose new connections may have the spare descriptors.

    Where half of those are given away, *crowded* makes room among who is connected already; it tells
    whether there was anybody.
    """

    def __init__(self, bound: socket.socket, spare: Spare, crowded: Callable[[], bool]) -> None:
        super().__init__(fileno=os.dup(bound.fileno()))
        self._spare, self._crowded = spare, crowded

        self._poll = select.poll()
        self._poll.register(self, select.POLLIN)

    def accept(self) -> tuple[socket.socket, object]:
        """Accept as any socket does; BlockingIOError where nobody waits, or the next try has room for it.

        Who waits is asked first: without a descriptor the kernel's accept does not tell.
        """
        if not self._poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, "nobody waits")
        self._spare.take_back()
        if self._spare.scarce:
            self._crowded()  # its descriptor is there when the loop has turned
        try:
            return self._spare.used_for(super().accept)
        except OSError as error:
            if is_exhausted(error) and self._crowded():
                raise BlockingIOError(errno.EAGAIN, "room is being made") from error
            raise
