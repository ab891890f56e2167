"""Which bytes of an object are here, under way, or still to be asked for. In memory, with no lock of its own.

Every byte is in one place: in a gap, in a piece that is active, or in a span that was recorded.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from agent.artifacts.engine.journal import Span
from agent.artifacts.engine.pieces import Piece


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that nobody brings yet; `tries` and `hedged` are those of the piece that did not bring them."""

    start: int
    stop: int
    tries: int = 0
    hedged: bool = False


class Ranges:
    """The bytes of one object, from the spans that are known to be good."""

    def __init__(self, size: int, spans: Iterable[Span]) -> None:
        self.size = size
        self.spans: list[Span] = []
        self.gaps: deque[Gap] = deque()
        self.active: set[Piece] = set()
        self.front = 0
        self._ends: dict[int, int] = {}  # start → stop of spans beyond the front
        at = 0
        for span in spans:
            if span.start > at:
                self.gaps.append(Gap(at, span.start))
            at = span.stop
            self.add(span)
        if at < size:
            self.gaps.append(Gap(at, size))

    @property
    def covered(self) -> int:
        """How many bytes are recorded."""
        return sum(span.stop - span.start for span in self.spans)

    @property
    def complete(self) -> bool:
        """Nothing is to be asked for, and nobody is at work."""
        return not self.gaps and not self.active

    def add(self, span: Span) -> None:
        """Note that the bytes of *span* are recorded."""
        self.spans.append(span)
        self._ends[span.start] = span.stop
        while (stop := self._ends.pop(self.front, None)) is not None:
            self.front = stop

    def take(self, part: int) -> Gap:
        """Take about *part* bytes off the first gap."""
        gap = self.gaps.popleft()
        if gap.stop - gap.start < part * 5 // 4:
            return gap
        stop = gap.start + part
        self.gaps.appendleft(Gap(stop, gap.stop))
        return Gap(gap.start, stop, gap.tries, gap.hedged)

    def left(self) -> int:
        """Return about how many bytes nobody brings yet."""
        return sum(each.stop - each.start for each in self.gaps) if len(self.gaps) < 64 else self.size

    def leave(self, piece: Piece, tries: int = 0) -> None:
        """*piece* is over; what it did not record is to be asked for again, as tried so often."""
        if piece not in self.active:
            return
        self.active.discard(piece)
        if piece.mark < (piece.stop or 0):
            self.gaps.appendleft(Gap(piece.mark, piece.stop or 0, tries, piece.hedged))
