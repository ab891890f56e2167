from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.modelstatus import (
    ModelReport,
    PodReport,
    loaded_condition,
    model_status,
    refused_status,
    with_times,
)
from agent.core.parents import Owner, Parent, Shard
from agent.core.placement import place
from agent.core.quantity import parse_quantity
from agent.core.reasons import Reason
from agent.core.trainedmodel import parse
from tests.core.trainedmodels import trained_model

MODEL = parse(trained_model("m", "s3://b/m", "1Gi", generation=3))
SHARD = Shard(
    0, Owner("apps/v1", "Deployment", "d", "u"), parse_quantity("2Gi"), True, "http://p", "http://p.svc"
)
PARENT = Parent("p", "default", {0: SHARD}, multi_model=True, protocol="v1")
READY = ModelReport("Ready", True, None, None, "s3://b/m", "sklearn", "1Gi")
REPORTS = st.builds(
    ModelReport,
    st.sampled_from(["Ready", "Failed", "Downloading", "Updating"]),
    st.booleans(),
    st.sampled_from([None, "LoadRejected", "Downloading"]),
    st.sampled_from([None, "words"]),
    st.sampled_from(["s3://b/m", "s3://b/old", None]),
    st.just("sklearn"),
    st.sampled_from(["1Gi", "2Gi"]),
)
PODS = st.lists(
    st.builds(
        PodReport,
        st.sampled_from(["pod-a", "pod-b"]),
        st.integers(0, 1),
        st.dictionaries(st.just("m"), REPORTS),
        st.dictionaries(st.just("m"), st.just(("InvalidMemory", "words"))),
        st.sampled_from([None, "d0"]),
        st.sampled_from([None, None, "timed out"]),
    ),
    max_size=3,
)
PARENTS = st.sampled_from([None, PARENT, replace(PARENT, multi_model=False), replace(PARENT, shards={})])


def pod(name="pod-a", model=READY, **rest):
    return PodReport(name, 0, {} if model is None else {"m": model}, **({"rejected": {}} | rest))


def status_of(*reports, parent=PARENT, model=MODEL, others=()):
    placement = place([model, *others], parent.shards if parent else {}, {}, ())
    return model_status(model, parent, placement, reports, {0: "d0"})


def told(status, kind):
    found = status.condition(kind)
    return (found.status, found.reason)


@given(PARENTS, PODS)
def test_ready_is_said_only_when_every_ready_replica_serves_what_is_wanted(parent, reports):
    status = status_of(*reports, parent=parent)
    if told(status, "Ready")[0] == "True":
        mine = [report for report in reports if report.shard == 0]
        assert mine
        assert all(r.problem is None and r.models["m"].ready for r in mine)
        assert all(c.status == "True" for c in status.conditions)
        assert status.condition("Stalled") is status.condition("Reconciling") is None


@given(PARENTS, PODS)
def test_while_it_is_not_ready_exactly_one_of_reconciling_and_stalled_is_there_and_true(parent, reports):
    status = status_of(*reports, parent=parent)
    progress = [c for c in status.conditions if c.type in {"Reconciling", "Stalled"}]
    assert [c.status for c in progress] == (["True"] if told(status, "Ready")[0] != "True" else [])


@given(PARENTS, PODS)
def test_conditions_are_sorted_and_carry_the_generation(parent, reports):
    status = status_of(*reports, parent=parent)
    assert [c.type for c in status.conditions] == sorted(c.type for c in status.conditions)
    assert {c.observed_generation for c in status.conditions} == {status.observed_generation} == {3}


@given(PARENTS, PODS, PODS)
def test_a_transition_time_changes_only_with_the_status(parent, first, second):
    before = with_times(status_of(*first, parent=parent), None, "t1")
    after = with_times(status_of(*second, parent=parent), before, "t2")
    for item in after.conditions:
        old = before.condition(item.type)
        same = old is not None and old.status == item.status
        assert item.last_transition_time == ("t1" if same else "t2")


def test_loaded_on_all_replicas_is_ready_and_has_its_addresses():
    status = status_of(pod("pod-a"), pod("pod-b"))
    assert told(status, "Ready")[0] == "True"
    assert (status.url, status.address) == (
        "http://p/v1/models/m:predict",
        {"url": "http://p.svc/v1/models/m:predict"},
    )
    assert (status.extra["loaded"], status.condition("Loaded").message) == (
        "2/2",
        "loaded on 2 of 2 replicas",
    )


def test_a_replica_that_failed_is_named_with_its_agents_reason():
    failed = ModelReport("Failed", False, "LoadRejected", "bad pickle", "s3://b/m", "sklearn", "1Gi")
    status = status_of(pod("pod-a"), pod("pod-b", failed))
    assert told(status, "Loaded") == ("False", "LoadRejected")
    assert told(status, "Stalled") == ("True", "LoadRejected")
    assert status.condition("Loaded").message == "loaded on 1 of 2 replicas; pod-b: LoadRejected: bad pickle"
    assert status.extra["replicas"] == {"desired": 2, "loaded": 1, "failed": 1, "unknown": 0}


def test_a_replica_that_does_not_answer_is_unknown_and_named():
    status = status_of(pod("pod-a"), pod("pod-b", None, problem="timed out"))
    assert told(status, "Loaded") == ("Unknown", Reason.AGENT_UNREACHABLE)
    assert "pod-b" in status.condition("Loaded").message


def test_an_old_revision_that_still_serves_is_not_counted_as_loaded():
    old = ModelReport("Updating", True, "LoadRejected", "bad", "s3://b/m", "sklearn", "1Gi")
    assert told(status_of(pod("pod-a", old)), "Loaded") == ("False", "LoadRejected")


