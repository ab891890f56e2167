"""Model servers that hang, drop, lie and crash: one model's trouble is no other model's (law 6)."""

import asyncio

import pytest

from tests.e2e.neighbours import kept_up
from tests.e2e.rig import started


async def test_a_load_that_hangs_holds_up_the_others_no_longer_than_its_time_out(tmp_path):
    """The server takes one at a time, and is asked for a while what became of a load that timed out."""
    async with started(tmp_path, flags={"load-timeout": "1s"}) as rig:
        rig.put("one", "one")
        await rig.faults(hang="b")
        rig.want(a="one", b="one", c="one", d="one")
        status = await rig.agent.wait(
            lambda status: (
                status.done == {"a", "c", "d"} == rig.directories()  # not while b is tried once more
                and status.reason("b") == "LoadTimeout"
            ),
            25,
        )
        assert "within 1 s" in status.model("b")["message"]


async def test_a_load_that_hangs_holds_up_nothing_where_the_server_takes_several(tmp_path):
    async with started(tmp_path, dialect="triton") as rig:
        rig.put("one", "one")
        await rig.faults(hang="b")
        rig.want(a="one", b="one", c="one", d="one")
        await rig.agent.wait(lambda status: status.done == {"a", "c", "d"})


@pytest.mark.parametrize("dialect", ["kserve", "mlserver", "triton"])
async def test_a_reply_that_is_lost_is_looked_up_and_no_error_is_told(tmp_path, dialect):
    async with started(tmp_path, dialect=dialect) as rig:
        rig.put("one.joblib", "one")
        await rig.faults(drop="*")
        rig.want(a="one.joblib", b="one.joblib")
        await rig.settled("a", "b")
        assert "failed" not in rig.agent.said()
        assert max((await rig.stats())["loads"].values()) <= 2


async def test_a_server_that_answers_nothing_at_all_is_down_and_comes_back(tmp_path):
    async with started(tmp_path, dialect="triton") as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        rig.server.pause()
        await rig.agent.wait(lambda status: not status["server"]["ready"], 30)
        assert (await rig.agent.get("/healthz"))[0] == 200
        rig.server.resume()
        await rig.settled("a")
        stats = await rig.stats()
        assert (stats["loads"], stats["unloads"]) == ({"a": 1}, {}), "it had lost nothing"


async def test_a_model_that_never_becomes_ready_is_told_and_leaves_the_others_alone(tmp_path):
    async with started(tmp_path, flags={"load-timeout": "1s"}) as rig:
        rig.put("one", "one")
        await rig.faults(unready="b")
        rig.want(a="one", b="one", c="one")
        status = await rig.agent.wait(
            lambda status: status.ready == {"a", "c"} and status.reason("b") == "LoadTimeout"
        )
        assert not status.model("b")["ready"]
        assert rig.directories() == {"a", "c"}


@pytest.mark.parametrize("beside", [False, True], ids=["drop-in", "store-beside"])
async def test_a_model_that_kills_the_server_is_put_off_and_all_others_serve(tmp_path, beside):
    async with (
        started(tmp_path, beside=beside, server_flags=["--crash", "poison"]) as rig,
        kept_up(rig.server) as codes,
    ):
        rig.put("one", "one")
        others = {f"m{number}": "one" for number in range(5)}
        rig.want(poison="one", **others)
        status = await rig.agent.wait(
            lambda status: status.done == set(others) and status.model("poison")["attempts"] >= 3, 60
        )
        poison = status.model("poison")
        assert (poison["phase"], poison["reason"]) == ("Failed", "ServerCrashed")
        assert poison["nextRetryTime"] is not None
        assert rig.directories() == set(others)
        crashes = poison["attempts"]
        await rig.agent.wait(lambda _: len(codes) == crashes)  # the agent hears of a death before its parent
        assert set(codes) == {137}
        assert crashes <= 4
        rig.put("new", "new")
        rig.want(poison="one", new="new", **others)
        await rig.agent.wait(lambda status: status.done == {"new", *others})
        assert len(codes) == crashes, "what was put off is not tried again for a change elsewhere"


async def test_whoever_was_loading_beside_a_model_that_kills_the_server_is_not_put_off_for_it(tmp_path):
    """Four loads are in flight when the server goes down, and each looks as guilty as the other."""
    flags = ["--crash", "poison", "--load-seconds", "0.3"]
    async with started(tmp_path, dialect="triton", server_flags=flags) as rig, kept_up(rig.server):
        rig.put("one", "one")
        others = {f"q{number}": "one" for number in range(5)}  # poison is among the first four by name
        rig.want(poison="one", **others)
        status = await rig.agent.wait(
            lambda status: status.done == set(others) and status.model("poison")["attempts"] >= 3, 60
        )
        assert (status.reason("poison"), rig.directories()) == ("ServerCrashed", set(others))
        said = [line for line in rig.agent.said().splitlines() if "model failed" in line]
        assert max(sum(f'"{name}"' in line for line in said) for name in others) <= 1


async def test_an_update_that_kills_the_server_once_takes_nothing_from_the_others(tmp_path):
    async with started(tmp_path) as rig, kept_up(rig.server) as codes:
        rig.put("v1", "first")
        rig.put("v2", "second")
        rig.want(m="v1", other="v1")
        await rig.settled("m", "other")
        await rig.faults(crash="m")  # the fault is gone with the process
        rig.want(m="v2", other="v1")
        await rig.agent.wait(lambda status: codes and status.done == {"m", "other"}, 30)
        await rig.serves("m", "second")
        await rig.serves("other", "first")
        assert codes == [137]
        assert rig.asked("GET") == 2


async def test_a_server_that_takes_several_loads_is_given_four_at_once(tmp_path):
    async with started(tmp_path, dialect="triton") as rig:
        rig.put("one", "one")
        await rig.faults(load_seconds=0.5)
        rig.want(**{f"m{number}": "one" for number in range(8)})
        await rig.settled(*(f"m{number}" for number in range(8)))
        assert (await rig.stats())["max_concurrent_loads"] == 4


async def test_at_most_one_load_runs_on_a_server_whose_loads_block_it(tmp_path):
    async with started(tmp_path, server_flags=["--blocking", "--load-seconds", "0.2"]) as rig:
        rig.put("one", "one")
        rig.want(**{f"m{number}": "one" for number in range(8)})
        await rig.settled(*(f"m{number}" for number in range(8)))
        assert (await rig.stats())["max_concurrent_loads"] == 1
        after_start = rig.agent.said().partition("the model server is ready")[2]
        assert after_start
        assert "does not answer" not in after_start


async def test_changes_come_faster_than_a_slow_server_loads_and_the_last_one_wins(tmp_path):
    async with started(tmp_path, server_flags=["--load-seconds", "0.3"]) as rig:
        for number in range(10):
            rig.put(f"v{number}", f"version {number}")
            rig.want(m=f"v{number}")
            await asyncio.sleep(0.05)  # the pace of the edits is what is tried here
        await rig.settled("m")
        assert await rig.served("m") == "version 9"
        assert await rig.loads() < 10
