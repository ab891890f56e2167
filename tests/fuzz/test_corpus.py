"""Every fuzz target keeps its laws over its corpus; `python -m tests.fuzz.run` looks for more."""

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, corpus, target


@pytest.mark.parametrize("name", TARGETS)
def test_all_that_was_ever_found_keeps_the_laws(name):
    one = target(name)
    inputs = corpus(name)
    assert inputs
    for path in inputs:
        one(path.read_bytes())
    one(b"")


def test_there_is_no_corpus_of_a_target_that_is_none():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
