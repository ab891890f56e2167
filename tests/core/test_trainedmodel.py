import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.trainedmodel import (
    Condition,
    TrainedModelStatus,
    UnreadableObjectError,
    parse,
    parse_status,
    total_requested_memory,
)
from tests.core.trainedmodels import ANY, GOOD, trained_model

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
CONDITIONS = st.fixed_dictionaries(
    {"type": st.text(max_size=4) | JSON, "status": st.sampled_from(["True", "False", "Unknown"]) | JSON},
    optional={
        "reason": st.text(max_size=4) | JSON,
        "message": st.text(max_size=4),
        "lastTransitionTime": st.just("2026-01-01T00:00:00Z") | JSON,
        "observedGeneration": st.integers() | JSON,
        "severity": JSON,
    },
)
STATUSES = st.fixed_dictionaries(
    {},
    optional={
        "conditions": st.lists(CONDITIONS | JSON, max_size=3) | JSON,
        "url": st.text(max_size=5) | JSON,
        "address": st.dictionaries(st.text(max_size=4), JSON, max_size=2) | JSON,
        "observedGeneration": st.integers() | JSON,
        "annotations": JSON,
    },
)


@given(GOOD, STATUSES | JSON, st.dictionaries(st.sampled_from(["a", "b"]), JSON), st.integers(0, 4))
def test_what_was_read_is_written_back_without_loss(obj, status, unknown, level):
    obj["status"] = status
    places = [obj, obj["metadata"], obj["spec"], obj["spec"]["model"], {}]
    places[level].update(unknown)
    assert parse(obj).to_json() == obj


@given(ANY | JSON.filter(lambda value: isinstance(value, dict)))
def test_any_object_is_read_or_refused(obj):
    try:
        assert parse(obj).to_json() == obj
    except UnreadableObjectError as error:
        assert str(error)  # noqa: PT017 - both outcomes are legal


@given(STATUSES)
def test_a_status_of_any_shape_is_kept(status):
    assert parse_status(status).to_json() == status


@pytest.mark.parametrize(
    ("memories", "total"),
    [
        ([], "0"),
        (["1Gi", "1Gi", "1Gi"], "3Gi"),
        (["1G", "1Gi"], "2073741824"),
        (["0", "1Gi", "24Mi"], "1048Mi"),
        (["1.5Gi"], "1536Mi"),
        ([1024, "1k"], "2024"),
    ],
)
def test_the_requested_memory_is_summed_as_kubernetes_prints_it(memories, total):
    models = [parse(trained_model(memory=memory)) for memory in memories]
    assert total_requested_memory(models).canonical() == total


def test_conditions_are_found_by_type():
    status = TrainedModelStatus(conditions=(Condition("Ready", "True"), Condition("Loaded", "False", "R")))
    assert status.condition("Loaded").reason == "R"
    assert status.condition("Other") is None
