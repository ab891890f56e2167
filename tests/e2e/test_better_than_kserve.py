"""What KServe's agent was seen or read to get wrong, row by row, as it goes here.

The rows are those of the table of the agent's behaviour in kserve-contract §3; a test's docstring says
what KServe's agent does in the same place.
"""

import asyncio
import json

import pytest
from aiohttp import web

from tests.e2e.neighbours import Gate
from tests.e2e.rig import started


async def test_what_changed_while_the_agent_was_down_is_done_at_its_start(tmp_path):
    """KServe: it hangs for ever, its port never opens and nothing is watched."""
    async with started(tmp_path) as rig:
        for path in ("v1", "v2", "new"):
            rig.put(path, path)
        rig.want(stays="v1", changes="v1", goes="v1")
        await rig.settled("stays", "changes", "goes")
        await rig.agent.terminate()
        rig.want(stays="v1", changes="v2", comes="new")
        await rig.agent.start()
        await rig.settled("stays", "changes", "comes")
        assert [await rig.served(name) for name in ("stays", "changes", "goes")] == ["v1", "v2", None]
        rig.want(stays="v1")
        await rig.settled("stays")


async def test_150_models_at_start(tmp_path):
    """KServe: the hundred-and-first waits for room in a full channel that nobody empties yet."""
    async with started(tmp_path, agent=False) as rig:
        rig.put("one", "one")
        names = {f"m{number:03}": "one" for number in range(150)}
        rig.want(**names)
        await rig.agent.start()
        await rig.settled(*names, seconds=30)
        assert rig.asked("GET") == 1, "150 models of one URI are one download"


async def test_a_duplicate_name_is_rejected_and_does_not_flip_flop(tmp_path):
    """KServe: the two entries replace each other with every later event, and hang a start."""
    async with started(tmp_path, agent=False) as rig:
        rig.put("one", "one")
        rig.put("two", "two")
        twice = (rig.entry("m", "one"), rig.entry("m", "two"))
        rig.want(*twice, n="one")
        await rig.agent.start()
        status = await rig.settled("n")
        assert [each["reason"] for each in status["config"]["rejected"]] == ["DuplicateName"] * 2
        rig.want(m="one", n="one")
        await rig.settled("m", "n")
        for number in range(3):
            rig.want(*twice, **{"n": "one", f"n{number}": "one"})
            await rig.settled("m", "n", f"n{number}")
        assert await rig.served("m") == "one"
        assert (await rig.stats())["loads"]["m"] == 1


async def test_a_change_during_the_first_downloads_is_not_missed(tmp_path):
    """KServe: it watches only after its start-up, so such a change waits for the next one."""
    async with started(tmp_path, agent=False) as rig:
        rig.put("slow", b"x" * 1_000_000)
        rig.put("one", "one")
        gate = Gate(rig.origin, "slow")
        rig.want(slow="slow")
        await rig.agent.start()
        await gate.reached.wait()
        rig.want(slow="slow", m="one")
        await rig.agent.wait(lambda status: status.done == {"m"})
        gate.opened.set()
        await rig.settled("slow", "m")


async def test_a_server_that_restarts_empty_gets_its_models_again(tmp_path):
    """KServe: Triton in explicit mode stays empty until the pod restarts."""
    async with started(tmp_path, dialect="triton") as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        await rig.server.restart()
        await rig.serves("a", "one", seconds=5)
        await rig.serves("b", "one", seconds=5)


async def test_a_server_that_is_up_later_than_the_agent_gets_its_models(tmp_path):
    """KServe: the load is refused, logged and never tried again, not even by a restart of the agent."""
    async with started(tmp_path, dialect="triton", server=False) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.agent.wait(lambda status: status.reason("a") == "WaitingForServer")
        await rig.server.start()
        await rig.settled("a")


async def test_a_download_that_fails_is_told_tried_again_and_leaves_no_folder(tmp_path):
    """KServe: it is logged, never tried again, and the partial folder keeps the server from starting."""
    async with started(tmp_path) as rig:
        rig.put("one", b"x" * 100_000)
        gate = Gate(rig.origin, "one")
        rig.want(a="one")
        await gate.reached.wait()
        assert rig.directories() == set()

        async def broken(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=500)

        rig.origin.scripts["/one"] = broken
        gate.opened.set()
        rig.want(a="one", b="two")
        status = await rig.agent.wait(lambda status: status.reason("b") == "NotFound")
        rig.put("three", "three")
        rig.want(a="one", c="three")
        await rig.agent.wait(lambda status: status.model("c").get("ready"))
        await rig.server.restart()
        await rig.serves("c", "three")
        del rig.origin.scripts["/one"]
        status = await rig.settled("a", "c", seconds=70)
        assert status.model("a")["ready"]


