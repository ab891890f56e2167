"""The controller's reader against the agent's own status port, so that the two cannot drift apart."""

import contextlib
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from agent.controller.agents import DEFAULT_PORT, Agents, is_ready, parse_report, status_url
from agent.core.model import Rejection
from agent.core.modelstatus import serves
from agent.core.reasons import Reason
from agent.core.trainedmodel import parse
from agent.telemetry.board import ConfigWord
from agent.telemetry.metrics import Metrics
from agent.web.guard import guard
from agent.web.render import Renderer
from agent.web.server import StatusSite
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import pod
from tests.web.boards import board_with, failed, ready


@pytest.fixture
async def agent():
    """Return the board of a real status port, and the pod that it would be in."""
    board = board_with(ready("a", "s3://b/m"), failed("b"))
    renderer = Renderer(board, lambda moment: moment)
    site = StatusSite(board, renderer, lambda: True, Metrics(board, lambda: 0.0).scrape)
    runner = web.AppRunner(site.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield board, pod("pod-a", port=runner.addresses[0][1])
    await runner.cleanup()


@pytest.fixture
async def agents():
    async with aiohttp.ClientSession() as session:
        changed = []
        agents = Agents(session, changed.append, ask_seconds=5.0)
        agents.told = changed
        yield agents


async def test_what_the_agent_says_is_understood(agent, agents):
    board, there = agent
    rejected = Rejection("r", Reason.INVALID_MEMORY, "entry [2]: words")
    board.say(config=ConfigWord("/p", "d1", "d0", 1, (rejected, Rejection(None, Reason.INVALID_NAME, "w"))))
    await agents.ask([there])
    report = agents.report(there)
    assert (report.problem, report.digest) == (None, None)  # in force, and not planned yet
    assert report.rejected == {"r": ("InvalidMemory", "entry [2]: words")}
    assert (report.models["b"].phase, report.models["b"].reason) == ("Failed", "NotFound")
    assert serves(report, parse(trained_model("a", memory="1Mi")), None)
    assert not serves(report, parse(trained_model("a", "s3://b/other", "1Mi")), None)
    assert not serves(report, parse(trained_model("b")), None)


async def test_the_document_that_counts_is_the_one_that_the_last_plan_was_made_from(agent, agents):
    board, there = agent
    board.say(config=ConfigWord("/p", "d2", "d2", 1, (), planned_digest="d1"))
    await agents.ask([there])
    assert agents.report(there).digest == "d1"
    board.say(config=replace(board.config, planned_digest="d2"))  # a plan that changes nothing else is news
    await agents.ask([there])
    assert agents.report(there).digest == "d2"


async def test_an_answer_that_did_not_change_is_not_news(agent, agents):
    board, there = agent
    for _ in range(3):
        await agents.ask([there])
    assert len(agents.told) == 1
    board.post(failed("c"))
    await agents.ask([there])
    assert len(agents.told) == 2
    assert "c" in agents.report(there).models


async def test_agents_that_ask_for_a_token_are_shown_the_one_in_the_file(tmp_path):
    token = tmp_path / "token"
    board = board_with(ready("a"))
    site = StatusSite(board, Renderer(board, lambda moment: moment), lambda: True, lambda _: (b"", ""))
    application = site.application()
    application.middlewares.insert(0, guard(token_file=token))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there = pod("pod-a", port=runner.addresses[0][1])
    token.write_text("first\n")
    async with aiohttp.ClientSession() as session:
        plain = Agents(session, lambda _: None, ask_seconds=5.0)
        known = Agents(session, lambda _: None, ask_seconds=5.0, token_file=token)
        for _ in range(2):
            await plain.ask([there])
            await known.ask([there])
            assert "--agent-token-file" in plain.report(there).problem
            assert known.report(there).problem is None
            token.write_text("second")  # rotated
        missing = Agents(session, lambda _: None, ask_seconds=5.0, token_file=tmp_path / "none")
        await missing.ask([there])
        assert "none" in missing.report(there).problem
    await runner.cleanup()


async def test_a_pod_that_nobody_answers_in_is_told_by_name_and_comes_back(agent, agents):
    _, there = agent
    gone = pod("pod-a", port=1)
    await agents.ask([there])
    await agents.ask([gone])
    assert agents.report(there).problem == "its agent does not answer (ClientConnectorError)"
    await agents.ask([there])
    assert agents.report(there).problem is None
    agents.forget([("default", "pod-a")])
    assert agents.report(there) is None


async def test_an_answer_without_end_is_not_read_to_its_end(agents):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            while True:
                await response.write(b" " * 2**20)
        return response

    application = web.Application()
    application.router.add_get("/status", endless)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there = pod("pod-a", port=runner.addresses[0][1])
    await agents.ask([there])
    assert agents.report(there).problem == "its agent's answer is longer than 8 MiB"
    await runner.cleanup()


def test_the_port_is_found_by_its_name_else_it_is_the_default():
    assert status_url(pod("p", port=7)) == "http://127.0.0.1:7/status"
    plain = pod("p") | {"spec": {"containers": [{"name": "agent"}]}}
    assert status_url(plain) == f"http://127.0.0.1:{DEFAULT_PORT}/status"
    native = plain | {"spec": {"initContainers": pod("p", port=8)["spec"]["containers"]}}
    assert status_url(native) == "http://127.0.0.1:8/status"
    six = plain | {"status": {"podIP": "fd00::1"}}
    assert status_url(six) == f"http://[fd00::1]:{DEFAULT_PORT}/status"


def test_only_a_ready_pod_with_an_address_that_is_not_going_counts():
    assert is_ready(pod("p"))
    assert not is_ready(pod("p") | {"status": {"podIP": "127.0.0.1"}})
    assert not is_ready(pod("p") | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    going = pod("p")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not is_ready(going)


def test_an_answer_of_another_shape_is_a_pod_that_does_not_answer():
    assert parse_report(pod("p"), b'{"models":[{}],"config":{}}').problem.startswith("its agent's answer")
