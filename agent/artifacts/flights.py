"""Single flight: who moves a blob just now, so that two fetches of one blob are one transfer.

The fetch that claims a blob moves it; the others follow its meter and take its outcome. If the owner is
cancelled or fails, whoever waits claims the blob next and goes on from the partial: nobody inherits
another one's failure.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent.artifacts.manifest import BlobId
from agent.artifacts.progress import Meter

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Flight(Generic[T]):
    """One blob on its way. `outcome` is what became of it, None where its owner gave it up."""

    blob: BlobId
    meter: Meter = field(default_factory=Meter)
    followed: bool = False
    outcome: T | None = None
    _over: bool = False
    _landed: asyncio.Event | None = None  # made for who waits: there may be thousands, and hardly one is

    async def landed(self) -> None:
        """Return once its owner is done with it."""
        if not self._over:
            self._landed = self._landed or asyncio.Event()
            await self._landed.wait()

    def land(self) -> None:
        """Wake those who wait. Twice is fine."""
        self._over = True
        if self._landed is not None:
            self._landed.set()


class Flights(Generic[T]):
    """The blobs on their way; used on one event loop, but for `arrived`."""

    def __init__(self) -> None:
        self._flying: dict[BlobId, Flight[T]] = {}

    def claim(self, blob: BlobId) -> tuple[Flight[T], bool]:
        """Return the blob's flight, and whether the caller is the one who has to fly it."""
        flying = self._flying.get(blob)
        if flying is None:
            flight = self._flying[blob] = Flight(blob)
            return flight, True
        flying.followed = True
        if flying.outcome is not None:  # `arrived` came before we were there to be told
            self.land(flying)
        return flying, False

    def flying(self, blob: BlobId) -> Flight[T] | None:
        """Return the blob's flight if there is one."""
        return self._flying.get(blob)

    def arrived(self, flight: Flight[T], outcome: T, loop: asyncio.AbstractEventLoop) -> None:
        """The blob is in the store: from any thread. Those who follow need not wait for the owner's rest."""
        flight.outcome = outcome
        if flight.followed:
            loop.call_soon_threadsafe(self.land, flight)

    def land(self, flight: Flight[T]) -> None:
        """The owner is done with it, in whatever way: wake those who wait. Twice is fine."""
        if self._flying.get(flight.blob) is flight:
            del self._flying[flight.blob]
        flight.land()
