"""The status port: the fixed interface, held to its own description."""

import json
import re
from dataclasses import replace
from importlib import resources

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator

from agent.core.model import Rejection
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.telemetry.board import Board
from agent.telemetry.metrics import Metrics
from agent.web.render import Renderer
from agent.web.server import StatusSite
from tests.web.boards import board_with, failed, ready

OPENAPI = json.loads(resources.files("agent.web").joinpath("openapi.json").read_text())


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]})


def site(board: Board, *, alive: bool = True) -> StatusSite:
    return StatusSite(
        board, Renderer(board, lambda moment: moment), lambda: alive, Metrics(board, lambda: 0.0).scrape
    )


@pytest.fixture
async def served():
    runners = []

    async def serve(board: Board, *, alive: bool = True) -> str:
        runner = web.AppRunner(site(board, alive=alive).application())
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def get(client, url: str):
    async with client.get(url) as answer:
        body = await answer.read()
        return answer.status, json.loads(body) if answer.content_type == "application/json" else body.decode()


async def test_the_document_is_as_described_with_null_where_nothing_is_known(served, client):
    status, document = await get(client, f"{await served(board_with(ready('a'), failed('b')))}/status")
    assert status == 200
    schema("Status").validate(document)
    assert document["apiVersion"] == "model-agent/v1"
    assert [model["name"] for model in document["models"]] == ["a", "b"]
    assert document["memory"]["budgetBytes"] is None
    assert document["models"][0]["reason"] is None


async def test_nothing_secret_of_a_uri_is_shown(served, client):
    url = await served(board_with(ready("a", uri="https://user:secret@host/m?sig=secret#secret")))
    _, document = await get(client, f"{url}/status")
    assert "secret" not in json.dumps(document)
    assert document["models"][0]["spec"]["storageUri"] == "https://host/m"


async def test_one_model_is_what_the_document_says_of_it(served, client):
    url = await served(board_with(ready("a"), failed("b")))
    _, document = await get(client, f"{url}/status")
    status, model = await get(client, f"{url}/status/b")
    assert status == 200
    assert {key: model[key] for key in document["models"][1]} == document["models"][1]


async def test_one_model_is_explained_and_has_its_history(served, client):
    board = board_with(ready("b"))
    board.post(failed("b"))
    _, model = await get(client, f"{await served(board)}/status/b")
    schema("Explained").validate(model)
    assert [each["phase"] for each in model["history"]] == ["Ready", "Failed"]
    assert model["explanation"]["attempts"] == model["history"][1:]
    assert model["explanation"]["remedy"].startswith("Correct storageUri")
    assert model["explanation"]["nextTime"] == model["nextRetryTime"]


async def test_a_model_that_is_not_there_is_told_in_words(served, client):
    status, error = await get(client, f"{await served(board_with())}/status/nobody")
    assert status == 404
    schema("Error").validate(error)


def refusing(board: Board, *entries: Rejection, error: tuple[Reason, str] | None = None) -> Board:
    board.say(config=replace(board.config, digest="d" * 64, rejected=entries, error=error))
    return board


NO_MEMORY = Rejection("a", Reason.INVALID_MEMORY, "entry [0]: memory '4 gigs' is no quantity")


async def test_a_rejected_model_is_answered_with_its_rejection(served, client):
    status, model = await get(client, f"{await served(refusing(board_with(), NO_MEMORY))}/status/a")
    schema("Explained").validate(model)
    assert (status, model["ready"], model["reason"]) == (200, False, "InvalidMemory")
    answer = model["explanation"]
    assert "Nothing serves under this name" in answer["summary"]
    assert answer["remedy"].startswith("Write memory as Kubernetes does")
    assert answer["refusal"]["message"] == NO_MEMORY.message


