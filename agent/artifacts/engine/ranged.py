"""A pinned object of known size that comes in ranges, over several connections, and across restarts.

Every span of bytes is counted once: it was taken as a gap, written by one piece, recorded with its CRC.
When the spans cover the object, their CRCs combined are the object's. The lock is held for moments only,
never while the disk is asked for anything: a disk that hangs must not hang those who only look.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from agent.artifacts.crc import CRCS, combined
from agent.artifacts.digests import needed
from agent.artifacts.engine.checks import check_pins, check_range, check_whole
from agent.artifacts.engine.http1 import Head
from agent.artifacts.engine.journal import Span, open_journal
from agent.artifacts.engine.ordered import OrderedDigests
from agent.artifacts.engine.partial import Partial
from agent.artifacts.engine.patience import pause_after
from agent.artifacts.engine.pieces import Crew, Piece
from agent.artifacts.engine.ranges import Ranges
from agent.artifacts.engine.settings import BUFFER_BYTES, LARGEST_PART, SMALLEST_PART, WINDOW_BYTES
from agent.artifacts.engine.sharing import left_of, worth_sharing
from agent.artifacts.engine.streamed import EXPIRED, FRESH_SECONDS, Streamed, write_all
from agent.artifacts.engine.writeback import Writeback
from agent.artifacts.errors import disk_error, disk_errors
from agent.artifacts.orders import Moved, Order
from agent.artifacts.reserve import reserve
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_GOOD_PROGRESS = 64 << 10  # a connection that brought this much was no failure of the range


class Ranged:
    """Several exchanges bring it; see `Download`."""

    def __init__(
        self,
        order: Order,
        source: HttpSource,
        crew: Crew,
        *,
        boot: str,
        start_thread: Callable[[Callable[[], None]], None],
        now: float,
        keep_cached: Callable[[], bool] = lambda: True,
    ) -> None:
        self.order, self.source, self.size = order, source, order.obj.size or 0
        self._asked_at = now
        self._crew, self._boot, self._start_thread = crew, boot, start_thread
        self._keep_cached = keep_cached
        self._lock = threading.Lock()
        self._state: Partial | None = None
        self._told: dict[str, str] = {}
        self._restarts = 0
        self._refreshing = False
        self._whole = False  # the origin ignores ranges
        self._renewed = False
        self._given_up = self._settling = False

    @property
    def signs(self) -> None:
        """It is never asked for right behind others: its parts have a connection each."""

    def refreshed(self, source: HttpSource, now: float) -> None:
        """A new source was asked for."""
        self.source, self._asked_at, self._refreshing = source, now, False

    def prepare(self) -> None:
        """Open the partial and take over what a journal proves of it; nothing once it was given up."""
        if self._settling or (self._state is not None and not self._state.over):
            return
        state = self._opened()
        with self._lock:
            given_up = self._given_up
            if not given_up:
                self._state = state
        if given_up:
            self._shut(state)
            return
        self.order.meter.set(state.ranges.covered)
        if state.ranges.complete:
            self._start_ordered(state)
            self._conclude_if_complete(state)

    def _opened(self) -> Partial:
        order, folder = self.order, self.order.partial.parent
        with disk_errors("reserving room for a download", need_bytes=self.size, volume=folder):
            descriptor = os.open(order.partial, _FLAGS, 0o644)
            try:
                if os.fstat(descriptor).st_size != self.size:  # new, or not ours: a journal of it is void
                    order.journal.unlink(missing_ok=True)
                    os.ftruncate(descriptor, 0)
                reserve(descriptor, self.size)
                found = open_journal(
                    order.journal, descriptor, identity=order.obj.identity, size=self.size,
                    algorithm=self._composable(), boot=self._boot, stopped=lambda: self._given_up,
                )  # fmt: skip
            except BaseException:
                os.close(descriptor)
                raise
        self._told = {**found.told, **self._told}
        writeback = Writeback(descriptor, self.size, keep_cached=self._keep_cached())
        return Partial(descriptor, found.journal, found.algorithm, writeback, Ranges(self.size, found.spans))

    def take(self, connections: int, now: float) -> Piece | None:
        """Return the next part; one alone until the first answer showed what the origin can do."""
        with self._lock:
            state = self._state
            if state is None or state.over or self._refreshing or self._whole:
                return None
            if state.ranges.active and not state.probed:
                return None
            if now - self._asked_at <= FRESH_SECONDS:
                piece = self._next(state, connections, now)
                if piece is not None:
                    piece.began = now
                    state.ranges.active.add(piece)
                return piece
            self._refreshing = True
        self._crew.again(self, 0.0)
        return None

    def _next(self, state: Partial, connections: int, now: float) -> Piece | None:
        ranges = state.ranges
        if ranges.gaps:
            if state.ordered is not None and ranges.gaps[0].start > state.ordered.done + WINDOW_BYTES:
                return None
            part = min(LARGEST_PART, max(SMALLEST_PART, ranges.left() // (2 * max(1, connections))))
            gap = ranges.take(part - part % BUFFER_BYTES)
            return Piece(self, self.source, gap.start, gap.stop, gap.tries, gap.hedged)
        slow = (each for each in ranges.active if worth_sharing(each, now))
        slowest = max(slow, key=left_of, default=None)
        if slowest is None:
            return None
        middle = slowest.taken + left_of(slowest) // 2
        piece = Piece(self, self.source, middle, slowest.stop, hedged=slowest.hedged)
        slowest.stop = middle
        return piece

    def last(self, piece: Piece) -> bool:
        """Nothing is left to be handed out but what is under way."""
        with self._lock:
            state = self._state
            return state is not None and not state.ranges.gaps and piece in state.ranges.active

    def call_for_help(self, piece: Piece, now: float) -> None:
        """Offer this once more, as a queue forgets a download that had nothing to give when asked."""
        if self.last(piece) and worth_sharing(piece, now):
            self._crew.offer(self)

    def begin(self, piece: Piece, head: Head) -> None:
        """Take a 206 of the pinned version; a 200 means that there are no ranges here."""
        path = self.order.obj.path
        check_pins(piece.source.expect, head, path)
        if head.status == 200:
            check_whole(head, self.size, path)
            self._without_ranges(piece, head)
            return
        check_range(head, piece.start, piece.asked_stop or 0, self.size, path)
        told = piece.source.answers.checksums(head.headers)
        with self._lock:
            state = self._open_state()
            news = told.items() - self._told.items()
            self._told.update(told)
            first = not state.probed
        with disk_errors("writing a download", volume=self.order.partial.parent):
            if first:  # this piece is alone until `probed` is set
                self._choose(state)
            if news:
                state.journal.tell(dict(news))
        if first:
            self._start_ordered(state)
            state.probed = True
            self._crew.offer(self)

    def _without_ranges(self, piece: Piece, head: Head) -> None:
        with self._lock:
            state = self._open_state()
            alone = state.ranges.active == {piece} and piece.start == 0
            self._whole = True
            if alone:
                state.ranges.active.clear()
        if not alone:
            raise RetryableError(Reason.STORAGE_ERROR, f"{self.order.obj.path}: the range was ignored")
        self._drop(state)
        streamed = self._streamed(piece.source)
        streamed.take(1, self._asked_at)  # this answer is that piece: nobody else may take it
        self._crew.replace(self, streamed)
        piece.download, piece.stop = streamed, None
        streamed.begin(piece, head)

    def _streamed(self, source: HttpSource) -> Streamed:
        return Streamed(self.order, source, self._crew, now=self._asked_at, keep_cached=self._keep_cached)

    def write(self, piece: Piece, data: memoryview) -> bool:
        """Write at the piece's place; true where its (perhaps lowered) end is reached."""
        with self._lock:
            state = self._open_state()
            if self._whole:
                raise RetryableError(Reason.STORAGE_ERROR, f"{self.order.obj.path}: the range was ignored")
            at, stop = piece.at, piece.stop or 0
            count = min(len(data), stop - at)
            piece.taken = at + count
        if count < len(data):
            if stop == piece.asked_stop:
                raise RetryableError(
                    Reason.STORAGE_ERROR, f"{self.order.obj.path}: more bytes than asked for"
                )
            data = data[:count]
        with disk_errors("writing a download", volume=self.order.partial.parent):
            write_all(state.descriptor, data, at)
            piece.crc = CRCS[state.algorithm].calc(data, piece.crc)
            piece.at = at + count
            if piece.at - piece.at % BUFFER_BYTES > piece.mark:
                self._record(state, piece)
        self.order.meter.add(count)
        state.writeback.wrote(at, at + count)
        return piece.at >= stop

    def finish(self, piece: Piece) -> None:
        """The piece is there; the last one makes the object complete."""
        with self._lock:
            state = self._open_state()
            if piece.source is self.source:
                self._renewed = False  # what vouches for us now was let in
        with disk_errors("writing a download", volume=self.order.partial.parent):
            self._record(state, piece)
        self._leave(state, piece)
        self._conclude_if_complete(state)

    def fail(self, piece: Piece, error: AgentError) -> None:
        """Keep what came, and try the rest again unless that is hopeless."""
        if (state := self._state) is None:
            return
        try:
            self._record(state, piece)
        except OSError as trouble:
            error = disk_error(trouble, "writing a download", volume=self.order.partial.parent)
        tries = 0 if piece.at - piece.start >= _GOOD_PROGRESS else piece.tries + 1
        if not self._leave(state, piece, tries):
            return
        if self._whole:
            if not state.ranges.active:  # else the last one to leave begins again without ranges
                self._drop(state)
                self._crew.replace(self, self._streamed(self.source))
            return
        if error.reason in EXPIRED and state.probed and self._renewing(piece):
            return
        pause = pause_after(error, tries)
        if pause is None:
            self._crew.failed(error)
        else:
            self._crew.again(self, pause)

    def _renewing(self, piece: Piece) -> bool:
        """Ask anew for credentials that ran out on the way; False where new ones are refused as well.

        What else was asked for with the old ones is refused too, which is no news.
        """
        with self._lock:
            old = piece.source is not self.source
            first = not (old or self._renewed or self._refreshing)
            if first:
                self._renewed = self._refreshing = True
            renewing = self._refreshing
        if first:
            self._crew.again(self, 0.0)
        elif old:
            self._crew.offer(self)
        return renewing or old

    def give_up(self) -> None:
        """Let go of the partial and its journal; both stay for the next time. From any thread."""
        with self._lock:
            self._given_up, state = True, self._state
        if state is not None:
            self._shut(state)

    def _leave(self, state: Partial, piece: Piece, tries: int = 0) -> bool:
        """The piece is over; false where all is over."""
        with self._lock:
            state.ranges.leave(piece, tries)
            over = state.over
        if over:
            self._shut(state)
        return not over

    def _record(self, state: Partial, piece: Piece) -> None:
        """Write down what came since the last time. Raises OSError: then that is not taken as here."""
        if piece.at == piece.mark or state.over:
            return
        span = Span(piece.mark, piece.at, piece.crc)
        state.journal.append(span)
        with self._lock:
            piece.mark, piece.crc = piece.at, 0
            state.ranges.add(span)
            if state.ordered is not None:
                state.ordered.advance(state.ranges.front)

    def _composable(self) -> str:
        known = {**self._told, **self.order.obj.checksums}
        return "crc64nvme" if "crc64nvme" in known and "crc32c" not in known else "crc32c"

    def _choose(self, state: Partial) -> None:
        """The first answer may tell a checksum: have the digest that can be compared with it."""
        composable = self._composable()
        if composable != state.algorithm and not state.ranges.spans:
            state.journal.forget()
            state.algorithm = composable
            state.journal = open_journal(
                self.order.journal, state.descriptor, identity=self.order.obj.identity, size=self.size,
                algorithm=composable, boot=self._boot,
            ).journal  # fmt: skip

    def _start_ordered(self, state: Partial) -> None:
        known = {**self._told, **self.order.obj.checksums}
        algorithms = needed(self.order.want, known, self.size) - {state.algorithm}
        if not algorithms or state.ordered is not None:
            return
        ordered = OrderedDigests(state.descriptor, self.size, algorithms, lambda: self._crew.offer(self))
        try:
            self._start_thread(lambda: self._follow(state, ordered))
        except BaseException:
            ordered.close()
            raise
        with self._lock:
            state.ordered = ordered
            ordered.advance(state.ranges.front)

    def _follow(self, state: Partial, ordered: OrderedDigests) -> None:
        """Hash behind the writers; the thread of an object whose digest needs the bytes in order."""
        try:
            digests = ordered.run()
            if digests is not None:
                state.digests = digests
                self._conclude_if_complete(state)
        except OSError as error:
            self._crew.failed(disk_error(error, "reading a download back"))
        except BaseException as error:  # noqa: BLE001 - a bug: its job ends with it, instead of waiting
            self._crew.failed(error)

    def _conclude_if_complete(self, state: Partial) -> None:
        """Settle once all pieces have left and all digests are there; whoever sees it first does it."""
        with self._lock:
            hashing = state.ordered is not None and state.digests is None
            if state.over or hashing or not state.ranges.complete:
                return
            state.over = self._settling = True
        self._shut(state)
        self._conclude(state, state.digests or {})

    def _conclude(self, state: Partial, digests: dict[str, str]) -> None:
        spans = sorted(state.ranges.spans, key=lambda each: each.start)
        whole = combined(state.algorithm, ((span.crc, span.stop - span.start) for span in spans))
        try:
            self.order.settle(Moved(state.ranges.covered, {**digests, state.algorithm: whole}, self._told))
        except AgentError as error:
            self._restarts += 1
            pause = pause_after(error, self._restarts)
            if error.reason is not Reason.INTEGRITY_MISMATCH or pause is None:
                self._crew.failed(error)
                return
            with suppress(OSError):
                state.journal.forget()
            self.order.meter.set(0)
            self._settling = False
            self._crew.again(self, pause)
        else:
            self._crew.done(self)

    def _drop(self, state: Partial) -> None:
        self._shut(state)
        with suppress(OSError):
            state.journal.forget()

    def _shut(self, state: Partial) -> None:
        """Begin nothing more with *state*, and close it once nobody is at work any more."""
        with self._lock:
            state.over = True
            last = not state.closed and not state.ranges.active
            state.closed = state.closed or last
        if state.ordered is not None:
            state.ordered.stop()
        if not last:
            return
        with suppress(OSError):  # of what is not settled nothing is believed but what the journal proves
            os.close(state.descriptor)
        state.journal.close()

    def _open_state(self) -> Partial:
        if self._state is None or self._state.over:
            raise RetryableError(Reason.STORAGE_ERROR, f"{self.order.obj.path}: the download was given up")
        return self._state
