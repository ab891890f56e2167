"""A document goes in, models come out ready; and what changes, changes."""

import pytest

from tests.e2e.rig import started

DIALECTS = pytest.mark.parametrize("dialect", ["kserve", "mlserver", "triton"])


@pytest.mark.parametrize(
    ("dialect", "beside"),
    [("kserve", False), ("kserve", True), ("mlserver", False), ("triton", True)],
    ids=["kserve-drop-in", "kserve-store-beside", "mlserver-drop-in", "triton-store-beside"],
)
async def test_a_cold_start_then_one_added_one_removed_one_changed(tmp_path, dialect, beside):
    async with started(tmp_path, dialect=dialect, beside=beside) as rig:
        for path in ("a.joblib", "b.joblib", "c.joblib", "d.joblib"):
            rig.put(path, f"bytes of {path}")
        rig.want(a="a.joblib", b="b.joblib")
        await rig.settled("a", "b")
        assert await rig.served("a") == "bytes of a.joblib"
        rig.want(a="c.joblib", d="d.joblib")
        status = await rig.settled("a", "d")
        assert [await rig.served(name) for name in "abd"] == ["bytes of c.joblib", None, "bytes of d.joblib"]
        assert rig.directories() == {"a", "d"}
        assert status["server"]["ready"]
        assert status["server"]["protocol"] == dialect


