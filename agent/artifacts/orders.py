"""What the fetch asks of whoever moves bytes: one order an object, one answer when all of it is on disk.

A mover puts exactly the object's bytes into `partial`, says how many they were and what they hash to, and
judges only what it alone can see (statuses, ranges, pinned headers). Whether the bytes are the right ones
is decided in `settle`, for every kind of source alike.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.artifacts.progress import Meter
from agent.storage.base import HttpSource, RemoteObject, Source


@dataclass(frozen=True, slots=True)
class Moved:
    """All bytes of an object are in its partial.

    `digests`  what was computed over all of them: algorithm to lower-case hex.
    `told`     what the service said of the whole object in its answers, as in `RemoteObject.checksums`.
    """

    size: int
    digests: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """Bring one object to `partial`.

    `source` is asked on the event loop, again for each request. `settle` is called once, on a worker
    thread, when everything is there; it raises where the bytes are not to be trusted, and then the
    partial is thrown away. `want` names the digests to compute whatever the service tells.
    """

    obj: RemoteObject
    source: Callable[[], Awaitable[Source]]
    partial: Path
    journal: Path
    meter: Meter
    settle: Callable[[Moved], None]
    want: frozenset[str] = frozenset()


class Mover(Protocol):
    """Moves the bytes of objects to disk."""

    async def move(self, orders: Sequence[Order]) -> None:
        """Carry out all *orders*, several at once; return when each is settled.

        The first that fails for good stops the others and is raised (RetryableError, TerminalError).
        When cancelled, returns within a second; what remains on disk is the partial and its journal.
        """
        ...

    def close(self) -> None:
        """Stop everything and give back connections; does not wait for a thread that hangs."""
        ...


def carrying(
    headers: Mapping[str, str], source: Callable[[], Awaitable[Source]]
) -> Callable[[], Awaitable[Source]]:
    """Return *source* with *headers* on its requests too; they are not signed, so a signature stays good."""

    async def carried() -> Source:
        found = await source()
        if not isinstance(found, HttpSource):
            return found
        given = {name.lower() for name in found.headers}
        fresh = {name: value for name, value in headers.items() if name not in given}
        return replace(found, headers={**found.headers, **fresh})

    return carried if headers else source


def judge(obj: RemoteObject, moved: Moved) -> tuple[str | None, str]:
    """Say what is wrong with the bytes of *moved*, None where nothing is, and what proves them.

    Pure. Each checksum that is both known and computed must agree.
    """
    if obj.size is not None and moved.size != obj.size:
        return f"{moved.size} bytes came where {obj.size} were listed", "seen-first"
    proof = "seen-first"
    for known in (obj.checksums, moved.told):
        for algorithm, value in known.items():
            computed = moved.digests.get(algorithm)
            if computed is None:
                continue
            if computed != value.lower():
                return f"its {algorithm} is {computed}, the storage says {value.lower()}", "seen-first"
            proof = "provider"
    return None, proof
