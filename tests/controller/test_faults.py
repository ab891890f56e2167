"""The controller's faults of the catalogue (O1 to O15), as far as they are the controller's own.

O2, O3 and O8 have their closest tests in tests/kube; O10 and O12 in tests/core/test_placement.py.
"""

import asyncio
import json

import pytest

from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import Cluster, inference_service


def outcome(cluster):
    """All that the controller writes, without versions and times."""
    told = {}
    for obj in cluster.server.objects("TrainedModel"):
        status = json.loads(json.dumps(obj.get("status")))
        for item in (status or {}).get("conditions", []):
            item.pop("lastTransitionTime")
        told[obj["metadata"]["name"]] = status
    maps = {obj["metadata"]["name"]: obj["data"] for obj in cluster.server.objects("ConfigMap")}
    events = {
        (each["involvedObject"]["name"], each["reason"]): each["count"]
        for each in cluster.server.objects("Event")
    }
    return told, maps, events


@pytest.mark.parametrize(
    ("status", "after"), [(500, False), (503, True), (429, False), (None, False), (None, True)]
)
async def test_o1_an_api_server_in_trouble_is_survived(cluster, status, after):
    for name in "ab":
        cluster.server.put(trained_model(name))
    for method in ("GET", "PATCH", "POST"):
        cluster.server.fail(status, times=2, method=method, after=after, headers={"Retry-After": "0"})
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("a", "b"))


async def test_o1_writes_that_are_refused_do_not_stop_the_others(cluster):
    for name in "ab":
        cluster.server.put(trained_model(name))
    cluster.server.fail(403, times=1000, method="PATCH", path="trainedmodels/a/")
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("b"))
    assert cluster.models() == ["a", "b"]
    assert cluster.condition("a") is None


async def test_o3_all_watches_break_while_everything_changes(cluster):
    for name in "abc":
        cluster.server.put(trained_model(name, memory="1Mi"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready(*"abc"))
        cluster.server.forget("TrainedModel", "a")
        cluster.server.put(trained_model("d", memory="1Mi"))
        cluster.server.compact()
        await cluster.server.drop()
        await cluster.until(lambda: cluster.models() == ["b", "c", "d"])
        await cluster.until(lambda: cluster.ready(*"bcd"))
        await cluster.settle(controller)


async def test_o3_a_server_that_knows_no_trained_models_for_a_while_takes_nothing_away(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        cluster.server.fail(404, times=1000, path="trainedmodels")
        cluster.server.compact()
        await cluster.server.drop()
        await cluster.settle(controller)
        assert cluster.models() == ["m"]
    async with cluster.controller() as controller:  # nor after a restart
        await cluster.until(
            lambda: cluster.server.counted("list")["list", "serving.kserve.io", "trainedmodels"] > 3
        )
        assert not controller.view.ready
        assert cluster.models() == ["m"]


async def test_o4_a_conflict_is_read_again_and_our_fields_win_without_touching_others(cluster):
    cluster.server.put(trained_model("m"))
    cluster.server.fail(409, times=3, method="PATCH")
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
        stored = cluster.server.get("ConfigMap", "modelconfig-p-0")
        theirs = {**stored, "data": stored["data"] | {"other": "kept"}}
        cluster.server.put(theirs)
        cluster.server.put(trained_model("n"))
        await cluster.until(lambda: cluster.ready("m", "n"))
    assert cluster.server.get("ConfigMap", "modelconfig-p-0")["data"]["other"] == "kept"


async def come_to_rest(cluster):
    """Run a controller until all is as it should be; return what it left."""
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("a", "b") and cluster.condition("c") is not None)
        await cluster.settle(controller)
    return outcome(cluster)


def fill(cluster):
    cluster.server.put(trained_model("a"))
    cluster.server.put(trained_model("b"))
    cluster.server.put(trained_model("c", memory="9Gi"))
    cluster.server.put(trained_model("going", finalizers=["trainedmodel.finalizer"]))
    cluster.server.delete("TrainedModel", "going")


@pytest.fixture(scope="module")
def undisturbed():
    async def run():
        async with Cluster() as cluster:
            cluster.server.put(inference_service())
            for name in ("pod-a", "pod-b"):
                await cluster.pod(name)
            fill(cluster)
            return await come_to_rest(cluster)

    return asyncio.run(run())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 9))
async def test_o5_a_crash_at_any_write_is_healed_by_the_next_start(cluster, undisturbed, write, after):
    fill(cluster)
    cluster.server.crash_at(write, after=after)
    async with cluster.controller() as controller:
        await cluster.until(
            lambda: cluster.server.crashed.is_set() or (controller.quiet and cluster.ready("a", "b"))
        )
    cluster.server.heal()
    assert await come_to_rest(cluster) == undisturbed
    assert set(undisturbed[1]) == {"modelconfig-p-0"}
    assert set(undisturbed[0]) == {"a", "b", "c"}
    assert undisturbed[2] == {("a", "Loaded"): 1, ("b", "Loaded"): 1, ("c", "MemoryResourceNotAvailable"): 1}