@pytest.mark.layouts
async def test_from_a_to_b_and_back_to_a_downloads_nothing_twice(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.put("two", "two")
        served = []
        for path in ("one", "two", "one"):
            rig.want(m=path)
            await rig.settled("m")
            served.append(await rig.served("m"))
        assert served == ["one", "two", "one"]
        assert (rig.asked("GET", "one"), rig.asked("GET", "two")) == (1, 1)


async def test_fifty_edits_in_a_row_end_in_the_last(tmp_path):
    async with started(tmp_path) as rig:
        for number in range(50):
            rig.put(f"v{number}", f"version {number}")
            rig.want(m=f"v{number}")
        await rig.settled("m")
        assert await rig.served("m") == "version 49"


async def test_only_memory_or_framework_changed_downloads_nothing(tmp_path):
    async with started(tmp_path, dialect="mlserver") as rig:
        rig.put("model.joblib", "one")
        rig.want(rig.entry("m", "model.joblib"))
        await rig.settled("m")
        asked = len(rig.origin.received)
        rig.want(rig.entry("m", "model.joblib", memory="2Mi"))
        status = await rig.settled("m")
        assert status["memory"]["reservedBytes"] == 2 << 20
        rig.put("model.bst", "two")
        rig.want(rig.entry("m", "model.joblib", framework="xgboost"))
        await rig.agent.wait(lambda status: status.model("m")["spec"]["framework"] == "xgboost")
        assert len(rig.origin.received) == asked


@pytest.mark.layouts
async def test_a_corrupt_model_beside_good_ones_takes_nothing_from_them(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("good", "good")
        rig.put("bad", "broken")
        rig.want(a="good", b="bad", c="good")
        status = await rig.agent.wait(lambda status: status.done == {"a", "c"} and status.reason("b"))
        status = await rig.agent.wait(lambda status: status.reason("b") == "LoadRejected")
        failed = status.model("b")
        assert (failed["phase"], failed["ready"], failed["attempts"]) == ("Failed", False, 1)
        assert "is broken" in failed["message"]
        assert failed["nextRetryTime"] is not None
        assert rig.directories() == {"a", "c"}


@DIALECTS
async def test_an_update_with_a_broken_revision_keeps_the_old_one(tmp_path, dialect):
    async with started(tmp_path, dialect=dialect) as rig:
        rig.put("v1.joblib", "first")
        rig.put("v2.joblib", "broken")
        rig.put("v3.joblib", "third")
        rig.want(m="v1.joblib")
        first = (await rig.settled("m")).model("m")["revision"]
        rig.want(m="v2.joblib")
        status = await rig.agent.wait(lambda status: status.reason("m") == "LoadRejected")
        assert await rig.served("m") == "first"
        model = status.model("m")
        assert (model["ready"], model["servedRevision"]) == (True, first)
        assert model["revision"] != first
        assert "keeps serving" in model["message"]
        assert (rig.model_dir / "m").is_dir()
        await rig.server.restart()
        await rig.serves("m", "first")
        rig.want(m="v3.joblib")
        await rig.settled("m")
        assert await rig.served("m") == "third"


async def test_a_uri_that_leads_nowhere_keeps_the_old_revision(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.want(m="v1")
        await rig.settled("m")
        for uri, reason in (
            ("nowhere", "NotFound"),
            ("nosuch://bucket/m", "UnsupportedScheme"),
            ("file:///etc/passwd", "ForbiddenPath"),
        ):
            rig.want(m=uri)
            status = await rig.agent.wait(lambda status, reason=reason: status.reason("m") == reason)
            assert status.ready == {"m"}
        assert await rig.unloads() == 0


async def test_models_that_others_loaded_are_left_alone(tmp_path):
    async with started(tmp_path) as rig:
        await rig.load_elsewhere("theirs", b"theirs")
        rig.put("ours", "ours")
        rig.want(ours="ours")
        await rig.settled("ours")
        rig.want()
        await rig.settled()
        assert await rig.served("theirs") == "theirs"
        assert (await rig.stats())["unloads"] == {"ours": 1}


@pytest.mark.layouts
async def test_an_empty_list_is_legal_and_unloads_everything(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        rig.mount("[]")
        await rig.settled()
        assert (await rig.stats())["models"] == []
        assert rig.directories() == set()
        assert "models=0  added=0  removed=2" in rig.agent.said()


async def test_a_thousand_small_models(tmp_path):
    async with started(
        tmp_path, agent=False, flags={"log-level": "warning", "max-concurrent-downloads": 16}
    ) as rig:
        names = {f"m{number:04}": f"{number}.joblib" for number in range(1000)}
        for path in names.values():
            rig.put(path, path)
        rig.want(**names)
        await rig.agent.start()
        await rig.settled(*names, seconds=60)
        assert rig.asked("GET") == 1000
        assert await rig.loads() == 1000
        rig.want(**dict(list(names.items())[:10]))
        await rig.settled(*list(names)[:10], seconds=60)


async def test_over_budget_says_the_sum_and_loads_when_room_comes(tmp_path):
    async with started(tmp_path, flags={"memory-budget": "100Mi", "server-overhead": "20Mi"}) as rig:
        rig.put("one", "one")
        big = {name: rig.entry(name, "one", memory="30Mi") for name in "abc"}
        rig.want(*big.values(), rig.entry("huge", "one", memory="81Mi"))
        status = await rig.agent.wait(lambda status: status.done == {"a", "b"})
        assert status.reason("c") == "MemoryBudgetExceeded"
        assert (
            status.model("c")["message"]
            == "waits for memory: needs 30 MiB, 20 MiB of the budget of 80 MiB are free"
        )
        assert status.reason("huge") == "ExceedsMemoryBudget"
        assert "needs 81 MiB, the whole memory budget is 80 MiB" in status.model("huge")["message"]
        assert status["memory"]["budgetBytes"] == 80 << 20
        assert status["memory"]["reservedBytes"] == 60 << 20
        rig.want(big["b"], big["c"])
        await rig.settled("b", "c")


async def test_an_update_that_needs_room_waits_and_the_old_one_serves(tmp_path):
    async with started(tmp_path, flags={"memory-budget": "50Mi"}) as rig:
        rig.put("one", "first")
        rig.put("two", "second")
        rig.want(rig.entry("m", "one", memory="30Mi"))
        await rig.settled("m")
        rig.want(rig.entry("m", "two", memory="30Mi"))
        status = await rig.agent.wait(lambda status: status.reason("m") == "UpdateNeedsRoom")
        assert "20 MiB of 50 MiB are free; the old one keeps serving" in status.model("m")["message"]
        assert await rig.served("m") == "first"


async def test_an_update_steps_aside_where_the_operator_says_so(tmp_path):
    flags = {"memory-budget": "50Mi", "update-policy": "resource"}
    async with started(tmp_path, flags=flags) as rig:
        rig.put("one", "first")
        rig.put("two", "second")
        rig.put("three", "broken")
        rig.want(rig.entry("m", "one", memory="30Mi"))
        await rig.settled("m")
        rig.want(rig.entry("m", "two", memory="30Mi"))
        await rig.settled("m")
        assert await rig.served("m") == "second"
        rig.want(rig.entry("m", "three", memory="30Mi"))
        await rig.agent.wait(lambda status: status.reason("m") == "LoadRejected" and "m" in status.ready)
        assert await rig.served("m") == "second"


async def test_the_volume_lost_is_filled_again(tmp_path):
    """The folder is emptied under the agent: what serves goes on, and the bytes come back."""
    async with started(tmp_path, flags={"resync-interval": "1s"}) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        for each in rig.model_dir.iterdir():
            if each.is_dir():
                (each / "one").unlink()
                each.rmdir()
        for each in rig.store_dir.iterdir():
            if "blob" in each.name or "manifest" in each.name:
                each.unlink()
        await rig.agent.wait(lambda _: rig.directories() == {"a", "b"} and rig.asked("GET") == 2)
        await rig.settled("a", "b")
        assert await rig.unloads() == 0
