"""Orders for the engine's tests, settled as the fetch settles them, and the bytes they are about."""

import hashlib
import random
from collections import Counter
from pathlib import Path

from agent.artifacts.digests import strongest
from agent.artifacts.engine.settings import MIB, EngineSettings
from agent.artifacts.fetch import judge
from agent.artifacts.orders import Order
from agent.artifacts.progress import Meter
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import RemoteObject
from tests.fakes.faulty_origin import FaultyOrigin
from tests.fakes.origin_provider import OriginProvider

LARGE = random.Random(7).randbytes(20 * MIB + 12345)  # noqa: S311 - bytes that do not repeat
SMALL = LARGE[:70_001]
FAST = EngineSettings(stall_seconds=1.0, slow_seconds=2.0)


class Orders:
    """Orders of objects of an origin into a folder, settled as the fetch settles them."""

    def __init__(self, origin: FaultyOrigin, folder: Path, **provider):
        self.origin, self.folder = origin, folder
        self.provider = OriginProvider(origin, **provider)
        self.meters: dict[str, Meter] = {}
        self.proofs: dict[str, str] = {}
        self.settled: Counter[str] = Counter()

    async def of(self, *paths: str) -> list[Order]:
        return [
            self.order((await self.provider.resolve(self.origin.url + path)).objects[0]) for path in paths
        ]

    def order(self, obj: RemoteObject) -> Order:
        name = hashlib.sha256(obj.identity.encode()).hexdigest()[:16]
        partial, journal = self.folder / f"part-{name}", self.folder / f"journal-{name}"

        def settle(moved):
            problem, proof = judge(obj, moved)
            self.settled[obj.key] += 1
            if problem:
                partial.unlink()
                journal.unlink(missing_ok=True)
                raise RetryableError(Reason.INTEGRITY_MISMATCH, problem)
            journal.unlink(missing_ok=True)
            self.proofs[obj.key] = f"{proof} {strongest(moved.digests)}"
            partial.rename(self.folder / obj.path)

        meter = self.meters[obj.key] = Meter()

        async def source():
            return await self.provider.source(obj)

        want = frozenset() if obj.pinned else frozenset({"sha256"})
        return Order(obj, source, partial, journal, meter, settle, want)

    def read(self, path: str) -> bytes:
        return (self.folder / path.rpartition("/")[2]).read_bytes()

    def litter(self) -> list[str]:
        return [each.name for each in self.folder.iterdir() if each.name.startswith(("part", "journal"))]
