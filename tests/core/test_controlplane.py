"""The control plane's decision, driven as the shell drives it, with crashes and lost writes in between."""

import copy
import hashlib
import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.configmaps import foreign_writer, listed_models, needs_writing
from agent.core.controlplane import Reading, check, decide, decide_status_only, lay_out
from agent.core.modelstatus import ModelReport, PodReport
from agent.core.quantity import parse_quantity
from tests.core.trainedmodels import ANY, trained_model
from tests.fakes.cluster import deployment, inference_service

NAMES = "abcd"


class World:
    """One parent's objects, changed by hand and by decisions."""

    def __init__(self):
        self.models, self.maps, self.deployments = {}, {}, []
        self.service, self.agents, self.version = None, {}, 0

    def put(self, obj):
        name = obj["metadata"]["name"]
        stored = self.models.get(name)
        new = copy.deepcopy(obj)
        new["metadata"] |= {"uid": name, "generation": 1}
        if stored is not None:
            new["metadata"]["generation"] = stored["metadata"]["generation"] + (stored["spec"] != new["spec"])
            new["status"] = stored.get("status", {})
        self.models[name] = new

    def reading(self):
        reports = [
            PodReport(f"pod-{number}", number, self.agents.get(number, {}), {})
            for number in sorted(self.agents)
        ]
        models = [check(copy.deepcopy(obj)) for obj in self.models.values()]
        return Reading("default", "p", models, self.service, self.deployments, (), dict(self.maps), reports)

    def agents_catch_up(self):
        for number, stored in self.maps.items():
            self.agents[number] = {
                name: ModelReport("Ready", True, None, None, spec.storage_uri, spec.framework, spec.memory)
                for name, spec in listed_models(stored).items()
            }

    def step(self, crash_after=1_000):
        """One look of the controller, which dies after so many writes; return how many it made."""
        reading, made = self.reading(), 0
        layout = lay_out(reading)
        for number, obj in layout.config_maps.items():
            if made == crash_after:
                return made
            self.maps[number] = copy.deepcopy(obj)
            made += 1
        for write in decide(reading, layout, f"t{self.version}").statuses:
            if made == crash_after:
                return made
            self.models[write.obj["metadata"]["name"]]["status"] = write.status.to_json()
            made += 1
        self.version += 1
        return made

    def rest(self):
        """Look until nothing is written any more."""
        for _ in range(12):
            made = self.step()
            self.agents_catch_up()
            if made == 0 and self.step() == 0:
                return
        raise AssertionError("the controller does not come to rest")


def world_of(shards, models):
    world = World()
    if shards == "isvc":
        world.service = inference_service("p")
        world.service["metadata"]["uid"] = "p"
    else:
        world.deployments = [deployment(f"d{n}", shard=n, memory=memory) for n, memory in enumerate(shards)]
        for obj in world.deployments:
            obj["metadata"]["uid"] = obj["metadata"]["name"]
    for obj in models:
        world.put(obj)
    return world


SHARDS = st.just("isvc") | st.lists(st.sampled_from(["0", "512Mi", "1Gi"]), max_size=3)
SPECS = st.builds(
    trained_model,
    st.sampled_from(NAMES),
    st.sampled_from(["s3://b/1", "s3://b/2"]),
    st.sampled_from(["256Mi", "512Mi", "600Mi"]),
)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SPECS),
        st.tuples(st.just("spoil"), st.sampled_from(NAMES)),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("shards"), SHARDS),
        st.tuples(st.just("look"), st.integers(0, 4)),
        st.tuples(st.just("agents"), st.none()),
        st.tuples(st.just("hand"), st.sampled_from(["[]", "{", '[{"modelName":"x"}]'])),
    ),
    max_size=10,
)


def play(world, edits):
    for kind, value in edits:
        match kind:
            case "put":
                world.put(value)
            case "spoil" if value in world.models:
                world.put(trained_model(value, uri="nowhere"))
            case "delete":
                world.models.pop(value, None)
            case "shards":
                world.service, world.deployments = (fresh := world_of(value, [])).service, fresh.deployments
            case "look":
                world.step(crash_after=value)
            case "agents":
                world.agents_catch_up()
            case "hand":
                for number in world.maps:
                    world.maps[number] = {**world.maps[number], "data": {"models.json": value}}


