"""Processes end and start again, politely or not; what was verified and loaded stays (laws 1, 4 and 8)."""

import asyncio
import signal

import pytest
from aiohttp import web

from tests.e2e.agent_process import until
from tests.e2e.neighbours import Gate
from tests.e2e.rig import started
from tests.fakes.faulty_origin import HONEST, Fault, FaultyOrigin

LAYOUTS = pytest.mark.parametrize("beside", [False, True], ids=["drop-in", "store-beside"])
CONTENT = b"0123456789abcdef" * (1 << 16)


@pytest.mark.parametrize(
    ("kill", "beside"), [(False, False), (True, True)], ids=["SIGTERM-drop-in", "SIGKILL-store-beside"]
)
async def test_an_agent_restart_asks_storage_nothing_and_loads_nothing(tmp_path, beside, kill):
    async with started(tmp_path, beside=beside) as rig:
        names = {f"m{number}": f"object-{number}" for number in range(20)}
        for path in names.values():
            rig.put(path, path)
        rig.want(**names)
        await rig.settled(*names)
        asked, before = len(rig.origin.received), await rig.stats()
        await rig.agent.restart(kill=kill)
        await rig.settled(*names)
        after = await rig.stats()
        assert len(rig.origin.received) == asked
        assert (after["loads"], after["unloads"]) == (before["loads"], {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_an_end_in_the_middle_of_a_download_leaves_nothing_half_done(tmp_path, number):
    async with started(tmp_path) as rig:
        rig.put("good", "good")
        rig.put("large", CONTENT)
        gate = Gate(rig.origin, "large")
        rig.want(good="good", large="large")
        await gate.reached.wait()
        await rig.agent.wait(lambda status: status.done == {"good"})
        assert rig.agent.said().count("model is ready") == 1
        code, seconds = await rig.agent.terminate(number)
        assert seconds < 2
        assert code == (0 if number == signal.SIGTERM else -9)
        assert rig.directories() == {"good"}
        gate.opened.set()
        await rig.agent.start()
        await rig.settled("good", "large")
        assert (await rig.served("large"))[:16] == "0123456789abcdef"
        assert await rig.loads() == 2
        assert await rig.unloads() == 0


@pytest.mark.parametrize(
    ("number", "beside"),
    [(signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["SIGTERM-store-beside", "SIGKILL-drop-in"],
)
async def test_an_end_in_the_middle_of_a_load_loads_again(tmp_path, beside, number):
    async with started(tmp_path, beside=beside) as rig:
        for path in ("v1", "v2", "other"):
            rig.put(path, path)
        rig.want(m="v1", other="other")
        await rig.settled("m", "other")
        await rig.faults(load_seconds=1.0)
        rig.want(m="v2", other="other")
        await rig.agent.wait(lambda status: status.model("m")["phase"] == "Updating")
        await _loading(rig)
        _, seconds = await rig.agent.terminate(number)
        assert seconds < 2
        await rig.faults(load_seconds=0.0)
        asked = len(rig.origin.received)
        await rig.agent.start()
        await rig.settled("m", "other")
        await rig.serves("m", "v2")
        stats = await rig.stats()
        assert (stats["loads"]["other"], stats["unloads"]) == (1, {})
        assert len(rig.origin.received) == asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_an_end_in_the_middle_of_an_unload_unloads_again(tmp_path, number):
    async with started(tmp_path, dialect="triton", server_flags=["--unload-seconds", "1"]) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        rig.want(b="one")
        await rig.agent.wait(lambda status: status.model("a").get("phase") == "Unloading")
        _, seconds = await rig.agent.terminate(number)
        assert seconds < 2
        await rig.agent.start()
        await rig.settled("b")
        assert rig.directories() == {"b"}
        assert (await rig.stats())["loads"] == {"a": 1, "b": 1}


async def test_sigterm_with_everything_in_flight_ends_within_2_s_unloads_nothing_and_loses_nothing(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("good", "good")
        rig.want(**{f"good{number}": "good" for number in range(5)})
        await rig.settled(*(f"good{number}" for number in range(5)))
        await rig.faults(hang="hang*")
        gates = []
        paths = {f"slow{number}": f"slow{number}" for number in range(4)}
        for path in paths.values():
            rig.put(path, CONTENT)
            gates.append(Gate(rig.origin, path))
        rig.want(hangs="good", **{f"good{number}": "good" for number in range(4)}, **paths)
        for gate in gates:
            await gate.reached.wait()
        code, seconds = await rig.agent.terminate()
        assert (code, seconds < 2) == (0, True)
        assert {f"good{number}" for number in range(4)} <= rig.directories()
        for gate in gates:
            gate.opened.set()
        await rig.faults(hang="")
        await rig.agent.start()
        wanted = {"hangs", *paths, *(f"good{number}" for number in range(4))}
        await rig.settled(*wanted)
        assert all(
            count == 1 for name, count in (await rig.stats())["loads"].items() if name.startswith("good")
        )


async def test_sighup_lists_the_storage_again(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "old bytes")
        rig.want(m="one", n="nowhere")
        await rig.agent.wait(lambda status: status.done == {"m"} and status.reason("n") == "NotFound")
        rig.put("one", "new bytes")
        rig.put("nowhere", "found")
        rig.agent.signal(signal.SIGHUP)
        await rig.settled("m", "n")
        await rig.serves("m", "new bytes")


@pytest.mark.parametrize(
    ("dialect", "beside"),
    [("kserve", False), ("mlserver", False), ("triton", True)],
    ids=["kserve-drop-in", "mlserver-drop-in", "triton-store-beside"],
)
async def test_a_server_restart_brings_the_models_back_within_5_s_and_fetches_nothing(
    tmp_path, dialect, beside
):
    async with started(tmp_path, dialect=dialect, beside=beside) as rig:
        names = {f"m{number}": f"object-{number}.joblib" for number in range(10)}
        for path in names.values():
            rig.put(path, path)
        rig.want(**names)
        await rig.settled(*names)
        asked = len(rig.origin.received)
        await rig.server.restart()
        for name, path in names.items():
            await rig.serves(name, path, seconds=5)
        await rig.settled(*names)
        assert len(rig.origin.received) == asked


async def test_a_server_that_forgets_its_models_unseen_gets_them_again(tmp_path):
    async with started(tmp_path, dialect="mlserver") as rig:
        rig.put("one.joblib", "one")
        rig.want(a="one.joblib", b="one.joblib")
        await rig.settled("a", "b")
        await rig.forget("a")
        await rig.serves("a", "one", seconds=5)
        assert (await rig.stats())["loads"] == {"a": 2, "b": 1}


async def test_a_server_that_is_down_is_told_and_nothing_is_called_ready(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        await rig.server.kill()
        status = await rig.agent.wait(lambda status: not status.ready)
        assert status["server"]["ready"] is False
        assert status.model("a")["reason"] == "WaitingForServer"
        assert (await rig.agent.get("/readyz"))[0] == 200, "a dead server does not take it back"
        await rig.server.start()
        await rig.settled("a")


@LAYOUTS
async def test_both_restarted_fetches_nothing(tmp_path, beside):
    async with started(tmp_path, dialect="mlserver", beside=beside) as rig:
        rig.put("one.joblib", "one")
        rig.want(a="one.joblib", b="one.joblib")
        await rig.settled("a", "b")
        asked = len(rig.origin.received)
        await rig.agent.kill()
        await rig.server.kill()
        await rig.agent.start()
        await rig.server.start()
        await rig.settled("a", "b")
        assert len(rig.origin.received) == asked


async def test_both_restarted_on_a_new_volume_fetches_everything_again(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        await rig.agent.kill()
        await rig.server.kill()
        rig.volume.rename(tmp_path / "lost")
        rig.model_dir.mkdir(parents=True)
        await rig.server.start()
        await rig.agent.start()
        await rig.settled("a")
        assert rig.asked("GET", "one") == 2


async def test_a_server_that_comes_late_is_waited_for(tmp_path):
    async with started(tmp_path, server=False, mounted=False) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        status = await rig.agent.wait(lambda status: status.reason("a") == "WaitingForServer")
        assert status.model("a")["phase"] == "Downloaded"
        assert rig.directories() == set(), "a server that loads what it finds must find nothing unconfirmed"
        assert (await rig.agent.get("/healthz"))[0] == 200
        assert (await rig.agent.get("/readyz"))[0] == 503
        await rig.server.start()
        await rig.settled("a")
        assert (await rig.agent.get("/readyz"))[0] == 200


async def test_storage_down_then_up(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.put("two", "two")
        rig.want(a="one")
        await rig.settled("a")

        async def down(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=503)

        rig.origin.scripts["/two"] = down
        rig.want(a="two", b="two")
        status = await rig.agent.wait(lambda status: status.reason("a") == "StorageThrottled")
        assert status.ready == {"a"}
        assert await rig.served("a") == "one"
        del rig.origin.scripts["/two"]
        await rig.settled("a", "b", seconds=60)


async def test_a_new_revision_half_published_when_both_died_does_not_keep_the_server_down(tmp_path):
    """A server that loads what it finds must never be kept from starting by what was never confirmed."""
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.put("v2", "broken")
        rig.want(m="v1", other="v1")
        await rig.settled("m", "other")
        await rig.faults(load_seconds=5.0)
        rig.want(m="v2", other="v1")
        await _loading(rig)
        await rig.agent.kill()
        await rig.server.kill()
        await rig.server.start(wait=False)
        assert await rig.server.ended() == 1, "it finds the broken model, which was only tried"
        await rig.agent.start()
        await until(lambda: "m" not in rig.directories() or b"first" in _bytes(rig, "m"))
        await rig.server.start()
        await rig.serves("m", "first")
        await rig.serves("other", "first")
        await rig.agent.wait(lambda status: status.reason("m") == "LoadRejected")
        assert len(rig.origin.received) == 4


def _bytes(rig, name: str) -> bytes:
    return b"".join(each.read_bytes() for each in (rig.model_dir / name).iterdir())


async def _loading(rig) -> None:
    async with asyncio.timeout(10):
        while (await rig.stats())["loading_now"] == 0:
            await asyncio.sleep(0.01)


async def test_a_hundred_models_come_back_with_their_storage_and_in_no_herd(tmp_path):
    """All wait for the same outage, and share the connections of the agent as ever (fault S22)."""
    names = [f"m{number}" for number in range(100)]
    async with started(tmp_path) as rig:
        with FaultyOrigin() as origin:
            for name in names:
                origin.put(f"/{name}/part", name.encode())
            origin.every = Fault(hang_up=True)
            rig.want(**{name: f"{origin.url}/{name}/part" for name in names})
            await rig.agent.wait(
                lambda status: sum(bool(each["attempts"]) for each in status["models"]) >= 20, 30
            )
            origin.every = HONEST
            await rig.settled(*names, seconds=60)
            assert origin.most_connections <= 16