async def test_o6_a_reading_older_than_our_own_write_makes_nothing_flap(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
        stale = [json.loads(json.dumps(obj)) for obj in cluster.server.objects("TrainedModel")]
        cluster.server.put(trained_model("m", uri="s3://b/new"))
        await cluster.until(
            lambda: cluster.server.get("TrainedModel", "m")["status"]["observedGeneration"] == 2
        )
        await cluster.settle(controller)
        writes = len(cluster.server.writes)
        for obj in stale:  # a watch that replays the past
            for informer in controller.view._kinds.values():
                if informer.resource.plural == "trainedmodels":
                    informer._follow("MODIFIED", obj)
        await cluster.settle(controller)
        assert len(cluster.server.writes) == writes


async def test_o7_what_was_deleted_while_nobody_looked_is_withdrawn(cluster):
    for name in "ab":
        cluster.server.put(trained_model(name))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("a", "b"))
    cluster.server.forget("TrainedModel", "a")
    async with cluster.controller():
        await cluster.until(lambda: cluster.models() == ["b"])


async def test_o8_one_that_does_not_lead_writes_nothing(cluster):
    cluster.server.put(trained_model("m"))
    cluster.leading.held = False
    async with cluster.controller() as controller:
        await cluster.until(lambda: controller.view.ready)
        await asyncio.sleep(0.3)
        assert cluster.server.writes == []


async def test_o8_two_that_lead_by_mistake_still_agree(cluster):
    for name in "abc":
        cluster.server.put(trained_model(name, memory="1Mi"))
    async with cluster.controller() as one, cluster.controller() as two:
        await cluster.until(lambda: cluster.ready(*"abc"))
        cluster.server.delete("TrainedModel", "a")
        cluster.server.put(trained_model("d", memory="1Mi"))
        await cluster.until(lambda: cluster.models() == ["b", "c", "d"] and cluster.ready(*"bcd"))
        await cluster.settle(one)
        await cluster.settle(two)


async def test_o9_a_parent_that_goes_first_holds_nothing_up(cluster):
    cluster.server.put(trained_model("m", finalizers=["trainedmodel.finalizer"]))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
        cluster.server.delete("InferenceService", "p")
        await cluster.until(lambda: cluster.condition("m") == ("False", "InferenceServiceNotFound"))
        cluster.server.delete("TrainedModel", "m")
        await cluster.until(lambda: cluster.server.get("TrainedModel", "m") is None)


