"""A mounted folder, and a bell whose rings can be awaited."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.demo.kubelet import Kubelet
from agent.watch import ConfigSource


class Bell:
    """Counts rings; `rung` waits for the next one after the last that was awaited."""

    def __init__(self) -> None:
        self.rings = 0
        self._event = asyncio.Event()

    def ring(self) -> None:
        self.rings += 1
        self._event.set()

    async def rung(self, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            await self._event.wait()
        self._event.clear()

    async def until(self, true, seconds: float = 5) -> None:
        """Wait, ring by ring, until *true* holds."""
        async with asyncio.timeout(seconds):
            while not true():
                await self._event.wait()
                self._event.clear()


async def eventually(true, seconds: float = 5) -> None:
    """Wait for what no bell tells of."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watched(source: ConfigSource) -> AsyncIterator[Bell]:
    """Run the watch; the ring of its start has been awaited."""
    bell = Bell()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.watch(bell.ring))
        await bell.rung()
        yield bell
        task.cancel()


@pytest.fixture
def kubelet(tmp_path):
    kubelet = Kubelet(tmp_path / "configs")
    kubelet.models([])
    return kubelet


@pytest.fixture
def source(kubelet):
    return ConfigSource(kubelet.folder, poll_seconds=30)  # so that only a notice can be in time
