import json

import pytest

from agent.core.validation import faults
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import Cluster, deployment, inference_service, pod, service


async def test_a_trained_model_becomes_ready_on_every_replica(cluster):
    cluster.server.put(trained_model("m", memory="0.5Gi"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
    stored = cluster.server.get("ConfigMap", "modelconfig-p-0")
    assert stored["data"]["models.json"] == (
        '[{"modelName":"m","modelSpec":{"storageUri":"s3://b/m","framework":"sklearn","memory":"512Mi"}}]'
    )
    owner = stored["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("InferenceService", "p", True)
    status = cluster.server.get("TrainedModel", "m")["status"]
    assert status["url"] == "http://p.default.example.com/v1/models/m:predict"
    assert status["address"]["url"] == "http://p.default.svc.cluster.local/v1/models/m:predict"
    assert (status["loaded"], status["replicas"]["desired"], status["observedGeneration"]) == ("2/2", 2, 1)
    assert [c["type"] for c in status["conditions"]] == [
        "InferenceServiceReady", "IsMMSPredictor", "Loaded", "MemoryResourceAvailable", "Ready",
    ]  # fmt: skip


async def test_the_config_map_is_there_before_any_model_so_that_pods_can_start(cluster):
    async with cluster.controller():
        await cluster.until(lambda: cluster.models() == [])


async def test_models_come_change_and_go(cluster):
    async with cluster.controller() as controller:
        for name in ("a", "b"):
            cluster.server.put(trained_model(name))
        await cluster.until(lambda: cluster.ready("a", "b"))
        cluster.server.put(trained_model("a", uri="s3://b/new"))
        await cluster.until(lambda: "s3://b/new" in cluster.agents["pod-a"].document())
        cluster.server.delete("TrainedModel", "b")
        await cluster.until(lambda: cluster.models() == ["a"])
        await cluster.settle(controller)
        assert cluster.ready("a")
        assert cluster.server.get("TrainedModel", "a")["status"]["observedGeneration"] == 2


async def test_the_last_model_that_goes_leaves_an_empty_list(cluster):
    cluster.server.put(trained_model("a"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.models() == ["a"])
        cluster.server.delete("TrainedModel", "a")
        await cluster.until(lambda: cluster.models() == [])


async def test_nothing_is_written_once_all_is_as_it_should_be(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
    writes = len(cluster.server.writes)
    async with cluster.controller() as controller:  # a restart of the controller is invisible
        await cluster.until(lambda: controller.quiet)
        await cluster.settle(controller)
    assert len(cluster.server.writes) == writes


@pytest.mark.scripted
async def test_a_change_costs_at_most_three_writes(cluster):
    for name in "abcd":
        cluster.server.put(trained_model(name))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready(*"abcd"))
        await cluster.settle(controller)
        before = len(cluster.server.writes)
        cluster.server.put(trained_model("e", memory="1Mi"))
        cluster.server.delete("TrainedModel", "a")
        await cluster.until(lambda: cluster.models() == ["b", "c", "d", "e"])
        await cluster.settle(controller)
        kinds = [kind for kind, _ in cluster.server.writes[before:]]
    assert kinds.count("ConfigMap") <= 2
    assert len(kinds) <= 5


async def test_a_replica_that_fails_is_named_and_told_in_an_event(cluster):
    cluster.agents["pod-b"].failing["m"] = ("LoadRejected", "bad pickle")
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.condition("m", "Loaded") == ("False", "LoadRejected"))
        assert cluster.condition("m", "Stalled") == ("True", "LoadRejected")
        assert cluster.server.get("TrainedModel", "m")["status"]["loaded"] == "1/2"
        cluster.agents["pod-b"].failing.clear()
        await cluster.until(lambda: cluster.ready("m"))
        await cluster.settle(controller)
    told = {event["reason"]: event for event in cluster.server.objects("Event")}
    assert set(told) == {"LoadRejected", "Loaded"}
    assert told["LoadRejected"]["type"] == "Warning"
    assert "pod-b: LoadRejected: bad pickle" in told["LoadRejected"]["message"]
    assert told["Loaded"]["message"] == "loaded on 2 of 2 replicas"


async def test_the_same_event_again_is_counted_and_not_repeated(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        for _ in range(2):
            cluster.agents["pod-b"].failing["m"] = ("LoadRejected", "bad")
            await cluster.until(lambda: cluster.condition("m") == ("False", "LoadRejected"))
            cluster.agents["pod-b"].failing.clear()
            await cluster.until(lambda: cluster.ready("m"))
        await cluster.until(lambda: sorted(e["count"] for e in cluster.server.objects("Event")) == [2, 2])


@pytest.mark.scripted
async def test_an_event_that_could_not_be_stored_is_sent_again(cluster):
    cluster.agents["pod-b"].failing["m"] = ("LoadRejected", "bad pickle")
    cluster.server.put(trained_model("m"))
    cluster.server.fail(503, times=2, path="events")
    async with cluster.controller() as controller:
        await cluster.until(
            lambda: [e["reason"] for e in cluster.server.objects("Event")] == ["LoadRejected"]
        )
        await cluster.settle(controller)
    assert [e["count"] for e in cluster.server.objects("Event")] == [1]


@pytest.mark.scripted
async def test_memory_is_admitted_oldest_first_and_the_rest_is_told_and_let_in_when_there_is_room(cluster):
    for number, name in enumerate(["c", "b", "a"]):
        cluster.server.put(
            trained_model(name, memory="400Mi", creationTimestamp=f"2026-01-01T00:00:0{number}Z")
        )
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("b", "c"))
        await cluster.settle(controller)
        assert cluster.models() == ["b", "c"]
        assert cluster.condition("a", "MemoryResourceAvailable") == ("False", "MemoryResourceNotAvailable")
        assert cluster.condition("a", "Stalled")[0] == "True"
        cluster.server.delete("TrainedModel", "c")
        await cluster.until(lambda: cluster.ready("a", "b"))


async def test_a_hand_that_edits_or_deletes_the_config_map_is_set_right(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        right = cluster.server.get("ConfigMap", "modelconfig-p-0")["data"]
        edited = cluster.server.get("ConfigMap", "modelconfig-p-0") | {"data": {"models.json": "[{}]"}}
        cluster.server.put(edited)
        await cluster.until(lambda: cluster.server.get("ConfigMap", "modelconfig-p-0")["data"] == right)
        cluster.server.delete("ConfigMap", "modelconfig-p-0")
        await cluster.until(lambda: cluster.models() == ["m"])
        await cluster.settle(controller)


async def test_the_empty_config_map_that_kserve_creates_is_taken_over(cluster):
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "modelconfig-p-0", "namespace": "default", "labels": {"mine": "x"}},
        "data": {"models.json": "[]"},
    }
    cluster.server.put(made, manager="manager")
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
    assert cluster.server.get("ConfigMap", "modelconfig-p-0")["metadata"]["labels"]["mine"] == "x"


async def test_a_list_that_kserves_controller_writes_is_left_alone_and_said(cluster):
    theirs = json.dumps([{"modelName": "m", "modelSpec": {"storageUri": "s3://b/m"}}])
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "modelconfig-p-0", "namespace": "default"},
        "data": {"models.json": theirs},
    }
    cluster.server.put(made, manager="manager")
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.condition("m", "Stalled") == ("True", "ForeignWriter"))
        await cluster.settle(controller)
    assert cluster.server.get("ConfigMap", "modelconfig-p-0")["data"]["models.json"] == theirs