@given(SHARDS, st.lists(SPECS, max_size=4), EDITS)
@settings(max_examples=150)
def test_from_any_state_it_comes_to_rest_and_what_is_ready_is_listed_where_it_says(shards, models, edits):
    world = world_of(shards, models)
    play(world, edits)
    world.rest()
    there = {0} if world.service else {n for n, _ in enumerate(world.deployments)}
    for name, obj in world.models.items():
        told = {item["type"]: item["status"] for item in obj["status"]["conditions"]}
        if told["Ready"] == "True":
            shard = obj["status"]["shard"]
            assert shard in there
            spec = listed_models(world.maps[shard])[name]
            assert spec.storage_uri == obj["spec"]["model"]["storageUri"]


@given(SHARDS, st.lists(SPECS, max_size=4), EDITS, st.integers(0, 6))
@settings(max_examples=100)
def test_a_crash_between_any_two_writes_changes_nothing_of_the_end(shards, models, edits, crash_after):
    one = world_of(shards, models)
    play(one, edits)
    two = copy.deepcopy(one)
    lists = len(lay_out(two.reading()).config_maps)
    two.step(crash_after=crash_after if lists <= 1 else lists + crash_after)
    one.rest()
    two.rest()
    assert {n: m["data"] for n, m in one.maps.items()} == {n: m["data"] for n, m in two.maps.items()}


@given(st.lists(st.sampled_from(["512Mi", "1Gi"]), min_size=2, max_size=3), st.lists(SPECS, max_size=4))
def test_a_crash_between_the_lists_of_two_shards_may_place_newcomers_otherwise_and_lists_none_twice(
    shards, models
):
    world = world_of(shards, models)
    world.step(crash_after=1)
    world.rest()
    where = [(name, number) for number, stored in world.maps.items() for name in listed_models(stored)]
    told = {name: obj["status"].get("shard") for name, obj in world.models.items()}
    assert sorted(where) == sorted((name, number) for name, number in told.items() if number is not None)
    for number, memory in enumerate(shards):
        held = [spec.memory_bytes for spec in listed_models(world.maps[number]).values()]
        assert sum(held) <= parse_quantity(memory).bytes_ceil()


@given(SHARDS, st.lists(SPECS, max_size=4), st.integers(0, 2), st.sampled_from([None, "[]", "{"]))
def test_a_list_that_is_deleted_or_spoilt_comes_back_as_it_was(shards, models, number, text):
    world = world_of(shards, models)
    world.rest()
    before = copy.deepcopy(world.maps)
    if number in world.maps and text is None:
        del world.maps[number]
    elif number in world.maps:
        world.maps[number]["data"]["models.json"] = text
    world.step()
    assert world.maps == before


def test_the_deleted_list_of_one_shard_is_repaired_where_it_was_and_not_where_it_fits_best():
    world = world_of(["2Gi", "1Gi"], [trained_model("a", memory="600Mi")])
    world.rest()
    assert "a" in listed_models(world.maps[1])
    world.deployments = world_of(["700Mi", "1Gi"], []).deployments  # now it would fit better into shard 0
    del world.maps[1]
    world.rest()
    assert [list(listed_models(world.maps[number])) for number in (0, 1)] == [[], ["a"]]


def test_a_model_that_goes_over_from_another_parent_is_a_newcomer():
    world = world_of(["1Gi"], [trained_model("a", memory="600Mi")])
    world.rest()
    over = trained_model("b", memory="600Mi", parent="other")
    world.put(over)
    world.models["b"]["status"] = copy.deepcopy(world.models["a"]["status"])
    world.put(trained_model("b", memory="600Mi"))
    world.rest()
    assert list(listed_models(world.maps[0])) == ["a"]


def test_a_list_with_another_query_is_no_proof_that_a_moving_model_is_loaded_there():
    world = world_of(["512Mi", "1Gi"], [trained_model("a", "https://h/m?sig=2", "600Mi")])
    entry = {"storageUri": "https://h/m?sig=2", "framework": "sklearn", "memory": "600Mi"}
    shown = ModelReport("Ready", True, None, None, "https://h/m", "sklearn", "600Mi")
    reports = []
    for number, query in ((0, "sig=2"), (1, "sig=1")):
        text = json.dumps([{"modelName": "a", "modelSpec": entry | {"storageUri": f"https://h/m?{query}"}}])
        world.maps[number] = {"metadata": {}, "data": {"models.json": text}}
        digest = hashlib.sha256(text.encode()).hexdigest()
        reports.append(PodReport(f"pod-{number}", number, {"a": shown}, {}, digest))
    placement = lay_out(replace(world.reading(), reports=reports)).placement
    assert (placement.homes, placement.lingering) == ({"a": 1}, {"a": [0]})