async def test_o10_a_list_that_would_be_too_large_is_never_cut(cluster):
    cluster.server.put(inference_service("big", memory="1Ti"))
    for number in range(300):
        cluster.server.put(trained_model(f"m{number:03}", "s3://" + "x" * 4000, "1Mi", "big"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.models("big"), seconds=60)
        full = ("True", "ConfigTooLarge")
        full = ("True", "ConfigTooLarge")
        await cluster.until(lambda: cluster.condition("m299", "Stalled") == full, seconds=60)
    stored = cluster.server.get("ConfigMap", "modelconfig-big-0")["data"]["models.json"]
    assert 1_000_000 < len(stored.encode()) < 2**20


async def test_o10_a_longer_uri_that_would_overflow_the_list_keeps_the_former_one_and_is_told(cluster):
    cluster.server.put(inference_service("big", memory="1Ti"))
    for number in range(255):
        cluster.server.put(trained_model(f"m{number:03}", "s3://" + "x" * 4000, "1Mi", "big"))
    cluster.server.put(trained_model("short", "s3://b/1", "1Mi", "big"))
    async with cluster.controller():
        await cluster.until(lambda: len(cluster.models("big") or []) == 256)
        cluster.server.put(trained_model("short", "s3://y" + "<" * 1500, "1Mi", "big"))  # six bytes each
        await cluster.until(lambda: cluster.condition("short", "Stalled") == ("True", "ConfigTooLarge"))
        for number in range(3):
            cluster.server.put(trained_model(f"m{number:03}", "s3://b/other", "1Mi", "big"))
        await cluster.until(
            lambda: "s3://b/other" in str(cluster.server.get("ConfigMap", "modelconfig-big-0"))
        )
        await cluster.until(lambda: "s3://y" in str(cluster.server.get("ConfigMap", "modelconfig-big-0")))


@pytest.mark.parametrize("method", ["PATCH", "GET"])
async def test_a_config_map_that_may_not_be_written_or_read_is_told_and_holds_nothing_else_up(
    cluster, method
):
    cluster.server.put(trained_model("m"))
    cluster.server.put(trained_model("going", finalizers=["trainedmodel.finalizer"]))
    cluster.server.delete("TrainedModel", "going")
    cluster.server.put(inference_service("q"))
    cluster.server.put(trained_model("other", parent="q"))
    await cluster.pod("pod-q", parent="q")
    cluster.server.fail(403, times=1000, method=method, path="configmaps/modelconfig-p")
    async with cluster.controller(refused_seconds=0.2):
        await cluster.until(lambda: cluster.condition("m", "Stalled") == ("True", "ApiRejected"))
        await cluster.until(lambda: cluster.condition("m", "Loaded") == ("False", "ApiRejected"))
        await cluster.until(lambda: cluster.server.get("TrainedModel", "going") is None)
        await cluster.until(lambda: cluster.ready("other"))
        assert "modelconfig-p-0" in str(cluster.server.get("TrainedModel", "m")["status"])
        cluster.server.heal()
        await cluster.until(lambda: cluster.ready("m"))


async def test_an_api_server_that_keeps_failing_on_a_config_map_is_told_after_some_tries(cluster):
    cluster.server.put(trained_model("m"))
    cluster.server.fail(500, times=1000, method="PATCH", path="configmaps")
    async with cluster.controller():
        await cluster.until(lambda: cluster.condition("m", "Stalled") == ("True", "ApiUnavailable"))


async def test_o11_an_object_made_again_under_its_name_is_a_new_one(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
        cluster.server.delete("TrainedModel", "m")
        cluster.server.put(trained_model("m", uri="s3://b/other", memory="2Mi"))
        await cluster.until(lambda: "s3://b/other" in cluster.agents["pod-a"].document())
        await cluster.until(lambda: cluster.ready("m"))


async def test_o15_agents_that_disagree_are_counted_and_the_odd_one_is_named(cluster):
    cluster.agents["pod-b"].silent = True
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.models() == ["m"])
        await cluster.until(
            lambda: cluster.condition("m", "Loaded") == ("Unknown", "AgentUnreachable"), seconds=20
        )
    status = cluster.server.get("TrainedModel", "m")["status"]
    assert (status["loaded"], status["replicas"]["unknown"]) == ("1/2", 1)
    assert (
        "pod-b: AgentUnreachable" in next(c for c in status["conditions"] if c["type"] == "Loaded")["message"]
    )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'{"models":5,"config":{}}', b"[" * 100_000, b"\xff"]
)
async def test_an_agent_that_talks_nonsense_counts_as_one_that_does_not_answer(cluster, body):
    cluster.agents["pod-a"].body = body
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.condition("m", "Loaded") == ("Unknown", "AgentUnreachable"))


async def test_a_pod_that_is_not_ready_is_not_counted_and_a_new_one_does_not_make_it_flap(cluster):
    cluster.server.put(trained_model("m"))
    seen = []
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
        history = cluster.server.collections["serving.kserve.io/v1alpha1", "trainedmodels"].history
        before = len(history)
        await cluster.pod("pod-c")
        await cluster.until(lambda: cluster.server.get("TrainedModel", "m")["status"]["loaded"] == "3/3")
        seen = [c["status"] for _, _, obj in history[before:] for c in obj["status"]["conditions"]]
        gone = cluster.server.get("Pod", "pod-c")
        cluster.server.put(gone | {"status": {"podIP": "127.0.0.1", "conditions": []}})
        await cluster.until(lambda: cluster.server.get("TrainedModel", "m")["status"]["loaded"] == "2/2")
    assert set(seen) == {"True"}


async def test_a_thousand_rings_are_a_few_looks(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
        before = len(cluster.server.writes)
        for number in range(1000):
            pod = cluster.server.get("Pod", "pod-a")
            annotated = {**pod["metadata"], "annotations": {"n": str(number)}}
            cluster.server.put({**pod, "metadata": annotated})
        await cluster.settle(controller)
        assert len(cluster.server.writes) == before


async def test_fifty_edits_end_in_the_last():
    async with Cluster() as cluster:
        cluster.server.put(inference_service())
        await cluster.pod("pod-a")
        async with cluster.controller() as controller:
            for number in range(50):
                cluster.server.put(trained_model("m", uri=f"s3://b/{number}"))
                await asyncio.sleep(0)
            await cluster.until(lambda: "s3://b/49" in cluster.agents["pod-a"].document())
            await cluster.until(lambda: cluster.ready("m"))
            await cluster.settle(controller)
            status = cluster.server.get("TrainedModel", "m")["status"]
            assert (
                status["observedGeneration"]
                == cluster.server.get("TrainedModel", "m")["metadata"]["generation"]
            )
