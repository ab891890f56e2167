"""`model-agent plan`: what it prints, and its exit codes."""

import json
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
from aiohttp import web

from agent.telemetry.board import MemoryWord, RulesWord
from tests.commands.run import run, run_process
from tests.web.boards import board_with, failed, ready
from tests.web.test_events import guarded, serving

MIB = 1 << 20

TRAINED = """
apiVersion: serving.kserve.io/v1alpha1
kind: TrainedModel
metadata: {name: %s, namespace: default}
spec: {inferenceService: %s, model: {storageUri: "s3://b/m", framework: sklearn, memory: 1Mi}}
"""


plan = partial(run, "plan")


def document(tmp_path, **uris: str) -> str:
    entries = [
        {"modelName": name, "modelSpec": {"storageUri": uri, "framework": "sklearn", "memory": "1Mi"}}
        for name, uri in uris.items()
    ]
    path = tmp_path / "models.json"
    path.write_text(json.dumps(entries))
    return str(path)


async def test_bytes_come_from_a_listing_alone(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_bytes(b"x" * 2048)
    code, out, _ = await plan(document(tmp_path, a=f"file://{tmp_path}/m"))
    assert code == 2
    assert "fetch, load" in out
    assert "2 KiB to download; memory 0 B before, 1 MiB after, no budget" in " ".join(out.split())


async def test_nothing_to_do_is_nought(tmp_path):
    async with serving(board_with(ready("a"))) as url:
        code, out, _ = await plan(document(tmp_path, a="s3://bucket/model"), "--url", url, "--all")
    assert code == 0
    assert "keep" in out


async def test_what_the_storage_does_not_have_is_one_and_told(tmp_path):
    code, out, _ = await plan(document(tmp_path, a=f"file://{tmp_path}/nothing"), "--json")
    change = json.loads(out)["changes"][0]
    assert (code, change["actions"], change["reason"]) == (1, ["refuse"], "NotFound")


async def test_a_document_that_is_none_is_one_with_its_place():
    code, _, err = await run_process("plan", "-", stdin=b"[{]")
    assert code == 1
    assert "line 1" in err


async def test_an_agent_that_does_not_answer_is_one(tmp_path, unused_tcp_port):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    code, _, err = await plan(document(tmp_path, a="s3://b/m"), "--url", url, "--no-listing")
    assert (code, "does not answer" in err) == (1, True)


async def test_trained_models_are_planned_as_the_controller_would_write_them(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text("---".join([TRAINED % ("a", "one"), TRAINED % ("b", "one")]))
    code, out, _ = await plan("-f", str(path), "--no-listing", "--json")
    assert (code, [change["name"] for change in json.loads(out)["changes"]]) == (2, ["a", "b"])


async def test_models_of_two_parents_are_not_mixed(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text("---".join([TRAINED % ("a", "one"), TRAINED % ("b", "two")]))
    code, _, err = await plan("-f", str(path), "--no-listing")
    assert (code, "--inference-service" in err) == (64, True)
    code, out, _ = await plan("-f", str(path), "--no-listing", "--json", "--inference-service", "two")
    assert (code, [change["name"] for change in json.loads(out)["changes"]]) == (2, ["b"])


@pytest.mark.parametrize("flag", ["--memory-budget", "--default-model-memory"])
async def test_a_quantity_that_is_none_is_a_mistake_of_the_user(tmp_path, flag):
    code, out, err = await plan(document(tmp_path, a="s3://b/m"), flag, "abc", "--no-listing")
    assert (code, out) == (64, "")
    assert f"{flag}: 'abc'" in err
    assert "Traceback" not in err


@asynccontextmanager
async def answering(document_: object):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document_)

    application = web.Application()
    application.router.add_get("/status", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("models", ["x", [{"name": "a", "spec": {"memory": "lots"}}]])
async def test_a_status_that_cannot_be_read_is_one_in_words(tmp_path, models):
    async with answering({"apiVersion": "model-agent/v1", "models": models}) as url:
        code, _, err = await plan(document(tmp_path, a="s3://b/m"), "--url", url, "--no-listing")
    assert (code, "cannot be read" in err, "Traceback" in err) == (1, True, False)


async def test_an_agent_that_asks_for_its_token_is_shown_it(tmp_path):
    (tmp_path / "token").write_text("s3cr3t")
    board = board_with(ready("a"))
    async with guarded(board, tmp_path / "token") as url:
        ask = (document(tmp_path, a="s3://bucket/model"), "--url", url, "--no-listing")
        refused = await plan(*ask)
        let_in = await plan(*ask, "--token-file", str(tmp_path / "token"))
    assert (refused[0], "bearer token" in refused[2]) == (1, True)
    assert let_in[0] == 0


async def test_it_plans_as_that_agent_was_set_up(tmp_path):
    old = replace(ready("a"), held_bytes=MIB)
    board = board_with(old)
    board.say(memory=MemoryWord(MIB, MIB))
    async with serving(board) as url:
        ask = (document(tmp_path, a="s3://bucket/new"), "--url", url, "--no-listing", "--json")
        _, stays, _ = await plan(*ask)
        board.rules = RulesWord("resource", 0)
        board.say(memory=MemoryWord(MIB, MIB, 1))  # another ETag
        _, steps, _ = await plan(*ask)
    assert json.loads(stays)["changes"][0]["actions"] == ["fetch", "wait"]
    assert json.loads(steps)["changes"][0]["actions"] == ["fetch", "unload", "load"]


async def test_a_step_that_is_tried_again_soon_is_a_change(tmp_path):
    path = tmp_path / "models.json"
    spec = {"storageUri": "s3://bucket/none", "framework": "sklearn"}
    path.write_text(json.dumps([{"modelName": "b", "modelSpec": spec}]))
    async with serving(board_with(replace(failed("b"), next_retry=time.time() + 30))) as url:
        code, out, _ = await plan(str(path), "--url", url, "--no-listing")
    assert (code, "tried again in" in " ".join(out.split())) == (2, True)
