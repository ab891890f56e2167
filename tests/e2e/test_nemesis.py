"""A storm of everything at once, by a seed; then all faults stop, and what is wanted is served.

Promised: convergence with no help (R4), last good stays (law 2), whole or absent (law 1), within budget (law
5), one order a model at a time, and that the agent itself never ends. The history is kept as JSON lines in
tests/artifacts-out. MODELAGENT_HISTORY_SECONDS makes it longer, MODELAGENT_HISTORY_SEED takes one seed alone.
"""

import asyncio
import contextlib
import gzip
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.artifacts.unpack.making import member, tar
from tests.e2e.agent_process import LOOK_SECONDS
from tests.e2e.history import History, Witness, lost, needless_ends, over_budget, overlaps, sampled
from tests.e2e.neighbours import kept_up
from tests.e2e.rig import Rig, make_rig
from tests.e2e.test_whole_or_absent import FILES, Watcher
from tests.fakes.faulty_origin import HONEST, Fault, FaultyOrigin
from tests.fakes.origin import Origin
from tests.servers import real

NAMES = [f"m{number}" for number in range(6)]
BUDGET = 6  # models of 1 MiB each; an update needs room for both
SECONDS = float(os.environ.get("MODELAGENT_HISTORY_SECONDS", "8"))
LONG_SECONDS = 120.0
SEED = os.environ.get("MODELAGENT_HISTORY_SEED")
KEPT = Path(__file__).parents[1] / "artifacts-out"
FAULTS = [
    HONEST,
    HONEST,
    Fault(cut=300),
    Fault(reset=100),
    Fault(status=503, headers={"Retry-After": "1"}),
    Fault(status=500),
    Fault(hang_up=True),
    Fault(short=7),
    Fault(flip=50),  # an archive has a checksum of its own
    Fault(encode=True),
]


class Storage:
    """An origin of versions; each is an archive of a model whose files all say the same."""

    def __init__(self, origin: FaultyOrigin, server: str) -> None:
        self.origin, self._server = origin, server

    def put(self, path: str, version: str) -> str:
        """Put a version at a path, in place of what is there; return its URI."""
        self.origin.put(f"/{path}.tar.gz", self._archive(version))
        return f"{self.origin.url}/{path}.tar.gz"

    def _archive(self, version: str) -> bytes:
        if self._server == "mlserver":
            number = version.rpartition(" ")[2]
            made = (
                real.files_of("mlserver", "m", int(number))
                if number.isdigit()
                else real.broken_files_of("mlserver", "m")
            )
        else:
            made = {f"part-{number}": version.encode() for number in range(FILES)}
        parts = [member(path.encode(), content) for path, content in made.items()]
        return gzip.compress(tar(*parts), mtime=0)


class Storm:
    """Does one thing after the other, drawn by a seed."""

    def __init__(self, rig: Rig, storage: Storage, history: History, seed: int) -> None:
        self.rig, self.storage, self.history = rig, storage, history
        self._draw = random.Random(seed)  # noqa: S311 - a test's dice
        self.want(self.document())

    def document(self, *, bad: bool = True) -> dict[str, str]:
        """Return models by name, each of some version, a few of them broken or nowhere."""
        count = self._draw.randrange(BUDGET - 1)  # the last set has to fit, with room for one update
        chosen = self._draw.sample(NAMES, count if not bad else len(NAMES) - self._draw.randrange(3))
        return {name: self._version(bad=bad and self._draw.random() < 0.3) for name in sorted(chosen)}

    def _version(self, *, bad: bool) -> str:
        if bad and self._draw.random() < 0.3:
            return "nowhere"
        return "broken" if bad else f"version {self._draw.randrange(8)}"

    def want(self, document: dict[str, str]) -> None:
        self.history.add("want", models=document)
        self.rig.want(**{name: self.uri(version) for name, version in document.items()})

    def uri(self, version: str) -> str:
        if version == "nowhere":
            return f"{self.storage.origin.url}/nowhere"
        return self.storage.put(version.replace(" ", "-"), version)

    async def blow(self, seconds: float) -> None:
        edits, agent = [self._edit] * 3 + [self._spoil], [self._kill_agent, self._stop_agent, self._pause]
        server = [self._kill_server] + ([self._forget, self._slow] if self.rig.server.name == "dummy" else [])
        acts = [*edits, *agent, *server, self._hup, *[self._fail] * 3]
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            act = self._draw.choice(acts)
            self.history.add("act", act=act.__name__.strip("_"))
            await act()
            await asyncio.sleep(self._draw.random() * 0.5)  # the storm's own pace

    async def _edit(self) -> None:
        self.want(self.document())

    async def _fail(self) -> None:
        self.storage.origin.every = self._draw.choice(FAULTS)

    async def _spoil(self) -> None:
        self.rig.mount(self._draw.choice([b"", b"null", b"[{", b"{}"]))

    async def _kill_agent(self) -> None:
        with self._away():
            await self.rig.agent.kill()
            self.history.add("agent")
            await self.rig.agent.start()

    async def _stop_agent(self) -> None:
        with self._away():
            code, seconds = await self.rig.agent.terminate()
            assert (code, seconds < 2) == (0, True)
            self.history.add("agent")
            await self.rig.agent.start()

    async def _kill_server(self) -> None:
        if self.rig.server.running:
            self.history.add("server")
            self.rig.server._signal_group(signal.SIGKILL)
            self.history.add("server")

    async def _forget(self) -> None:
        self.history.add("forget")
        await self._tell(lambda: self.rig.forget(self._draw.choice(NAMES)))
        self.history.add("forget")  # again: what was asked meanwhile may be of before

    async def _slow(self) -> None:
        seconds = self._draw.choice([0.0, 0.1, 0.5])
        await self._tell(lambda: self.rig.faults(load_seconds=seconds, drop=self._draw.choice(["", "m1"])))

    async def _pause(self) -> None:
        with self._away():
            self.rig.agent.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            self.rig.agent.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        self.history.add("away")
        yield
        self.history.add("back")

    async def _hup(self) -> None:
        self.rig.agent.signal(signal.SIGHUP)

    async def _tell(self, tell) -> None:
        with contextlib.suppress(OSError, aiohttp.ClientError):  # the server is down
            await tell()


