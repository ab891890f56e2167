"""What TrainedModels in tests are made of."""

import copy
import json

from hypothesis import strategies as st

QUANTITIES = st.sampled_from(["256Mi", "1Gi", "1024Mi", "1G", "0.5Gi", "100m", 1024, 2**40])
ODD_MEMORY = st.sampled_from(
    [0, -1, "0", "-1Gi", "NaN", "1e1.5", "1e999", "8Ei", "9Ei", "1E", "10E", "Gi", ".5", "1.", "+1", " 1Gi",
     "1Gi\n", "1_0Mi", "", "0.1n", "1e-30", 1.5, True, None, [], {}, "1" * 70, 2**63, 2**63 - 1]
)  # fmt: skip
URIS = st.sampled_from(["s3://b/m", "gs://b/m", "https://h/p?a=1&b=<2>", "http://h/p"])
ODD_URIS = st.sampled_from(
    ["", "s3://", "http://", "S3://b/m", "s3//m", "hf://o/m", "pvc://c/m", "/m", "s3://b/a b", "s3://b/\x1b",
     "s3://b/é", " s3://b", "s3://b\n", "s3://" + "b" * 4091, "s3://" + "b" * 4092, None, 5]
)  # fmt: skip
NAMES = st.sampled_from(["m", "model1-sklearn", "a_b", "A9"])
ODD_NAMES = st.sampled_from(["a.b", "", "é", "a/b", "x" * 253, "x" * 254, "a\n"])
PARENTS = st.sampled_from(["sklearn-iris-example", "p", "0"])
ODD_PARENTS = st.sampled_from(["", "-p", "P", "a.b", "x" * 63, "x" * 64, None, 1])
FRAMEWORKS = st.sampled_from(["sklearn", "", "é", "f" * 253, "f" * 254, "a\tb", None, 3])


def trained_model(name="m", uri="s3://b/m", memory="256Mi", parent="p", framework="sklearn", **metadata):
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "TrainedModel",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {
            "inferenceService": parent,
            "model": {"storageUri": uri, "framework": framework, "memory": memory},
        },
    }


SPACES = "\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000"
FREE_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn"]) | st.sampled_from(SPACES + "\u200b\u202e\ufeff\xad\ue000"),
    max_size=8,
)
"""Text that the API server stores: no half surrogates, and none that only later editions of Unicode know."""


def reshaped(obj, *edits):
    """Take out or put in fields: an edit is (path, value), of which None takes out."""
    made = json.loads(json.dumps(obj))
    for path, value in edits:
        holder = made
        for step in path[:-1]:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if not isinstance(holder, dict):
            continue
        if value is None:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = copy.deepcopy(value)  # or the next edit would be within it too
    return made


PATHS = st.sampled_from(
    [("spec",), ("spec", "inferenceService"), ("spec", "model"), ("spec", "model", "storageUri"),
     ("spec", "model", "framework"), ("spec", "model", "memory"), ("spec", "more"),
     ("spec", "model", "more"), ("more",)]
)  # fmt: skip
VALUES = st.none() | st.sampled_from([[], {}, "", "x", 0, 1, True, {"a": {}}, ["s3://b/m"]])
GOOD = st.builds(trained_model, NAMES, URIS, QUANTITIES, PARENTS)
ANY = st.builds(
    trained_model,
    NAMES | ODD_NAMES,
    URIS | ODD_URIS,
    QUANTITIES | ODD_MEMORY,
    PARENTS | ODD_PARENTS,
    FRAMEWORKS,
)
RESHAPED = st.builds(reshaped, GOOD, st.tuples(PATHS, VALUES), st.tuples(PATHS, VALUES))
"""Objects with fields that are missing, extra or of another type."""

TEXTED = st.builds(
    trained_model,
    uri=FREE_TEXT.map(lambda text: f"s3://b/{text}"),
    framework=FREE_TEXT,
    parent=FREE_TEXT | PARENTS,
    memory=FREE_TEXT | QUANTITIES,
)
"""Objects whose strings are any text."""
