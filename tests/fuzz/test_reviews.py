"""Reviews changed in their structure: each node of the corpus in turn, and real ones by numbers drawn."""

import copy
import json

from tests.fuzz.targets import corpus, mutator, seeds, target

OTHERS = (None, 0, "x", [None], {"x": "x"})


def replaced(document):
    """Every document that differs in one node."""
    for path in paths(document):
        for other in OTHERS:
            changed = copy.deepcopy(document)
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = other
            yield path, other, changed


def paths(node, above=()):
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, below in items:
        yield (*above, key)
        yield from paths(below, (*above, key))


def test_a_review_with_any_node_of_another_kind_is_answered_or_refused():
    one, found = target("review"), []
    for file in corpus("review"):
        try:
            document = json.loads(file.read_bytes())
        except ValueError:
            continue
        for path, other, changed in replaced(document):
            try:
                one(json.dumps(changed).encode())
            except Exception as error:  # noqa: BLE001 - any is a finding
                found.append(f"{'.'.join(map(str, path))} = {other!r}: {error!r}")
    assert found == []


def test_real_reviews_keep_the_laws_and_so_does_whatever_becomes_of_them():
    """`python -m tests.fuzz.run review` goes on from here."""
    for number in range(600):
        data = seeds("review")[number % len(seeds("review"))]
        for change in range(number // 100):
            data = mutator("review")(data, number + change)
        target("review")(data)
