import pytest

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.kube.client import ApiConflictError, ApiExpiredError, ApiNotFoundError
from agent.kube.resources import CONFIG_MAPS, TRAINED_MODELS
from tests.core.trainedmodels import trained_model


def config_map(name="c", **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {key.replace("_", "."): value for key, value in data.items()},
    }


async def test_all_pages_of_a_list_are_read(server, client):
    for number in range(1203):
        server.put(trained_model(f"m{number:04}"))
    found, version = await client.list(TRAINED_MODELS)
    assert (len(found), version) == (1203, "1203")
    assert server.counted("list")[("list", "serving.kserve.io", "trainedmodels")] == 3


async def test_a_list_that_expires_between_pages_says_so(server, client):
    for number in range(600):
        server.put(trained_model(f"m{number:04}"))
    server.fail(410, path="trainedmodels")
    with pytest.raises(ApiExpiredError):
        await client.list(TRAINED_MODELS)


async def test_applying_creates_then_owns_and_removes_what_is_no_longer_applied(server, client):
    await client.apply(CONFIG_MAPS, config_map(a="1", b="2"))
    await client.apply(CONFIG_MAPS, config_map(a="3"))
    assert server.get("ConfigMap", "c")["data"] == {"a": "3"}


async def test_applying_the_same_again_makes_no_new_version(server, client):
    first = await client.apply(CONFIG_MAPS, config_map(a="1"))
    again = await client.apply(CONFIG_MAPS, config_map(a="1"))
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]


async def test_a_version_that_is_gone_by_is_a_conflict(server, client):
    stored = await client.apply(CONFIG_MAPS, config_map(a="1"))
    await client.apply(CONFIG_MAPS, config_map(a="2"))
    stale = config_map(a="3")
    stale["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    with pytest.raises(ApiConflictError):
        await client.apply(CONFIG_MAPS, stale)
    with pytest.raises(ApiConflictError):
        await client.create(CONFIG_MAPS, config_map())


async def test_a_missing_object_and_a_missing_kind_are_not_found(server, client):
    with pytest.raises(ApiNotFoundError):
        await client.get(CONFIG_MAPS, "default", "none")
    del server.collections["serving.kserve.io/v1alpha1", "trainedmodels"]
    with pytest.raises(ApiNotFoundError):
        await client.list(TRAINED_MODELS)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (429, RetryableError, Reason.API_UNAVAILABLE),
        (500, RetryableError, Reason.API_UNAVAILABLE),
        (503, RetryableError, Reason.API_UNAVAILABLE),
        (None, RetryableError, Reason.API_UNAVAILABLE),
        (401, RetryableError, Reason.INVALID_CREDENTIALS),
        (403, TerminalError, Reason.API_REJECTED),
        (422, TerminalError, Reason.API_REJECTED),
    ],
)
async def test_every_failure_says_what_to_do_next_and_holds_no_token(server, client, status, kind, reason):
    server.fail(status, times=2, headers={"Retry-After": "7"})  # aiohttp asks a cut connection once more
    with pytest.raises(kind) as caught:
        await client.get(CONFIG_MAPS, "default", "c")
    assert caught.value.reason is reason
    assert "secret" not in str(caught.value)
    if status == 429:
        assert caught.value.retry_after_seconds == 7


async def test_the_status_is_written_apart_from_the_rest(server, client):
    server.put(trained_model("m"))
    status = {**trained_model("m"), "status": {"url": "http://x"}}
    del status["spec"]
    await client.apply(TRAINED_MODELS, status, subresource="status")
    stored = server.get("TrainedModel", "m")
    assert (stored["status"], stored["metadata"]["generation"]) == ({"url": "http://x"}, 1)
