"""What one exchange is to bring: a piece of one object, and what a download of an object promises.

An exchange calls `begin`, `write` and then `finish` or `fail`, all on its own lane's thread.
"""

from dataclasses import dataclass, field
from typing import Protocol

from agent.artifacts.engine.http1 import Head
from agent.artifacts.orders import Order
from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource


@dataclass(eq=False, slots=True)
class Piece:
    """Bytes from `start` up to `stop` of an object; `stop` is None for all there is, asked without a range.

    `at` is the next byte to come. `crc` is over what came since `mark`. `stop` may be lowered while the
    piece is under way, when another connection takes over its end, but never below `taken`: bytes up to
    there are being written. A `hedged` one was silent before. `behind` are those that were asked for right
    behind it, on the same connection and for the same job.
    """

    download: "Download"
    source: HttpSource = field(repr=False)
    start: int
    stop: int | None
    tries: int = 0
    hedged: bool = False
    asked_stop: int | None = field(init=False)
    at: int = field(init=False)
    mark: int = field(init=False)
    taken: int = field(init=False)
    crc: int = 0
    began: float = 0.0
    behind: "tuple[Piece, ...]" = ()

    def __post_init__(self) -> None:
        self.at = self.mark = self.taken = self.start
        self.asked_stop = self.stop


class Crew(Protocol):
    """Who a download reports to; called on any thread, with no lock held."""

    def again(self, download: "Download", pause_seconds: float) -> None:
        """Ask for a fresh source after the pause, prepare if needed, and offer the download again."""
        ...

    def offer(self, download: "Download") -> None:
        """There may be something to `take` again."""
        ...

    def replace(self, old: "Download", new: "Download") -> None:
        """Carry on with *new*, which moves the same object in another way."""
        ...

    def done(self, download: "Download") -> None:
        """All of it is on disk and settled."""
        ...

    def failed(self, error: BaseException) -> None:
        """Give up all orders of this crew."""
        ...


class Download(Protocol):
    """One object on its way, from one or more pieces."""

    order: Order

    @property
    def signs(self) -> tuple[object, ...] | None:
        """What the answer to its one piece is known by, if that may be asked for right behind others.

        None where it has a connection to itself.
        """
        ...

    def refreshed(self, source: HttpSource, now: float) -> None:
        """Read from *source* from now on."""
        ...

    def prepare(self) -> None:
        """Make ready for `take`; may read a lot, so it runs on a thread of its own. Raises AgentError.

        After `give_up` it ends soon and leaves everything as it is.
        """
        ...

    def take(self, connections: int, now: float) -> Piece | None:
        """Return a piece that may be fetched now, None where none may. Quick; *connections* may share."""
        ...

    def last(self, piece: Piece) -> bool:
        """Whether everybody waits for pieces like this one, so that a second try is worth it."""
        ...

    def call_for_help(self, piece: Piece, now: float) -> None:
        """Offer the end of *piece* to other connections where it is slow. Asked four times a second."""
        ...

    def begin(self, piece: Piece, head: Head) -> None:
        """Judge the head of an answer with status 200 or 206. Raises AgentError, ProtocolError."""
        ...

    def write(self, piece: Piece, data: memoryview) -> bool:
        """Take the next bytes; true once the piece has all it needs. Raises AgentError."""
        ...

    def finish(self, piece: Piece) -> None:
        """The body ended as it said. Raises AgentError."""
        ...

    def fail(self, piece: Piece, error: AgentError) -> None:
        """The piece will not come; what was written of it stays where that is safe. Never raises."""
        ...

    def give_up(self) -> None:
        """Let go: nothing is begun any more, files close when the last piece has left. May block."""
        ...


def unwanted() -> AgentError:
    """What a piece fails with whose job is over."""
    return RetryableError(Reason.STORAGE_UNAVAILABLE, "no longer wanted")