@given(st.lists(SPECS, min_size=1, max_size=4), st.sampled_from(NAMES))
def test_a_spec_that_became_bad_keeps_its_entry_and_everybody_elses(models, name):
    world = world_of("isvc", models)
    world.rest()
    before = listed_models(world.maps[0])
    if name in world.models:
        world.put(trained_model(name, uri="nowhere"))
    world.rest()
    assert listed_models(world.maps[0]) == before


def test_a_signed_uri_that_is_refused_is_not_told_in_the_status():
    world = world_of("isvc", [trained_model("a", uri="abfs://c/m?sig=hunter2")])
    world.rest()
    assert "hunter2" not in str(world.models["a"]["status"])
    assert "storageUri field is invalid" in str(world.models["a"]["status"])


@given(st.lists(ANY, max_size=4))
def test_objects_of_any_shape_are_looked_at(objects):
    world = world_of("isvc", [])
    for number, obj in enumerate(objects):
        obj["metadata"] |= {"name": f"m{number}", "uid": str(number)}
        world.models[f"m{number}"] = obj
    reading = world.reading()
    decide(reading, lay_out(reading), "t")
    decide_status_only(reading, "t")


def test_beside_kserve_objects_that_it_allows_and_signed_uris_are_told_of_too():
    spec = {"storageUri": "https://h/m?sig=1", "framework": "sklearn", "memory": "0"}
    obj = trained_model("a", spec["storageUri"], "0")
    text = json.dumps([{"modelName": "a", "modelSpec": spec}])
    stored = {"metadata": {}, "data": {"models.json": text}}
    shown = ModelReport("Ready", True, None, None, "https://h/m", "sklearn", "0")
    for digest, status in ((hashlib.sha256(text.encode()).hexdigest(), "True"), ("other", "False")):
        report = PodReport("pod-a", 0, {"a": shown}, {}, digest)
        reading = Reading("default", "p", [check(obj)], config_maps={0: stored}, reports=[report])
        [write] = decide_status_only(reading, "t").statuses
        assert write.status.condition("Loaded").status == status
    former = {"metadata": {}, "data": {"models.json": text.replace("sig=1", "sig=0")}}
    report = PodReport(
        "pod-a", 0, {"a": shown}, {}, hashlib.sha256(former["data"]["models.json"].encode()).hexdigest()
    )
    reading = Reading("default", "p", [check(obj)], config_maps={0: former}, reports=[report])
    assert decide_status_only(reading, "t").statuses[0].status.condition("Loaded").status == "False"


def config_map(text, manager, time="2026-01-01T00:00:00Z"):
    fields = [{"manager": manager, "time": time, "fieldsV1": {"f:data": {"f:models.json": {}}}}]
    return {"metadata": {"managedFields": fields}, "data": {"models.json": text}}


def test_only_kserves_own_manager_with_a_list_of_its_own_is_foreign():
    assert foreign_writer(config_map('[{"modelName":"m"}]', "manager") | {}) == "manager"
    assert foreign_writer(config_map("[]", "manager")) is None
    assert foreign_writer(config_map('[{"modelName":"m"}]', "kubectl-edit")) is None
    assert foreign_writer(None) is None


def test_what_kserves_manager_wrote_before_a_take_over_is_ours_to_write_and_what_it_writes_after_is_not():
    text = '[{"modelName":"m"}]'
    theirs = config_map(text, "manager", "2026-01-01T00:00:05Z")
    assert foreign_writer(theirs, "2026-01-01T00:00:10Z") is None
    assert foreign_writer(theirs, "2026-01-01T00:00:01Z") == "manager"
    assert foreign_writer(theirs) == "manager"


def test_an_owner_that_says_more_than_ours_is_no_reason_to_write():
    owner = {"kind": "InferenceService", "name": "p", "uid": "u", "controller": True}
    desired = {"metadata": {"labels": {}, "ownerReferences": [owner]}, "data": {"models.json": "[]"}}
    theirs = desired | {"metadata": {"ownerReferences": [owner | {"blockOwnerDeletion": True}]}}
    assert not needs_writing(desired, theirs)
    assert needs_writing(desired, desired | {"metadata": {"ownerReferences": [owner | {"uid": "former"}]}})


def test_what_others_add_to_a_config_map_is_no_reason_to_write():
    desired = {"metadata": {"labels": {"a": "1"}}, "data": {"models.json": "[]"}}
    theirs = {"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"models.json": "[]", "x": "y"}}
    assert not needs_writing(desired, theirs)
    assert needs_writing(desired, theirs | {"data": {"models.json": "[1]"}})
