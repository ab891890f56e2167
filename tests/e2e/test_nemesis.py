"""A short storm of everything at once, by a seed; then all faults stop, and what is wanted is served.

Promised: convergence with no help (R4), last good stays (law 2), whole or absent (law 1), and that the
agent itself never ends.
"""

import asyncio
import random
import signal

import pytest

from tests.e2e.agent_process import until
from tests.e2e.neighbours import kept_up
from tests.e2e.rig import Rig, started
from tests.e2e.test_whole_or_absent import FILES, Watcher

NAMES = [f"m{number}" for number in range(6)]
SECONDS = 10.0


class Storm:
    """Does one thing after the other, drawn by a seed."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.done: list[str] = []
        self._draw = random.Random(seed)  # noqa: S311 - a test's dice
        self._versions = 0

    def document(self, *, bad: bool = True) -> dict[str, str]:
        """Return a set of models, each of some version, a few of them broken or nowhere."""
        chosen = [name for name in NAMES if self._draw.random() < 0.8]
        return {name: self._uri(bad=bad and self._draw.random() < 0.3) for name in chosen}

    def _uri(self, *, bad: bool) -> str:
        if bad and self._draw.random() < 0.3:
            return f"file://{self.rig.folder}/source/nowhere"
        version = "broken" if bad else f"version {self._draw.randrange(8)}"
        folder = self.rig.folder / "source" / version.replace(" ", "-")
        if not folder.exists():
            folder.mkdir(parents=True)
            for number in range(FILES):
                (folder / f"part-{number}").write_text(version)
        return f"file://{folder}"

    async def blow(self) -> None:
        edits, agent = [self._edit] * 3 + [self._spoil], [self._kill_agent, self._stop_agent, self._pause]
        acts = [*edits, *agent, self._hup, self._kill_server, self._forget, self._slow]
        loop = asyncio.get_running_loop()
        end = loop.time() + SECONDS
        while loop.time() < end:
            act = self._draw.choice(acts)
            self.done.append(act.__name__)
            await act()
            await asyncio.sleep(self._draw.random() * 0.5)  # the storm's own pace

    async def _edit(self) -> None:
        self.rig.want(**self.document())

    async def _spoil(self) -> None:
        self.rig.mount(self._draw.choice([b"", b"null", b"[{", b"{}"]))

    async def _kill_agent(self) -> None:
        await self.rig.agent.restart(kill=True)

    async def _stop_agent(self) -> None:
        code, seconds = await self.rig.agent.terminate()
        assert (code, seconds < 2) == (0, True), self.done
        await self.rig.agent.start()

    async def _kill_server(self) -> None:
        if self.rig.server.running:
            self.rig.server._signal_group(signal.SIGKILL)

    async def _forget(self) -> None:
        await self._tell(lambda: self.rig.forget(self._draw.choice(NAMES)))

    async def _slow(self) -> None:
        seconds = self._draw.choice([0.0, 0.1, 0.5])
        await self._tell(lambda: self.rig.faults(load_seconds=seconds, drop=self._draw.choice(["", "m1"])))

    async def _pause(self) -> None:
        self.rig.agent.signal(signal.SIGSTOP)
        await asyncio.sleep(0.3)
        self.rig.agent.signal(signal.SIGCONT)

    async def _hup(self) -> None:
        self.rig.agent.signal(signal.SIGHUP)

    async def _tell(self, tell) -> None:
        try:
            await tell()
        except OSError:
            self.done.append("(the server is down)")


@pytest.mark.parametrize(
    ("seed", "dialect", "beside"),
    [
        (1, "kserve", False),
        (2, "triton", True),
        *(pytest.param(seed, "kserve", seed % 2 == 0, marks=pytest.mark.soak) for seed in range(3, 23)),
        *(pytest.param(seed, "triton", seed % 2 == 0, marks=pytest.mark.soak) for seed in range(23, 33)),
    ],
)
async def test_when_the_storm_is_over_what_is_wanted_is_served(tmp_path, seed, dialect, beside):
    flags = {"allowed-roots": tmp_path / "source", "resync-interval": "2s"}
    (tmp_path / "source").mkdir()
    inside = "1" if dialect == "triton" else ""
    async with started(tmp_path, dialect=dialect, beside=beside, flags=flags) as rig:
        with Watcher(rig.model_dir, only_models=beside, inside=inside) as watcher:
            storm = Storm(rig, seed)
            async with kept_up(rig.server) as codes:
                await storm.blow()
                await until(lambda: rig.server.running)
                await rig.server.healthy()
                await rig.faults(drop="", load_seconds=0.0)
                wanted = storm.document(bad=False)
                rig.want(**wanted)
                rig.agent.signal(signal.SIGHUP)
                await rig.settled(*wanted, seconds=90)
                for name, uri in wanted.items():
                    await rig.serves(name, uri.rpartition("/")[2].replace("-", " "))
        assert watcher.faults == [], storm.done
        assert set(codes) <= {-signal.SIGKILL}, (codes, storm.done)
        assert (await rig.stats())["models"] == sorted(wanted), (storm.done, rig.agent.said())
        assert rig.directories() == set(wanted)
        assert "Traceback" not in rig.agent.said()
