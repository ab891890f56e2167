"""What one reading of the model server after the other says of it: up, down, restarted, and what it holds.

A name missing once may be a glitch; missing twice, or after the server did not answer, the server has
lost it (design §8.6). One reading that failed stops new loads; two in a row, and nothing is called
ready any more.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from agent.core.model import ModelName

FAILURES_UNTIL_DOWN = 2


@dataclass(frozen=True, slots=True)
class Presence:
    """The server as last confirmed. `restarts` counts how often it lost models it had confirmed."""

    up: bool = False
    loaded: frozenset[ModelName] = frozenset()
    moving: frozenset[ModelName] = frozenset()
    doubted: frozenset[ModelName] = frozenset()
    failures: int = 0
    restarts: int = 0


def after_reading(
    before: Presence,
    *,
    ready: bool,
    loaded: frozenset[ModelName],
    moving: frozenset[ModelName],
    busy: Collection[ModelName],
) -> Presence:
    """Return the presence after the server answered. What it says of *busy* names waits for the outcome."""
    held = before.loaded & frozenset(busy)
    listed = (loaded - frozenset(busy)) | held
    missing = before.loaded - listed
    lost = missing if before.failures else missing & before.doubted
    return Presence(
        up=ready,
        loaded=listed | (missing - lost),
        moving=moving - frozenset(busy),
        doubted=missing - lost,
        restarts=before.restarts + bool(lost or (before.failures >= FAILURES_UNTIL_DOWN)),
    )


def after_silence(before: Presence) -> Presence:
    """Return the presence after the server did not answer a reading."""
    failures = before.failures + 1
    down = failures >= FAILURES_UNTIL_DOWN
    return Presence(
        up=False,
        loaded=frozenset() if down else before.loaded,
        moving=frozenset() if down else before.moving,
        failures=failures,
        restarts=before.restarts,
    )


def after_outcome(before: Presence, name: ModelName, *, loaded: bool) -> Presence:
    """Return the presence once the server confirmed that *name* is loaded, or that it is gone."""
    names = before.loaded | {name} if loaded else before.loaded - {name}
    return Presence(
        before.up, names, before.moving - {name}, before.doubted - {name}, before.failures, before.restarts
    )


def in_doubt(before: Presence, name: ModelName) -> Presence:
    """Return the presence after a load whose outcome is not known: it may go on until a reading tells."""
    return replace(before, moving=before.moving | {name})