@pytest.mark.scripted
async def test_with_take_over_the_list_is_ours_and_a_controller_that_goes_on_writing_is_told(cluster):
    theirs = json.dumps([{"modelName": "old", "modelSpec": {"storageUri": "s3://b/m"}}])
    metadata = {"name": "modelconfig-p-0", "namespace": "default"}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"models.json": theirs}}
    cluster.server.put(made, manager="manager")
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.condition("m", "Stalled") == ("True", "ForeignWriter"))
        await cluster.settle(controller)
        assert "--take-over" in str(cluster.server.get("TrainedModel", "m")["status"])
    async with cluster.controller(take_over=True) as controller:
        await cluster.until(lambda: cluster.models() == ["m"] and cluster.ready("m"))
        await cluster.settle(controller)
        cluster.server.put(made, manager="manager", time="2999-01-01T00:00:00Z")
        await cluster.until(lambda: cluster.condition("m", "Stalled") == ("True", "ForeignWriter"))
        await cluster.settle(controller)
    assert cluster.models() == ["old"]


async def test_a_parent_that_is_missing_or_not_multi_model_is_said_and_nothing_is_deleted(cluster):
    cluster.server.put(inference_service("single", storageUri="s3://b/one"))
    cluster.server.put(trained_model("orphan", parent="none"))
    cluster.server.put(trained_model("wrong", parent="single"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.condition("orphan") == ("False", "InferenceServiceNotFound"))
        await cluster.until(lambda: cluster.condition("wrong") == ("False", "IsNotMMSPredictor"))
        assert cluster.models("single") is None
        cluster.server.put(inference_service("none"))
        await cluster.until(lambda: cluster.models("none") == ["orphan"])
    assert {obj["metadata"]["name"] for obj in cluster.server.objects("TrainedModel")} == {"orphan", "wrong"}


@pytest.mark.scripted
async def test_a_spec_that_became_bad_takes_nothing_away(cluster):
    cluster.server.put(trained_model("m"))
    async with cluster.controller() as controller:
        await cluster.until(lambda: cluster.ready("m"))
        before = cluster.agents["pod-a"].document()
        bad = trained_model("m", uri="nowhere")
        assert faults(bad)
        cluster.server.put(bad)
        await cluster.until(lambda: cluster.condition("m") == ("False", "InvalidSpec"))
        await cluster.settle(controller)
        assert cluster.agents["pod-a"].document() == before


@pytest.mark.scripted
async def test_a_bad_object_does_not_keep_the_others_back(cluster):
    cluster.server.put(trained_model("bad", memory={"odd": 1}))
    cluster.server.put({**trained_model("worse"), "spec": {"inferenceService": "p"}})
    cluster.server.put(trained_model("good"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("good"))
        await cluster.until(
            lambda: cluster.condition("bad") == cluster.condition("worse") == ("False", "InvalidSpec")
        )
    assert cluster.models() == ["good"]


async def test_kserves_finalizer_is_taken_off_what_is_going_after_the_list(cluster):
    cluster.server.put(trained_model("m", finalizers=["other", "trainedmodel.finalizer"]))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
        cluster.server.delete("TrainedModel", "m")
        await cluster.until(lambda: cluster.models() == [])
        await cluster.until(
            lambda: cluster.server.get("TrainedModel", "m")["metadata"]["finalizers"] == ["other"]
        )


async def test_without_kserve_a_labelled_deployment_is_the_parent():
    async with Cluster("InferenceService") as cluster:
        cluster.server.put(deployment())
        cluster.server.put(service())
        await cluster.pod("pod-a")
        cluster.server.put(trained_model("m"))
        async with cluster.controller():
            await cluster.until(lambda: cluster.ready("m"))
        stored = cluster.server.get("ConfigMap", "modelconfig-p-0")
        assert stored["metadata"]["ownerReferences"][0]["kind"] == "Deployment"
        status = cluster.server.get("TrainedModel", "m")["status"]
        assert status["url"] == "http://s.default.svc.cluster.local/v1/models/m:predict"


async def test_a_deployment_that_kserve_made_is_no_parent_of_its_own(cluster):
    cluster.server.put(deployment(parent="q"))
    cluster.server.put(trained_model("m", parent="q"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.condition("m") == ("False", "InferenceServiceNotFound"))
    assert cluster.models("q") is None


async def test_models_are_spread_over_shards_and_each_has_its_shards_address():
    async with Cluster("InferenceService") as cluster:
        for number in (0, 1):
            cluster.server.put(deployment(f"d{number}", shard=number, memory="300Mi"))
            cluster.server.put(service(f"s{number}", shard=number))
            await cluster.pod(f"pod-{number}", shard=number)
        for name in "ab":
            cluster.server.put(trained_model(name))
        async with cluster.controller():
            await cluster.until(lambda: cluster.ready("a", "b"))
        assert sorted([cluster.models(shard=0), cluster.models(shard=1)]) == [["a"], ["b"]]
        urls = {cluster.server.get("TrainedModel", name)["status"]["url"].split(".")[0] for name in "ab"}
        assert urls == {"http://s0", "http://s1"}


async def test_a_model_that_must_move_is_loaded_there_before_it_is_withdrawn_here():
    async with Cluster("InferenceService") as cluster:
        cluster.server.put(deployment("d0", shard=0))
        cluster.server.put(service("s0", shard=0))
        await cluster.pod("pod-0", shard=0)
        for name in "ab":
            cluster.server.put(trained_model(name))
        async with cluster.controller() as controller:
            await cluster.until(lambda: cluster.ready("a", "b"))
            cluster.server.put(deployment("d1", shard=1))
            cluster.server.put(service("s1", shard=1))
            agent = await cluster.pod("pod-1", shard=1)
            agent.frozen = "[]"
            cluster.server.put(deployment("d0", shard=0, memory="300Mi"))
            await cluster.until(lambda: cluster.models(shard=1) == ["b"])
            await cluster.settle(controller)
            assert cluster.models(shard=0) == ["a", "b"]
            assert cluster.ready("b")
            agent.frozen = None
            await cluster.until(lambda: cluster.models(shard=0) == ["a"])
            await cluster.settle(controller)
        assert "http://s1." in cluster.server.get("TrainedModel", "b")["status"]["url"]


async def test_transformers_and_explainers_have_no_agent_and_are_no_replicas(cluster):
    for name in ("transformer", "explainer"):
        odd = cluster.server.put(pod(name))
        odd["metadata"]["labels"]["component"] = name
        cluster.server.put(odd)
    for name in ("pod-a", "pod-b"):
        there = cluster.server.get("Pod", name)
        named = there["metadata"]["labels"] | {"component": "predictor"}
        cluster.server.put({**there, "metadata": {**there["metadata"], "labels": named}})
    cluster.server.put(trained_model("m"))
    async with cluster.controller():
        await cluster.until(lambda: cluster.ready("m"))
    assert cluster.server.get("TrainedModel", "m")["status"]["loaded"] == "2/2"


@pytest.mark.scripted
async def test_status_only_says_loaded_and_writes_nothing_else(cluster):
    theirs = {"conditions": [{"type": "Ready", "status": "True"}], "url": "http://theirs"}
    cluster.server.put({**trained_model("m"), "status": theirs})
    cluster.agents["pod-a"].frozen = cluster.agents["pod-b"].frozen = json.dumps(
        [{"modelName": "m", "modelSpec": trained_model("m")["spec"]["model"]}]
    )
    async with cluster.controller(status_only=True) as controller:
        await cluster.until(lambda: cluster.condition("m", "Loaded") == ("True", "Loaded"))
        await cluster.settle(controller)
    status = cluster.server.get("TrainedModel", "m")["status"]
    assert (status["url"], cluster.condition("m")) == ("http://theirs", ("True", None))
    assert {kind for kind, _ in cluster.server.writes} == {"TrainedModel", "Event"}


async def test_a_schema_that_drops_our_fields_is_not_written_to_again_and_again():
    def kserves(obj):
        if obj["kind"] == "TrainedModel" and "status" in obj:
            for item in obj["status"].get("conditions", []):
                item.pop("observedGeneration", None)
            obj["status"] = {
                k: v for k, v in obj["status"].items() if k not in {"loaded", "replicas", "shard"}
            }
        return obj

    async with Cluster(prune=kserves) as cluster:
        cluster.server.put(inference_service())
        await cluster.pod("pod-a")
        cluster.server.put(trained_model("m"))
        async with cluster.controller() as controller:
            await cluster.until(lambda: cluster.ready("m"))
            await cluster.settle(controller)
            assert "loaded on 1 of 1" in str(cluster.server.get("TrainedModel", "m")["status"])
        writes = len(cluster.server.writes)
        async with cluster.controller() as controller:  # which remembers nothing of what the server keeps
            await cluster.until(lambda: controller.quiet)
            await cluster.settle(controller)
        assert len(cluster.server.writes) == writes
