import kubernetes_validate
import pytest
from hypothesis import given, settings

from agent.core.uri import TRAINED_MODEL_SCHEMES
from agent.core.validation import MEMORY_PATTERN, PARENT_PATTERN, TEXT_PATTERN, URI_PATTERN, faults
from tests.core.trainedmodels import ANY, GOOD, RESHAPED, TEXTED, trained_model
from tests.manifests.schema import Schema, load_crd

SCHEMA = Schema()


@given(ANY)
@settings(max_examples=300)
def test_the_schema_and_our_parser_accept_and_refuse_the_same_objects(obj):
    assert bool(SCHEMA.errors(obj)) == bool(faults(obj)), (SCHEMA.errors(obj), faults(obj))


@given(RESHAPED | TEXTED)
@settings(max_examples=300)
def test_missing_extra_and_odd_fields_and_any_text_are_judged_alike(obj):
    assert bool(SCHEMA.errors(obj)) == bool(faults(obj)), (SCHEMA.errors(obj), faults(obj))


@given(GOOD, GOOD)
def test_the_schema_and_our_parser_accept_and_refuse_the_same_updates(old, new):
    assert bool(SCHEMA.errors(new, old)) == bool(faults(new, old))


@pytest.mark.parametrize("bad", [trained_model("a.b"), trained_model(uri="hf://o/m")])
def test_the_rules_speak_in_kserves_words(bad):
    assert SCHEMA.errors(bad) == [faults(bad)[0].message]


@pytest.mark.parametrize("version", ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36"])
def test_the_definition_is_valid_in_every_supported_kubernetes(version):
    kubernetes_validate.validate(load_crd(), version, strict=True)


def test_names_and_subresource_are_kserves():
    spec = load_crd()["spec"]
    assert (spec["group"], spec["scope"], spec["names"]["shortNames"]) == (
        "serving.kserve.io",
        "Namespaced",
        ["tm"],
    )
    assert spec["names"]["plural"] == "trainedmodels"
    assert [(v["name"], v["served"], v["storage"]) for v in spec["versions"]] == [("v1alpha1", True, True)]
    assert spec["versions"][0]["subresources"] == {"status": {}}
    columns = [column["name"] for column in spec["versions"][0]["additionalPrinterColumns"]]
    assert columns == ["URL", "Ready", "Loaded", "Reason", "Age", "InferenceService", "Memory"]


def test_the_schemes_and_patterns_are_the_constants_of_the_code():
    rules = " ".join(rule["rule"] for rule in SCHEMA.root["x-kubernetes-validations"])
    assert all(f"'{scheme}://'" in rules for scheme in TRAINED_MODEL_SCHEMES)
    spec = SCHEMA.root["properties"]["spec"]["properties"]
    model = spec["model"]["properties"]
    assert spec["inferenceService"]["pattern"] == PARENT_PATTERN
    assert [model[key]["pattern"] for key in ("storageUri", "framework", "memory")] == [
        URI_PATTERN,
        TEXT_PATTERN,
        MEMORY_PATTERN,
    ]


def test_every_string_and_list_is_bounded_so_that_cel_has_a_cost():
    def unbounded(schema, path):
        if schema.get("type") == "string" or schema.get("x-kubernetes-int-or-string"):
            yield from [] if "maxLength" in schema else [path]
        if schema.get("type") == "array":
            yield from [] if "maxItems" in schema else [path]
            yield from unbounded(schema["items"], path + "[]")
        for key, inner in schema.get("properties", {}).items():
            yield from unbounded(inner, f"{path}.{key}")

    assert list(unbounded(SCHEMA.root, "")) == []
