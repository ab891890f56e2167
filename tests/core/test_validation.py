import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.modelconfig import desired_state
from agent.core.placement import document
from agent.core.trainedmodel import parse
from agent.core.validation import faults
from tests.core.trainedmodels import ANY, GOOD, SPACES, trained_model


@given(GOOD)
def test_good_objects_have_no_fault_also_as_their_own_update(obj):
    assert faults(obj) == faults(obj, obj) == ()


@given(ANY)
def test_what_has_no_fault_can_be_read(obj):
    if not faults(obj):
        assert parse(obj).spec.model.memory.nanos > 0


ODD_TEXT = st.text(st.characters() | st.sampled_from(SPACES + "\u200b\u202e\ufeff\xad\ue000"), max_size=8)


@given(st.builds(trained_model, uri=ODD_TEXT.map(lambda text: f"s3://b/{text}"), framework=ODD_TEXT) | ANY)
def test_what_has_no_fault_is_an_entry_that_every_agent_accepts(obj):
    if not faults(obj):
        assert desired_state(document([parse(obj)]).encode(), None).rejected == ()


@given(ODD_TEXT.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text)))
def test_what_the_agent_would_take_has_no_fault_for_its_characters(text):
    obj = trained_model(uri=f"s3://b/{text}", framework=text)
    if not desired_state(document([parse(obj)]).encode("utf-8", "replace"), None).rejected:
        assert faults(obj) == ()


# KServe's own words (kserve-contract §2.2)


def test_a_name_with_a_dot_is_refused_in_kserves_words():
    assert faults(trained_model("a.b"))[0].message == (
        'the Trained Model "a.b" is invalid: a Trained Model name must consist of alphanumeric characters, '
        "'_', or '-'. (e.g. \"my-Name\" or \"abc_123\", regex used for validation is '^[a-zA-Z0-9_-]+$')"
    )


@pytest.mark.parametrize("uri", ["hf://o/m", "S3://b/m", "", "s3//m", "pvc://c/m"])
def test_a_scheme_kserve_refuses_is_refused_in_kserves_words(uri):
    assert faults(trained_model(uri=uri))[0].message == (
        'the Trained Model "m" storageUri field is invalid. The storage uri must start with one of the '
        f'prefixes: s3://, gs://, https://, http://. (the storage uri given is "{uri}")'
    )


def test_memory_may_not_change_in_value():
    found = faults(trained_model(memory="2Gi"), trained_model(memory="1Gi"))
    assert [fault.message for fault in found] == [
        'the Trained Model "m" memory field is immutable. The memory was "1Gi" but it is updated to "2Gi"'
    ]
    assert faults(trained_model(memory="1024Mi"), trained_model(memory="1Gi")) == ()


def test_an_object_that_is_going_is_not_checked():
    going = trained_model("a.b", uri="nowhere", deletionTimestamp="2026-01-01T00:00:00Z")
    assert faults(going, trained_model("a.b")) == ()


def test_only_an_old_object_that_can_be_read_binds_the_memory():
    assert faults(trained_model(memory="1Gi"), trained_model(memory="what")) == ()


# what KServe lets pass


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (trained_model(memory="0"), "spec.model.memory"),
        (trained_model(memory=-1), "spec.model.memory"),
        (trained_model(memory="10E"), "spec.model.memory"),
        (trained_model(memory="NaN"), "spec.model.memory"),
        (trained_model(memory=1.5), "spec.model.memory"),
        (trained_model(memory=None), "spec.model.memory"),
        (trained_model(uri="s3://"), "spec.model.storageUri"),
        (trained_model(uri="s3://b/a b"), "spec.model.storageUri"),
        (trained_model(uri="s3://" + "b" * 4096), "spec.model.storageUri"),
        (trained_model(parent=""), "spec.inferenceService"),
        (trained_model(parent="x" * 64), "spec.inferenceService"),
        (trained_model(framework="a\nb"), "spec.model.framework"),
        ({"apiVersion": "v1", "kind": "Pod"}, "apiVersion"),
        ({"apiVersion": "serving.kserve.io/v1alpha1", "kind": "TrainedModel", "metadata": {}}, "spec"),
    ],
)
def test_what_kserve_lets_pass_and_no_agent_can_serve_is_refused_by_field(bad, field):
    assert field in {fault.field for fault in faults(bad)}


def test_every_fault_of_an_object_is_told_kserves_first():
    found = faults(trained_model("a.b", uri="x", memory="0", parent="P"))
    assert [fault.field for fault in found] == [
        "metadata.name",
        "spec.model.storageUri",
        "spec.inferenceService",
        "spec.model.memory",
    ]
