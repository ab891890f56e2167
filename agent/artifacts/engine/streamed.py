"""An object that comes as one answer: small, of unknown size, without a validator, or without ranges.

The digests run along. What fails is begun again from nothing, so nothing is ever appended.
"""

import os
from collections.abc import Callable

from agent.artifacts.digests import SEEN_FIRST, Digests, needed
from agent.artifacts.engine.checks import check_pins, check_whole
from agent.artifacts.engine.http1 import Head, ProtocolError
from agent.artifacts.engine.patience import pause_after
from agent.artifacts.engine.pieces import Crew, Piece
from agent.artifacts.engine.settings import SMALL_BYTES, TOGETHER_BYTES
from agent.artifacts.engine.writeback import Writeback
from agent.artifacts.errors import disk_error
from agent.artifacts.orders import Moved, Order
from agent.artifacts.reserve import reserve
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource

EXPIRED = frozenset({Reason.ACCESS_DENIED, Reason.INVALID_CREDENTIALS})
"""What credentials that ran out on the way are refused with."""

FRESH_SECONDS = 60.0
"""A source that is older may be signed by what is not valid any more: it is asked for again."""

_NOTHING = Digests(())
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Streamed:
    """One exchange brings all of it; see `Download`."""

    def __init__(
        self,
        order: Order,
        source: HttpSource,
        crew: Crew,
        *,
        now: float,
        keep_cached: Callable[[], bool] = lambda: True,
    ) -> None:
        self.order, self.source, self._asked_at = order, source, now
        self._crew, self._keep_cached = crew, keep_cached
        self._taken = False
        self._let_in = self._renewed = False
        self._tries = 0
        self._descriptor: int | None = None
        self._digests = _NOTHING
        self._told: dict[str, str] = {}
        self._writeback: Writeback | None = None

    @property
    def signs(self) -> tuple[object, ...] | None:
        """Its pins and its size, if it is small and has both. Once it failed, it is asked for alone."""
        size, pins = self.order.obj.size, self.source.expect
        if self._tries or not pins or size is None or size > TOGETHER_BYTES:
            return None
        return (size, *pins.items())

    def refreshed(self, source: HttpSource, now: float) -> None:
        """Read from *source* from now on."""
        self.source, self._asked_at, self._taken = source, now, False

    def prepare(self) -> None:
        """Nothing to do: the partial is made when the first byte is there."""

    def take(self, connections: int, now: float) -> Piece | None:  # noqa: ARG002 - one piece, at any time
        """Return all of it, once."""
        if self._taken:
            return None
        self._taken = True
        if now - self._asked_at > FRESH_SECONDS:
            self._crew.again(self, 0.0)
            return None
        return Piece(self, self.source, 0, None, tries=self._tries)

    def last(self, piece: Piece) -> bool:  # noqa: ARG002 - another try would begin from nothing
        """Never worth a second connection."""
        return False

    def call_for_help(self, piece: Piece, now: float) -> None:
        """Nobody can help: there are no parts."""

    def begin(self, piece: Piece, head: Head) -> None:
        """Take only a 200 of the pinned version."""
        order = self.order
        if head.status != 200:
            raise ProtocolError("a part came where the whole was asked for")
        check_pins(piece.source.expect, head, order.obj.path)
        check_whole(head, order.obj.size, order.obj.path)
        self._let_in = True
        self._told = dict(piece.source.answers.checksums(head.headers))
        listed = order.obj.size
        algorithms = needed(order.want, {**self._told, **order.obj.checksums}, listed)
        self._digests = Digests(algorithms or SEEN_FIRST, listed)
        order.meter.set(0)
        size = listed or 0
        try:
            self._descriptor = os.open(order.partial, _FLAGS, 0o644)
            if size > SMALL_BYTES:
                reserve(self._descriptor, size)
                self._writeback = Writeback(self._descriptor, size, keep_cached=self._keep_cached())
        except OSError as error:
            folder = order.partial.parent
            raise disk_error(error, "writing a download", need_bytes=size, volume=folder) from error

    def write(self, piece: Piece, data: memoryview) -> bool:
        """Append to what came before in this same answer."""
        order, limit, count = self.order, self.order.obj.size, len(data)
        if limit is not None and piece.at + count > limit:
            raise RetryableError(
                Reason.INTEGRITY_MISMATCH, f"{order.obj.path}: more bytes came than the {limit} listed"
            )
        self._digests.update(data)
        try:
            write_all(self._descriptor, data, piece.at)
        except OSError as error:
            folder = order.partial.parent
            raise disk_error(error, "writing a download", need_bytes=count, volume=folder) from error
        piece.at += count
        order.meter.add(count)
        if self._writeback is not None:
            self._writeback.wrote(piece.at - count, piece.at)
        return False  # the answer itself says where it ends

    def finish(self, piece: Piece) -> None:
        """All of the answer is there: settle."""
        self._close()
        self.order.settle(Moved(piece.at, self._digests.result(), self._told))
        self._crew.done(self)

    def fail(self, piece: Piece, error: AgentError) -> None:
        """Begin again from nothing, or give up."""
        self._close()
        self.order.meter.set(0)
        self._tries = piece.tries + 1
        if error.reason in EXPIRED and self._let_in and not self._renewed:
            self._renewed = True  # it was let in before: the credentials ran out on the way
            self._crew.again(self, 0.0)
            return
        pause = pause_after(error, self._tries)
        if pause is None:
            self._crew.failed(error)
        else:
            self._crew.again(self, pause)

    def give_up(self) -> None:
        """Close the partial."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_all(descriptor: int | None, data: memoryview, at: int) -> None:
    """Write all of *data* at the offset. Raises OSError."""
    if descriptor is None:
        raise OSError("the partial is closed")  # a late write after giving up: the piece just fails
    count = os.pwrite(descriptor, data, at)
    while count < len(data):
        data, at = data[count:], at + count
        count = os.pwrite(descriptor, data, at)