@contextlib.asynccontextmanager
async def staged(folder, server: str, dialect: str, history: History, *, beside: bool):
    """Everything around the agent, and the agent, which speaks to its server through a witness."""
    model_dir = folder / "volume" / "models"
    model_dir.mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        origin = stack.enter_context(FaultyOrigin())
        load_all = ["--load-all"] if dialect == "kserve" else []
        starting = (
            real.mlserver(model_dir, start=False)
            if server == "mlserver"
            else real.dummy(model_dir, dialect, flags=load_all, start=False)
        )
        it = await stack.enter_async_context(starting)
        witness = await stack.enter_async_context(Witness(it.url, history).serving())
        flags = {"server-url": witness.url, "memory-budget": f"{BUDGET}Mi", "resync-interval": "2s"}
        rig = make_rig(folder, Origin(), it, dialect, beside=beside, flags=flags)
        stack.callback(rig.agent.end)
        rig.want()
        rig.agent.launch()
        await it.start()
        await rig.agent.up()
        yield rig, Storage(origin, server)


async def served_by(rig: Rig) -> set[str] | None:
    """Names that the server itself lists, None while it does not answer."""
    kserve = rig.dialect == "kserve"
    method, path = ("GET", "/v2/models") if kserve else ("POST", "/v2/repository/index")
    try:
        status, answer = await rig._server(method, path, None if kserve else {})
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
        return None
    if status != 200:
        return None
    return (
        set(answer["models"]) if kserve else {each["name"] for each in answer if each.get("state") == "READY"}
    )


CASES = [("dummy", "kserve", False, 1), ("dummy", "triton", True, 2)]
LONGER = [
    ("dummy", "kserve", True, 3, LONG_SECONDS),
    ("mlserver", "mlserver", False, 4, LONG_SECONDS),
    *(("dummy", "kserve", seed % 2 == 0, seed, 15) for seed in range(5, 13)),
    *(("dummy", "triton", seed % 2 == 0, seed, 15) for seed in range(23, 29)),
]


def cases():
    """Every case once with its own seed, all with the seed that is asked for, where one is."""
    quick = [(*case, SECONDS) for case in CASES]
    longer = [pytest.param(*case[:4], max(case[4], SECONDS), marks=pytest.mark.soak) for case in LONGER]
    if SEED is None:
        return quick + longer
    kinds = {(server, dialect): beside for server, dialect, beside, *_ in [*CASES, *LONGER]}
    return [(server, dialect, beside, int(SEED), SECONDS) for (server, dialect), beside in kinds.items()]


@pytest.mark.timeout(240 + 2 * max(SECONDS, LONG_SECONDS))
@pytest.mark.parametrize(("server", "dialect", "beside", "seed", "seconds"), cases())
async def test_when_the_storm_is_over_what_is_wanted_is_served(
    request, tmp_path, server, dialect, beside, seed, seconds
):
    print(f"seed {seed}, {seconds:.0f} s: MODELAGENT_HISTORY_SEED={seed} plays it again")
    history = History(KEPT / f"history-{server}-{dialect}-{seed}.jsonl")
    request.addfinalizer(history.close)
    looks = contextlib.nullcontext() if server == "mlserver" else None
    async with staged(tmp_path, server, dialect, history, beside=beside) as (rig, storage):
        inside = "1" if dialect == "triton" else ""
        with looks or Watcher(rig.model_dir, only_models=beside, inside=inside) as watcher:
            storm = Storm(rig, storage, history, seed)
            async with (
                kept_up(rig.server, lambda code: history.add("ended", code=code)),
                sampled(lambda: served_by(rig), history),
            ):
                await storm.blow(seconds)
                wanted = await calm(rig, storm)
        assert watcher is None or watcher.faults == []
        assert await served_by(rig) == set(wanted), rig.agent.said()
        assert rig.directories() == set(wanted)
        assert "Traceback" not in rig.agent.said()
    assert needless_ends(history.events) == []
    assert overlaps(history.events) == []
    assert over_budget(history.events, BUDGET) == []
    assert lost(history.events) == []


async def calm(rig: Rig, storm: Storm) -> dict[str, str]:
    """End all faults; return what was wanted last, once it is served, each model in its version."""
    storm.storage.origin.every = HONEST
    while await served_by(rig) is None:  # kept up by its kubelet
        await asyncio.sleep(LOOK_SECONDS)
    if rig.server.name == "dummy":
        await rig.faults(drop="", load_seconds=0.0)
    wanted = storm.document(bad=False)
    storm.want(wanted)
    rig.agent.signal(signal.SIGHUP)
    await rig.settled(*wanted, seconds=90)
    for name, version in wanted.items():
        if rig.server.name == "dummy":
            await rig.serves(name, version)
        else:
            assert await real.ask(rig.server.url, "mlserver", name) == int(version.rpartition(" ")[2])
    return wanted
