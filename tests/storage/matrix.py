"""What the matrix of schemes and network faults is made of: places behind a relay, and ways to go wrong."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from agent.storage.base import StorageProvider
from tests.fakes.faulty_origin import Fault
from tests.fakes.faulty_relay import FaultyRelay

CONTENT = random.Random(3).randbytes(1_600_000)  # noqa: S311 - two requests' worth that does not repeat
OTHER = CONTENT[::-1]
SMALL = CONTENT[:3000]
MIDDLE = 1_300_000
EVERY_TIME = 40  # more answers than one fetch with its quick retries asks for


@dataclass(frozen=True)
class Trouble:
    """What the next answers to reads do. `heals`: the same fetch may come through once they are used up.

    `blind`: the bytes are others with nothing to tell it by but a checksum.
    """

    faults: tuple[Fault, ...]
    blind: bool = False
    heals: bool = True


def once(**fault: object) -> Trouble:
    return Trouble((Fault(**fault),))


def always(**fault: object) -> Trouble:
    return Trouble((Fault(**fault),) * EVERY_TIME, heals=False)


def later(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


SKEWED = {"Date": "Thu, 01 Jan 2099 00:00:00 GMT"}
TROUBLES: Mapping[str, Trouble] = {
    "cut": once(cut=1000),
    "cut in the middle": once(cut=MIDDLE),
    "cut always": always(cut=1000),
    "reset": once(reset=1000),
    "reset always": always(reset=0),
    "no answer at all": once(hang_up=True),
    "stall": once(stall=1000),
    "drip": once(drip=2000),
    "429 with Retry-After": once(status=429, headers={"Retry-After": "1"}),
    "503 with a date": once(status=503, headers={"Retry-After": later(1)}),
    "503 always": always(status=503, headers={"Retry-After": "3600"}),
    "500 once": once(status=500),
    "Range ignored": Trouble((Fault(ignore_range=True),) * EVERY_TIME),
    "wrong Content-Range": once(claim_range="bytes 7-1006/99999"),
    "wrong Content-Range always": always(claim_range="bytes 7-1006/99999"),
    "Content-Range of another total": once(claim_range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT) + 1}"),
    "too few bytes, told so": once(short=10),
    "too many bytes, told so": once(extra=10),
    "another validator": once(swap_etag=True),
    "another validator always": always(swap_etag=True),
    "no validator": once(drop_etag=True),
    "a bit flipped": Trouble((Fault(flip=700),) * EVERY_TIME, blind=True, heals=False),
    "a bit flipped once": Trouble((Fault(flip=700),), blind=True),
    "bytes from elsewhere": Trouble((Fault(shift=9),) * EVERY_TIME, blind=True, heals=False),
    "gzip that nobody asked for": once(encode=True),
    "gzip always": always(encode=True),
    "chunked": once(chunked=True),
    "redirect in a circle": always(status=302, headers={"Location": "/model"}),
    "redirect to http": always(status=301, headers={"Location": "http://127.0.0.1:9/model"}),
    "credentials expired": once(status=403),
    "credentials gone": always(status=401),
    "clock skew": Trouble((Fault(headers=SKEWED),) * EVERY_TIME),
    "clock skew and throttled": once(status=503, headers={**SKEWED, "Retry-After": later(1)}),
}


@dataclass(frozen=True)
class Place:
    """A model of one scheme behind a relay, under a script's name; `put` and `remove` go past the relay.

    `checked`: the service tells a checksum of each object.
    """

    uri: str
    name: str
    relay: FaultyRelay
    provider: StorageProvider
    put: Callable[[str, bytes], object]
    remove: Callable[[str], object]
    checked: bool
    folder: bool = True

    async def fill(self) -> dict[str, bytes]:
        """Put the model there; return its files."""
        files = {"model.bin": CONTENT} | ({"deep/small.bin": SMALL} if self.folder else {})
        for path, each in files.items():
            await asyncio.to_thread(self.put, path, each)
        return files