async def test_a_rejected_model_that_serves_says_both(served, client):
    _, model = await get(client, f"{await served(refusing(board_with(ready('a')), NO_MEMORY))}/status/a")
    schema("Explained").validate(model)
    assert (model["phase"], model["ready"], model["reason"]) == ("Ready", True, None)
    assert model["explanation"]["summary"].startswith("Rejected: Entry [0]: memory '4 gigs' is no quantity.")
    assert model["explanation"]["summary"].endswith("revision abababababab serves.")


async def test_while_the_whole_document_is_refused_every_answer_says_so(served, client):
    error = (Reason.CONFIG_REJECTED, "line 3 column 1: no JSON")
    url = await served(refusing(board_with(ready("a")), error=error))
    _, there = await get(client, f"{url}/status/a")
    status, absent = await get(client, f"{url}/status/b")
    _, document = await get(client, f"{url}/status")
    schema("Explained").validate(there)
    schema("Error").validate(absent)
    schema("Status").validate(document)
    assert there["explanation"]["refusal"]["whole"] is True
    assert "accepted last" in there["explanation"]["summary"]
    assert (status, "line 3" in absent["message"]) == (404, True)
    assert absent["explanation"]["remedy"].startswith("Correct it")
    assert document["config"]["explanations"]["ConfigRejected"]["remedy"].startswith("Correct it")


async def test_a_page_is_continued_without_a_limit_too(served, client):
    _, page = await get(client, f"{await served(board_with(*map(ready, 'abc')))}/status?continue=a")
    assert ([model["name"] for model in page["models"]], page["continue"]) == (["b", "c"], None)


async def test_pages_together_are_the_whole(served, client):
    names = [f"m{index}" for index in range(7)]
    url = await served(board_with(*map(ready, names)))
    seen, after = [], ""
    while after is not None:
        _, page = await get(client, f"{url}/status?limit=3&continue={after}")
        assert len(page["models"]) <= 3
        seen += [model["name"] for model in page["models"]]
        after = page["continue"]
    assert seen == names


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10001", "9" * 30, "1e3", "²"])
async def test_a_limit_that_is_none_is_refused_in_words(served, client, limit):
    status, error = await get(client, f"{await served(board_with())}/status?limit={limit}")
    assert (status, error["reason"]) == (400, "BadRequest")


async def test_a_change_and_a_running_download_show_at_once(served, client):
    board = board_with(ready("a"))
    url = await served(board)
    await get(client, f"{url}/status")
    board.post(failed("a"))
    assert (await get(client, f"{url}/status/a"))[1]["phase"] == "Failed"
    board.progress = lambda _: ProgressReading(1, 4, 2.0, 1.5)
    board.drop("a")
    assert (await get(client, f"{url}/status"))[1]["models"] == []


async def test_liveness_is_that_the_loop_turns(served, client):
    assert (await get(client, f"{await served(board_with())}/healthz"))[0] == 200
    assert (await get(client, f"{await served(board_with(), alive=False)}/healthz"))[0] == 503


async def test_readiness_lists_what_is_missing_when_asked(served, client):
    board = board_with()
    board.missing = lambda: ("a: Downloading", "b: Pending")
    url = await served(board)
    assert await get(client, f"{url}/readyz") == (503, "waits for 2 more\n")
    assert await get(client, f"{url}/readyz?verbose") == (503, "a: Downloading\nb: Pending\n")
    board.missing = tuple
    assert (await get(client, f"{url}/readyz"))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_the_port_is_read_only(served, client, method):
    async with client.request(method, f"{await served(board_with())}/status") as answer:
        assert answer.status == 405


described = schemathesis.openapi.from_dict(OPENAPI)


# /events does not end; test_events.py reads it.
@described.exclude(path="/events").parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case, status_url):
    query = case.query or {}
    if "wait" in query and re.fullmatch(r"[0-9.]*", str(query.get("timeout", ""))):
        case.query = query | {"timeout": 0}  # nobody is going to change anything
    case.call_and_validate(base_url=status_url)