async def test_a_load_that_fails_is_told_and_tried_again_when_the_server_restarts(tmp_path):
    """KServe: it is logged as information, and never tried again."""
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        await rig.faults(fail="a")
        rig.want(a="one")
        status = await rig.agent.wait(lambda status: status.reason("a") == "LoadRejected")
        assert status.model("a")["nextRetryTime"] is not None
        await rig.server.kill()
        await rig.agent.wait(lambda status: not status["server"]["ready"])
        await rig.server.start()
        await rig.settled("a")


async def test_an_update_never_takes_the_model_down(tmp_path):
    """KServe: the folder is deleted and the model unloaded before the download begins."""
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.put("v2", b"x" * 500_000)
        rig.want(m="v1")
        await rig.settled("m")
        gate = Gate(rig.origin, "v2")
        rig.want(m="v2")
        await gate.reached.wait()
        assert await rig.served("m") == "first"
        assert rig.directories() == {"m"}
        gate.opened.set()
        await rig.settled("m")
        assert await rig.unloads() == 0


@pytest.mark.layouts
async def test_a_bad_new_uri_leaves_the_old_revision_serving(tmp_path):
    """KServe: the old one is gone."""
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.want(m="v1")
        await rig.settled("m")
        rig.want(m="nowhere")
        await rig.agent.wait(lambda status: status.reason("m") == "NotFound" and status.ready == {"m"})
        assert await rig.served("m") == "first"


async def test_after_a_change_later_events_repeat_nothing(tmp_path):
    """KServe: it keeps the old spec, so that every later event removes, downloads and loads once more."""
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.put("v2", "second")
        rig.want(m="v1")
        await rig.settled("m")
        rig.want(m="v2")
        await rig.settled("m")
        asked, loads = rig.asked("GET"), (await rig.stats())["loads"]["m"]
        for number in range(3):
            rig.want(**{"m": "v2", f"other{number}": "v1"})
            await rig.settled("m", f"other{number}")
        assert rig.asked("GET") == asked
        assert (await rig.stats())["loads"]["m"] == loads == 2


@pytest.mark.layouts
async def test_going_back_to_the_first_uri_is_done(tmp_path):
    """KServe: it is ignored."""
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.put("v2", "second")
        for path in ("v1", "v2", "v1"):
            rig.want(m=path)
            await rig.settled("m")
        assert await rig.served("m") == "first"


async def test_files_of_an_earlier_revision_or_download_are_not_left_in_the_folder(tmp_path):
    """KServe: what a partial download left under other names stays in the model."""
    source = tmp_path / "source"
    for version, files in (("v1", ("a", "b", "deep/c")), ("v2", ("a",))):
        for name in files:
            (source / version / name).parent.mkdir(parents=True, exist_ok=True)
            (source / version / name).write_text(version)
    async with started(tmp_path, flags={"allowed-roots": source}) as rig:
        rig.want(m=f"file://{source}/v1")
        await rig.settled("m")
        rig.want(m=f"file://{source}/v2")
        await rig.settled("m")
        assert [str(each.relative_to(rig.model_dir / "m")) for each in (rig.model_dir / "m").rglob("*")] == [
            "a"
        ]


async def test_one_bad_quantity_does_not_block_the_other_updates(tmp_path):
    """KServe: the whole file is rejected, and every later one too until it is mended."""
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(rig.entry("bad", "one", memory="lots"), good="one")
        status = await rig.settled("good")
        assert status["config"]["rejected"][0]["name"] == "bad"


async def test_null_removes_nothing(tmp_path):
    """KServe: `null` is an empty list, and every model is removed."""
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        rig.mount("null")
        status = await rig.agent.wait(lambda status: status["config"]["error"])
        assert status.done == {"a"}


async def test_a_uri_that_cannot_be_read_is_told_with_a_reason(tmp_path):
    """KServe: a line in the log, nothing else."""
    async with started(tmp_path) as rig:
        entries = [rig.entry("empty", "one"), rig.entry("bare", "one")]
        entries[0]["modelSpec"]["storageUri"] = ""
        entries[1]["modelSpec"]["storageUri"] = "s3//model1"
        rig.want(*entries, odd="nosuchscheme://x/y")
        status = await rig.agent.wait(lambda status: status.reason("odd") == "UnsupportedScheme")
        rejected = {each["name"]: each["reason"] for each in status["config"]["rejected"]}
        assert rejected == {"empty": "InvalidStorageUri", "bare": "InvalidStorageUri"}


