"""The table of faults is whole and true: every id answered, every test named one that pytest collects."""

import pytest

from tests.faults.catalogue import COUNTS, GATE, Fault, catalogue, proves
from tests.faults.table import outcome


def test_every_fault_of_the_catalogue_is_there_and_no_other():
    assert list(catalogue()) == [
        f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)
    ]


def test_each_fault_has_a_test_or_a_reason_why_it_cannot_be_injected_here():
    """A gap beside a test says what no test proves yet; alone it is no answer."""
    silent = [name for name, fault in catalogue().items() if not (fault.tests or fault.reason)]
    assert silent == []


def test_each_test_named_is_one_that_pytest_collects(collected):
    lost = {
        (name, node)
        for name, fault in catalogue().items()
        for node in fault.tests
        if not any(proves(node, test.node) for test in collected)
    }
    assert lost == set()


def test_the_release_gate_is_the_one_of_the_catalogue():
    gate = [f"{letter}{number}" for letter, numbers in GATE.items() for number in numbers]
    assert [name for name, fault in catalogue().items() if fault.gate] == gate


def test_what_a_release_waits_for_is_tested_without_the_soak(collected):
    quick = [test.node for test in collected if not test.soak]
    untested = [
        name
        for name, fault in catalogue().items()
        if fault.gate and not any(proves(node, found) for node in fault.tests for found in quick)
    ]
    assert untested == []


@pytest.mark.parametrize(
    ("fault", "results", "word"),
    [
        (Fault("f", tests=("a", "b")), {"a": ["passed"], "b": ["passed"]}, "passed"),
        (Fault("f", tests=("a", "b")), {"a": ["passed", "failed"], "b": ["passed"]}, "FAILED"),
        (Fault("f", tests=("a", "b")), {"a": ["passed"]}, "not run"),
        (Fault("f", tests=("a",)), {"a": ["skipped"]}, "not run"),
        (Fault("f", tests=("A",)), {"A::one": ["passed"]}, "passed"),
        (Fault("f", tests=("a",), gap="half"), {"a": ["passed"]}, "passed, part"),
        (Fault("f", reason="none here"), {}, "not here"),
        (Fault("f", gap="all of it"), {}, "NOT YET"),
    ],
)
def test_a_fault_has_passed_only_where_each_of_its_tests_has(fault, results, word):
    assert outcome(fault, results)[0] == word
