"""Events at an API server: one object a reason, counted; an agent that may not is quiet after one line."""

import asyncio
import json

import pytest

from agent.core.errors import TerminalError
from agent.kube.events import Involved, caused, emit, event_for
from agent.reconcile.events import PodEvents
from agent.reconcile.loop import Clock
from tests.web.boards import board_with, failed

POD = Involved("v1", "Pod", "default", "pod-7", "uid-7")
PLACE = {"POD_NAME": "pod-7", "POD_NAMESPACE": "default", "POD_UID": "uid-7"}


def told(reason="NotFound", message="m: gone", about="m", now="2026-01-01T00:00:00Z"):
    return event_for(POD, "model-agent", "pod-7", reason, message, now, good=False, about=about)


async def test_an_event_is_created_once_and_counted_with_the_rights_to_create_and_patch_alone(server, client):
    await emit(client, told())
    await emit(client, told(message="m: still gone", now="2026-01-01T00:00:09Z"))
    await emit(client, told(about="other"))
    await emit(client, told(reason="AccessDenied"))
    first, *others = server.objects("Event")
    assert (first["count"], first["message"], first["lastTimestamp"]) == (
        2,
        "m: still gone",
        "2026-01-01T00:00:09Z",
    )
    assert first["firstTimestamp"] == "2026-01-01T00:00:00Z"
    assert [each["count"] for each in others] == [1, 1]
    assert {verb for verb, *_ in server.calls} == {"create", "patch"}


def test_no_message_holds_a_secret_a_forged_line_or_no_end():
    made = told(message="x\n\x1b[2J https://user:c4n4ry@host/p?X-Amz-Signature=c4n4ry " + "y" * 5000)[
        "message"
    ]
    assert "c4n4ry" not in made
    assert made.isprintable()
    assert len(made) <= 1024


@pytest.fixture
def kubeconfig(server, tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            }
        )
    )
    return {"KUBECONFIG": str(path), **PLACE}


async def running(environ, board):
    loop = asyncio.get_running_loop()
    events = PodEvents(board, environ, Clock(loop.time, lambda: 1.7e9, lambda: 0.5))
    return asyncio.create_task(events.run())


async def until(true) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_the_agent_tells_the_events_of_its_pod(server, kubeconfig):
    board = board_with()
    task = await running(kubeconfig, board)
    board.post(failed("m"))
    await until(lambda: server.objects("Event"))
    task.cancel()
    (found,) = server.objects("Event")
    assert (found["involvedObject"]["kind"], found["involvedObject"]["uid"]) == ("Pod", "uid-7")
    assert (found["reason"], found["source"]["component"]) == ("NotFound", "model-agent")


async def test_without_the_rights_that_is_said_once_and_the_agent_goes_on(server, kubeconfig, caplog):
    server.fail(403, times=99, path="events")
    board = board_with()
    task = await running(kubeconfig, board)
    for number in range(5):
        board.post(failed(f"m{number}"))
        await asyncio.sleep(0)
    await until(lambda: "config/events" in caplog.text)
    board.post(failed("late"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    assert sum("config/events" in line for line in caplog.messages) == 1
    assert server.objects("Event") == []


@pytest.mark.parametrize("missing", [*PLACE, "KUBECONFIG"])
async def test_without_a_pod_or_an_api_server_that_is_said_and_the_agent_goes_on(kubeconfig, missing, caplog):
    board = board_with()
    task = await running({name: value for name, value in kubeconfig.items() if name != missing}, board)
    await until(lambda: "events are told" in caplog.text)
    board.post(failed("m"))
    assert not task.done()
    task.cancel()


async def test_what_is_refused_for_good_is_a_terminal_error(server, client):
    server.fail(403, path="events")
    with pytest.raises(TerminalError):
        await emit(client, told())


async def test_an_event_that_is_told_again_of_the_same_cause_is_not_counted_again(server, client):
    for cause in ("one", "one", "two", "two", "one"):
        await emit(client, caused(told(), cause))
    (event,) = server.objects("Event")
    assert event["count"] == 3