async def test_a_model_larger_than_the_volume_is_told_before_a_byte_is_written(tmp_path):
    """KServe: it writes until the volume is full, leaves that, and the node evicts the pod."""
    async with started(tmp_path) as rig:
        rig.put("one", "one")

        async def enormous(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"ETag": '"x"', "Content-Length": str(1 << 60)})
            await response.prepare(request)
            return response

        rig.origin.scripts["/enormous"] = enormous
        rig.want(a="one", b="enormous")
        status = await rig.agent.wait(lambda status: status.reason("b") == "DiskFull")
        assert str(1 << 60) in status.model("b")["message"]
        await rig.agent.wait(lambda status: status.done == {"a"})
        assert rig.asked("GET", "enormous") == 0


async def test_memory_is_counted_before_a_model_is_loaded(tmp_path):
    """KServe: the agent never looks at memory, and the server is killed for it."""
    async with started(tmp_path, flags={"memory-budget": "100Mi"}) as rig:
        rig.put("one", "one")
        rig.want(*(rig.entry(f"m{number}", "one", memory="40Mi") for number in range(4)))
        status = await rig.agent.wait(lambda status: len(status.done) == 2)
        assert {status.reason(name) for name in status.names - status.done} == {"MemoryBudgetExceeded"}
        assert len((await rig.stats())["models"]) == 2


@pytest.mark.layouts
async def test_a_folder_removed_by_hand_comes_back(tmp_path):
    """KServe: it is not noticed; only a restart of the agent downloads it again."""
    async with started(tmp_path, flags={"resync-interval": "1s"}) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        (rig.model_dir / "a").rename(tmp_path / "gone")
        await rig.agent.wait(lambda _: rig.directories() == {"a"})
        assert (rig.asked("GET"), await rig.loads()) == (1, 1)


async def test_a_model_dir_that_is_not_there_is_made(tmp_path):
    """KServe: a panic, and CrashLoopBackOff."""
    async with started(tmp_path, agent=False) as rig:
        rig.put("one", "one")
        rig.model_dir.rmdir()
        rig.want(a="one")
        await rig.agent.start()
        await rig.settled("a")


async def test_a_file_called_success_inside_a_model_is_a_file(tmp_path):
    """KServe: at its next start it takes it for a marker of a model that is none, and hangs."""
    source = tmp_path / "source" / "m"
    (source / "sub").mkdir(parents=True)
    (source / "model").write_text("model")
    (source / "sub" / "SUCCESS.abc").write_text('{"storageUri":"s3://x/y"}')
    (source / "sub" / "SUCCESS.def").write_text("no JSON")
    async with started(tmp_path, flags={"allowed-roots": tmp_path / "source"}) as rig:
        rig.want(m=f"file://{source}")
        await rig.settled("m")
        await rig.agent.restart()
        await rig.settled("m")
        assert rig.directories() == {"m"}
        assert await rig.loads() == 1


async def test_markers_that_kserves_agent_left_do_no_harm(tmp_path):
    """A volume that KServe's agent has used: its folders are foreign until we publish under their name."""
    async with started(tmp_path, agent=False, server=False) as rig:
        rig.put("one", "ours")
        (rig.model_dir / "m").mkdir()
        (rig.model_dir / "m" / "model.joblib").write_text("theirs")
        marker = json.dumps(rig.entry("m", "one")["modelSpec"])
        (rig.model_dir / "m" / f"SUCCESS.{'0' * 64}").write_text(marker)
        rig.want(m="one")
        await rig.server.start()
        await rig.agent.start()
        await rig.settled("m")
        assert await rig.served("m") == "ours"


async def test_a_file_where_a_models_folder_should_be_is_no_model(tmp_path):
    """KServe: it takes the error for success, and calls load with nothing downloaded."""
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        (rig.model_dir / "m").write_text("a file that somebody put here")
        rig.want(m="one")
        await rig.settled("m")
        assert await rig.served("m") == "one"


async def test_many_changes_of_one_model_block_nobody(tmp_path):
    """KServe: with more than nine waiting operations of one model the whole puller stands still."""
    async with started(tmp_path, server_flags=["--load-seconds", "0.1"]) as rig:
        others = {f"m{number}": "one" for number in range(8)}
        rig.put("one", "one")
        for number in range(30):
            rig.put(f"v{number}", f"version {number}")
            rig.want(busy=f"v{number}", **others)
            await asyncio.sleep(0.01)  # the pace of the edits is what is tried here
        await rig.settled("busy", *others)
        assert await rig.served("busy") == "version 29"