def test_a_model_that_serves_what_is_wanted_counts_whatever_else_its_agent_says():
    crowded = replace(READY, reason="OverCommitted", current=True)
    assert told(status_of(pod("pod-a", crowded)), "Loaded") == ("True", "Loaded")


def test_an_agent_that_has_not_seen_the_spec_yet_is_waited_for():
    old = replace(READY, storage_uri="s3://b/old")
    status = status_of(pod("pod-a", old))
    assert told(status, "Loaded") == ("False", Reason.CONFIG_PENDING)
    assert status.condition("Reconciling").status == "True"


def test_a_signed_uri_counts_only_by_the_digest_of_the_document():
    model = parse(trained_model("m", "https://h/m?sig=2", "1Gi"))
    shown = replace(READY, storage_uri="https://h/m")
    assert told(status_of(pod("pod-a", shown), model=model), "Loaded")[0] == "False"
    assert told(status_of(pod("pod-a", shown, digest="d0"), model=model), "Loaded")[0] == "True"


@pytest.mark.parametrize(
    ("parent", "kind", "reason", "message"),
    [
        (
            replace(PARENT, shards={0: replace(SHARD, ready=False)}),
            "InferenceServiceReady",
            "InferenceServiceNotReady",
            "Inference Service needs to be ready before Trained Model can be ready",
        ),
        (
            replace(PARENT, multi_model=False),
            "IsMMSPredictor",
            "IsNotMMSPredictor",
            "Inference Service predictor is not configured for multi-model serving",
        ),
        (
            replace(PARENT, shards={0: replace(SHARD, memory=parse_quantity("1Mi"))}),
            "MemoryResourceAvailable",
            "MemoryResourceNotAvailable",
            "Inference Service does not have enough memory resources for Trained Model",
        ),
    ],
)
def test_what_kserve_refuses_is_said_in_its_words(parent, kind, reason, message):
    status = status_of(pod(), parent=parent)
    assert told(status, kind) == ("False", reason)
    assert status.condition(kind).message.startswith(message)
    assert told(status, "Ready") == ("False", reason)


def test_a_missing_parent_deletes_nothing_and_is_said():
    assert told(status_of(parent=None), "InferenceServiceReady") == ("False", "InferenceServiceNotFound")


def test_a_bad_spec_is_stalled():
    status = refused_status(MODEL, Reason.INVALID_SPEC, "words")
    assert told(status, "Stalled") == ("True", "InvalidSpec")


@pytest.mark.parametrize(
    "other",
    [{"storage_uri": "s3://b/old"}, {"framework": "xgboost"}, {"memory": "2Gi"}, {"storage_uri": None}],
)
@pytest.mark.parametrize("digest", [None, "d0"])
def test_a_spec_that_the_agent_does_not_show_is_not_served_whatever_document_it_has(other, digest):
    status = status_of(pod(model=replace(READY, **other), digest=digest))
    assert told(status, "Loaded")[0] == "False"
    assert told(status, "Ready")[0] == "False"


def test_what_the_agent_rejected_is_not_served_though_the_former_spec_is():
    rejected = {"m": ("InvalidEntry", "words")}
    status = status_of(pod(digest="d0", rejected=rejected))
    assert told(status, "Loaded") == ("False", "InvalidEntry")
    signed = parse(trained_model("m", "https://h/m?sig=2", "1Gi"))
    shown = replace(READY, storage_uri="https://h/m")
    assert (
        told(status_of(pod(model=shown, digest="d0", rejected=rejected), model=signed), "Ready")[0] == "False"
    )


def test_what_a_signed_uri_was_proved_to_serve_stays_proved_when_the_list_changes_for_others():
    model = parse(trained_model("m", "https://h/m?sig=2", "1Gi", generation=3))
    shown = replace(READY, storage_uri="https://h/m")
    pods = [pod("pod-a", shown, digest="d0"), pod("pod-b", shown, digest="d0")]
    proved = replace(model, status=status_of(*pods, model=model))
    later = [replace(each, digest="before d0") for each in pods]  # they have not seen the newest list yet
    assert told(status_of(*later, model=proved), "Ready")[0] == "True"
    assert told(status_of(*later, model=model), "Ready")[0] == "False"
    newer = replace(proved, metadata=proved.metadata | {"generation": 4})
    assert told(status_of(*later, model=newer), "Ready")[0] == "False"
    joined = [*later, replace(later[0], pod="pod-c")]
    assert told(status_of(*joined, model=proved), "Ready")[0] == "False"


def test_a_signed_uri_whose_former_entry_stays_listed_is_not_served_by_the_digest_of_that_list():
    former, wanted = (
        parse(trained_model("m", f"https://h/m?sig={n}", size)) for n, size in ((1, "1Gi"), (2, "9Gi"))
    )
    placement = place([wanted], PARENT.shards, {"m": {0}}, (), {"m": former})
    shown = replace(READY, storage_uri="https://h/m", memory="9Gi")
    status = model_status(wanted, PARENT, placement, [pod(model=shown, digest="d0")], {0: "d0"})
    assert told(status, "Loaded")[0] == "False"


def test_where_a_parent_has_shards_the_message_tells_which():
    many = replace(PARENT, shards={0: SHARD, 1: replace(SHARD, number=1)})
    assert status_of(pod(), parent=many).condition("Loaded").message == "loaded on 1 of 1 replicas of shard 0"


def test_status_only_says_loaded_alone():
    condition = loaded_condition(MODEL, [pod()], 7, None)
    assert (condition.type, condition.status, condition.observed_generation) == ("Loaded", "True", 7)
