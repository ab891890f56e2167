"""Kubernetes' own code on our CRD and quantities; `tests/manifests/apiextensions/build.sh` builds it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.quantity import parse_quantity
from agent.core.validation import faults
from tests.core.trainedmodels import ANY, GOOD, RESHAPED, TEXTED
from tests.manifests.schema import CRD

CACHE = Path(os.environ.get("MODELAGENT_TEST_CACHE") or Path.home() / ".cache/model-agent")
JUDGE = CACHE / "apiextensions/judge"
SUFFIXES = [
    *"numkMGTPE",
    "",
    "Ki",
    "Mi",
    "Gi",
    "Ti",
    "Pi",
    "Ei",
    "e3",
    "E5",
    "e-3",
    "e0",
    "ki",
    "g",
    "i",
    "e",
    "e1.5",
]
TEXTS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "+", "-"]),
    st.from_regex(r"[0-9]{1,20}(\.[0-9]{0,12})?|\.[0-9]{1,12}", fullmatch=True),
    st.sampled_from(SUFFIXES),
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not JUDGE.exists(), reason="make judge was not run; it needs Go"),
]


def ask(questions, *arguments):
    asked = json.dumps(questions)
    answer = subprocess.run([JUDGE, *arguments], input=asked, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def is_storable(obj):
    """Leave out what the API server refuses before it looks at the schema."""
    spec = obj.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    memory = model.get("memory") if isinstance(model, dict) else None
    return 0 < len(obj["metadata"]["name"]) <= 253 and not (type(memory) is int and abs(memory) >= 2**53)


def test_kubernetes_accepts_the_definition_and_its_rules_within_their_cost():
    assert ask([], "crd", CRD)["crd"] == []


@given(
    st.lists((ANY | RESHAPED | TEXTED).filter(is_storable), min_size=200, max_size=200),
    st.lists(st.tuples(GOOD, GOOD), min_size=50),
)
@settings(max_examples=3, suppress_health_check=list(HealthCheck), deadline=None)
def test_kubernetes_and_our_parser_accept_and_refuse_the_same(objects, updates):
    questions = [{"obj": obj} for obj in objects] + [{"obj": new, "old": old} for old, new in updates]
    answers = ask(questions, "crd", CRD)["objects"]
    for question, answer in zip(questions, answers, strict=True):
        assert bool(answer) == bool(faults(question["obj"], question.get("old"))), (question, answer)


@given(st.lists(TEXTS, min_size=500, max_size=500))
@settings(max_examples=5, suppress_health_check=list(HealthCheck), deadline=None)
def test_kubernetes_reads_and_prints_quantities_as_we_do(texts):
    for text, answer in zip(texts, ask(texts, "quantity"), strict=True):
        try:
            quantity = parse_quantity(text)
        except ValueError:
            assert answer is None, text
        else:
            printed = quantity.canonical()
            if "e" not in printed or not text.endswith("E"):  # 1.37 drops what is beyond E; later ones do not
                assert [printed, quantity.format] == answer, text
