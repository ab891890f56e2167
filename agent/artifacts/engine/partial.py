"""A partial download as it is open: its file, its journal, and what is known of its bytes."""

from dataclasses import dataclass

from agent.artifacts.engine.journal import Journal
from agent.artifacts.engine.ordered import OrderedDigests
from agent.artifacts.engine.ranges import Ranges
from agent.artifacts.engine.writeback import Writeback


@dataclass(slots=True)
class Partial:
    """The open files and what is known of them; made anew when the bytes turn out worthless.

    `over`: nobody may begin anything with it. The last piece that leaves then closes the files.
    """

    descriptor: int
    journal: Journal
    algorithm: str
    writeback: Writeback
    ranges: Ranges
    probed: bool = False
    over: bool = False
    closed: bool = False
    ordered: OrderedDigests | None = None
    digests: dict[str, str] | None = None
