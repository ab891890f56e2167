"""What one reading of the model server after the other says of it: up, down, restarted, and what it holds.

A name missing once may be a glitch; missing twice, or after a refused connection, the server has lost it.
It restarted if it refused a connection, or lost all that a reading had confirmed (design §8.6): one name
that somebody took away, or silence that ends with everything still there, is no restart (fault M14). One
reading that failed stops new loads; two in a row, and nothing is called ready any more.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from agent.core.model import ModelName

FAILURES_UNTIL_DOWN = 2


@dataclass(frozen=True, slots=True)
class Presence:
    """The server as last confirmed. `restarts` counts how often it was found to have restarted.

    `known` is what a reading had confirmed before anything was doubted, kept through silence; `refused`
    says that nobody listened there since the last answer.
    """

    up: bool = False
    loaded: frozenset[ModelName] = frozenset()
    moving: frozenset[ModelName] = frozenset()
    doubted: frozenset[ModelName] = frozenset()
    failures: int = 0
    restarts: int = 0
    known: frozenset[ModelName] = frozenset()
    refused: bool = False


def after_reading(
    before: Presence,
    *,
    ready: bool,
    loaded: frozenset[ModelName],
    moving: frozenset[ModelName],
    busy: Collection[ModelName],
) -> Presence:
    """Return the presence after the server answered. What it says of *busy* names waits for the outcome."""
    running = frozenset(busy)
    listed = (loaded - running) | (before.loaded & running)
    missing = before.loaded - listed
    lost = missing if before.refused else missing & before.doubted
    doubted = missing - lost
    known = before.known - running
    forgot = bool(known) and not doubted and known.isdisjoint(listed)
    return Presence(
        up=ready,
        loaded=listed | doubted,
        moving=moving - running,
        doubted=doubted,
        restarts=before.restarts + (before.refused or forgot),
        known=before.known if doubted else listed,
    )


def after_silence(before: Presence, *, refused: bool = False) -> Presence:
    """Return the presence after the server did not answer a reading; *refused*: nobody listens there."""
    failures = before.failures + 1
    down = failures >= FAILURES_UNTIL_DOWN
    return Presence(
        up=False,
        loaded=frozenset() if down else before.loaded,
        moving=frozenset() if down else before.moving,
        doubted=frozenset() if down else before.doubted,
        failures=failures,
        restarts=before.restarts,
        known=before.known,
        refused=before.refused or refused,
    )


def after_outcome(before: Presence, name: ModelName, *, loaded: bool) -> Presence:
    """Return the presence once the server confirmed that *name* is loaded, or that it is gone."""
    return replace(
        before,
        loaded=before.loaded | {name} if loaded else before.loaded - {name},
        moving=before.moving - {name},
        doubted=before.doubted - {name},
        known=before.known if loaded else before.known - {name},
    )


def in_doubt(before: Presence, name: ModelName) -> Presence:
    """Return the presence after a load whose outcome is not known: it may go on until a reading tells."""
    return replace(before, moving=before.moving | {name})
