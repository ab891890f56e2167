"""A pinned object of known size that comes in ranges, over several connections, and across restarts.

Every span of bytes is counted once: it was taken as a gap, written by one piece, recorded with its CRC.
When the spans cover the object, their CRCs combined are the object's.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from agent.artifacts.crc import CRCS, combined
from agent.artifacts.digests import needed
from agent.artifacts.engine.checks import check_pins, check_range, check_whole
from agent.artifacts.engine.http1 import Head
from agent.artifacts.engine.journal import Journal, Span, open_journal
from agent.artifacts.engine.ordered import OrderedDigests
from agent.artifacts.engine.patience import pause_after
from agent.artifacts.engine.pieces import Crew, Piece
from agent.artifacts.engine.settings import JOURNAL_BYTES, LARGEST_PART, SMALLEST_PART, WINDOW_BYTES
from agent.artifacts.engine.sharing import left_of, worth_sharing
from agent.artifacts.engine.streamed import Streamed, write_all
from agent.artifacts.engine.writeback import Writeback
from agent.artifacts.errors import disk_error, disk_errors
from agent.artifacts.orders import Moved, Order
from agent.artifacts.reserve import reserve
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH_SECONDS = 60.0  # a signed source is asked for again after a minute
_GOOD_PROGRESS = 64 << 10  # a connection that brought this much was no failure of the range

_EXPIRED = frozenset({Reason.ACCESS_DENIED, Reason.INVALID_CREDENTIALS})


@dataclass(frozen=True, slots=True)
class _Gap:
    start: int
    stop: int
    tries: int = 0
    hedged: bool = False


@dataclass(slots=True)
class _State:
    """What is known of the bytes; made anew when they turn out worthless."""

    descriptor: int
    journal: Journal
    algorithm: str
    writeback: Writeback
    spans: list[Span]
    gaps: deque[_Gap] = field(default_factory=deque)
    active: set[Piece] = field(default_factory=set)
    ends: dict[int, int] = field(default_factory=dict)  # start → stop of spans beyond the front
    front: int = 0
    probed: bool = False


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
    ) -> None:
        self.order, self.source, self.size = order, source, order.obj.size or 0
        self._asked_at = now
        self._crew, self._boot, self._start_thread = crew, boot, start_thread
        self._lock = threading.Lock()
        self._state: _State | None = None
        self._ordered: OrderedDigests | None = None
        self._told: dict[str, str] = {}
        self._restarts = 0
        self._refreshing = False
        self._whole = False  # the origin ignores ranges
        self._renewed = False

    def refreshed(self, source: HttpSource, now: float) -> None:
        """A new source was asked for."""
        self.source, self._asked_at, self._refreshing = source, now, False

    def prepare(self) -> None:
        """Open the partial and take over what a journal proves of it."""
        if self._state is not None:
            return
        order, folder = self.order, self.order.partial.parent
        algorithm = self._composable()
        with disk_errors("reserving room for a download", need_bytes=self.size, volume=folder):
            descriptor = os.open(order.partial, _FLAGS, 0o644)
            try:
                if os.fstat(descriptor).st_size != self.size:  # new, or not ours: a journal of it is void
                    order.journal.unlink(missing_ok=True)
                    os.ftruncate(descriptor, 0)
                reserve(descriptor, self.size)
                journal, spans = open_journal(
                    order.journal, descriptor, identity=order.obj.identity, size=self.size,
                    algorithm=algorithm, boot=self._boot,
                )  # fmt: skip
            except OSError:
                os.close(descriptor)
                raise
        state = _State(descriptor, journal, algorithm, Writeback(descriptor, self.size), spans)
        at = 0
        for span in spans:
            if span.start > at:
                state.gaps.append(_Gap(at, span.start))
            at = span.stop
            self._advance(state, span)
        if at < self.size:
            state.gaps.append(_Gap(at, self.size))
        order.meter.set(sum(span.stop - span.start for span in spans))
        self._state = state
        if not state.gaps:
            self._complete(state)

    def take(self, connections: int, now: float) -> Piece | None:
        """Return the next part; one alone until the first answer showed what the origin can do."""
        with self._lock:
            state = self._state
            if state is None or self._refreshing or self._whole or (state.active and not state.probed):
                return None
            if now - self._asked_at > _FRESH_SECONDS:
                self._refreshing = True
            elif state.gaps:
                return self._take_gap(state, connections, now)
            else:
                return self._share(state, now)
        self._crew.again(self, 0.0)
        return None

    def _take_gap(self, state: _State, connections: int, now: float) -> Piece | None:
        gap = state.gaps[0]
        if self._ordered is not None and gap.start > self._ordered.done + WINDOW_BYTES:
            return None
        left = sum(each.stop - each.start for each in state.gaps) if len(state.gaps) < 64 else self.size
        part = min(LARGEST_PART, max(SMALLEST_PART, left // (2 * max(1, connections))))
        state.gaps.popleft()
        stop = gap.stop if gap.stop - gap.start < part * 5 // 4 else gap.start + part
        if stop < gap.stop:
            state.gaps.appendleft(_Gap(stop, gap.stop))
        piece = Piece(self, self.source, gap.start, stop, gap.tries, gap.hedged)
        piece.began = now
        state.active.add(piece)
        return piece

    def _share(self, state: _State, now: float) -> Piece | None:
        """Take over the end of the slow piece that has furthest to go."""
        slow = (each for each in state.active if worth_sharing(each, now))
        slowest = max(slow, key=left_of, default=None)
        if slowest is None:
            return None
        middle = slowest.taken + left_of(slowest) // 2
        piece = Piece(self, self.source, middle, slowest.stop, hedged=slowest.hedged)
        piece.began = now
        slowest.stop = middle
        state.active.add(piece)
        return piece

    def last(self, piece: Piece) -> bool:
        """Nothing is left to be handed out but what is under way."""
        with self._lock:
            return self._state is not None and not self._state.gaps and piece in self._state.active

    def call_for_help(self, piece: Piece, now: float) -> None:
        """Offer this once more, as a queue forgets a download that had nothing to give when asked."""
        with self._lock:
            state = self._state
            slow = state is not None and not state.gaps and worth_sharing(piece, now)
        if slow:
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
            self._told.update(told)
            first, state.probed = not state.probed, True
            if first:
                self._choose(state)
        if first:
            self._crew.offer(self)

    def _without_ranges(self, piece: Piece, head: Head) -> None:
        with self._lock:
            state = self._open_state()
            alone = state.active == {piece} and piece.start == 0
            self._whole = True
        if not alone:
            raise RetryableError(Reason.STORAGE_ERROR, f"{self.order.obj.path}: the range was ignored")
        self._drop(state)
        streamed = Streamed(self.order, piece.source, self._crew)
        streamed.take(1, 0.0)  # this answer is that piece: nobody else may take it
        self._crew.replace(self, streamed)
        piece.download, piece.stop = streamed, None
        streamed.begin(piece, head)

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
        try:
            write_all(state.descriptor, data, at)
            piece.crc = CRCS[state.algorithm].calc(data, piece.crc)
            piece.at = at + count
            if piece.at - piece.mark >= JOURNAL_BYTES:
                self._record(state, piece)
        except OSError as error:
            raise disk_error(error, "writing a download", volume=self.order.partial.parent) from error
        self.order.meter.add(count)
        state.writeback.wrote(at, at + count)
        return piece.at >= stop

    def finish(self, piece: Piece) -> None:
        """The piece is there; the last one makes the object complete."""
        with disk_errors("writing a download", volume=self.order.partial.parent):
            self._leave(piece)
        with self._lock:
            state = self._state
            complete = state is not None and not state.gaps and not state.active
        if state is not None and complete:
            self._complete(state)

    def fail(self, piece: Piece, error: AgentError) -> None:
        """Keep what came, and try the rest again unless that is hopeless."""
        try:
            self._leave(piece)
        except OSError as trouble:
            error = disk_error(trouble, "writing a download", volume=self.order.partial.parent)
        with self._lock:
            state = self._state
            if state is None:
                return
            tries = 0 if piece.at - piece.start >= _GOOD_PROGRESS else piece.tries + 1
            if piece.at < (piece.stop or 0):
                state.gaps.appendleft(_Gap(piece.at, piece.stop or 0, tries, piece.hedged))
            whole = self._whole and not state.active
            waits = self._whole and bool(state.active)
        if waits:
            return  # the last one to leave begins again without ranges
        if whole:
            self._drop(state)
            self._crew.replace(self, Streamed(self.order, self.source, self._crew))
            return
        if error.reason in _EXPIRED and state.probed and not self._renewed:
            self._renewed = True  # it was let in before: the credentials ran out on the way
            self._crew.again(self, 0.0)
            return
        pause = pause_after(error, tries)
        if pause is None:
            self._crew.failed(error)
        else:
            self._crew.again(self, pause)

    def give_up(self) -> None:
        """Close the partial and its journal; both stay for the next time."""
        if (state := self._state) is not None:
            self._close(state)

    def _leave(self, piece: Piece) -> None:
        with self._lock:
            if (state := self._state) is not None:
                state.active.discard(piece)
                if piece.at > piece.mark:
                    self._record(state, piece, locked=True)

    def _record(self, state: _State, piece: Piece, *, locked: bool = False) -> None:
        span = Span(piece.mark, piece.at, piece.crc)
        piece.mark, piece.crc = piece.at, 0
        if not locked:
            with self._lock:
                self._add(state, span)
            return
        self._add(state, span)

    def _add(self, state: _State, span: Span) -> None:
        state.journal.append(span)
        state.spans.append(span)
        self._advance(state, span)

    def _advance(self, state: _State, span: Span) -> None:
        state.ends[span.start] = span.stop
        before = state.front
        while (stop := state.ends.pop(state.front, None)) is not None:
            state.front = stop
        if self._ordered is not None and state.front > before:
            self._ordered.advance(state.front)

    def _composable(self) -> str:
        known = {**self._told, **self.order.obj.checksums}
        return "crc64nvme" if "crc64nvme" in known and "crc32c" not in known else "crc32c"

    def _choose(self, state: _State) -> None:
        """The first answer may tell a checksum: have the digest that can be compared with it."""
        composable = self._composable()
        if composable != state.algorithm and not state.spans:
            state.journal.forget()
            state.algorithm = composable
            state.journal = open_journal(
                self.order.journal, state.descriptor, identity=self.order.obj.identity, size=self.size,
                algorithm=composable, boot=self._boot,
            )[0]  # fmt: skip
        self._start_ordered(state)

    def _start_ordered(self, state: _State) -> None:
        algorithms = needed(self.order.want, {**self._told, **self.order.obj.checksums}) - {state.algorithm}
        if not algorithms or self._ordered is not None:
            return
        ordered = self._ordered = OrderedDigests(
            state.descriptor, self.size, algorithms, lambda: self._crew.offer(self)
        )
        ordered.advance(state.front)
        self._start_thread(lambda: self._follow(state, ordered))

    def _follow(self, state: _State, ordered: OrderedDigests) -> None:
        """Hash behind the writers; the thread of an object whose digest needs the bytes in order."""
        try:
            digests = ordered.run()
            if digests is not None:
                self._conclude(state, digests)
        except OSError as error:
            self._crew.failed(disk_error(error, "reading a download back"))

    def _complete(self, state: _State) -> None:
        with self._lock:
            self._start_ordered(state)
        if self._ordered is None:
            self._conclude(state, {})

    def _conclude(self, state: _State, digests: dict[str, str]) -> None:
        spans = sorted(state.spans, key=lambda each: each.start)
        whole = combined(state.algorithm, ((span.crc, span.stop - span.start) for span in spans))
        covered = sum(span.stop - span.start for span in spans)
        self._ordered = None
        self._drop(state)  # the journal goes first: it must never speak of a partial that came after
        try:
            self.order.settle(Moved(covered, {**digests, state.algorithm: whole}, self._told))
        except AgentError as error:
            self._restarts += 1
            pause = pause_after(error, self._restarts)
            if error.reason is not Reason.INTEGRITY_MISMATCH or pause is None:
                self._crew.failed(error)
                return
            self.order.meter.set(0)
            self._crew.again(self, pause)
        else:
            self._crew.done(self)

    def _drop(self, state: _State) -> None:
        self._close(state)
        with suppress(OSError):
            state.journal.forget()

    def _close(self, state: _State) -> None:
        with self._lock:
            if self._state is not state:
                return
            self._state = None
            if self._ordered is not None:
                self._ordered.stop()
            os.close(state.descriptor)
            state.journal.close()

    def _open_state(self) -> _State:
        if self._state is None:
            raise RetryableError(Reason.STORAGE_ERROR, f"{self.order.obj.path}: the download was given up")
        return self._state
