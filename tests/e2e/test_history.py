"""The judges of a history see what they are there for, and nothing else."""

import pytest

from tests.e2e.history import lost, needless_ends, over_budget, overlaps


def events(*told):
    return [{"t": t, "kind": kind, **fields} for t, kind, fields in told]


def order(kind, word, model, number, status=200):
    return kind, {"order": word, "model": model, "number": number} | (
        {"status": status} if kind == "end" else {}
    )


LOADED = (
    (0, "want", {"models": {"a": 1}}),
    (1, *order("begin", "load", "a", 1)),
    (2, *order("end", "load", "a", 1)),
)
SEEN = (*LOADED, (3, "served", {"models": ["a"]}))


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ([(9, "served", {"models": ["a"]})], 0),
        ([(9, "served", {"models": []})], 1),
        ([(8, "server", {}), (9, "served", {"models": []})], 0),
        ([(9, *order("begin", "unload", "a", 2))], 1),
        (
            [
                (8, "want", {"models": {}}),
                (8.5, *order("begin", "unload", "a", 2)),
                (9, "served", {"models": []}),
            ],
            0,
        ),
        ([(4, "agent", {}), (9, "served", {"models": []})], 0),
        ([(8, "agent", {}), (9, "served", {"models": []})], 1),
    ],
)
def test_a_model_that_goes_unasked_is_a_loss(more, count):
    assert len(lost(events(*SEEN, *more))) == count


def test_two_orders_at_once_are_seen_but_for_those_of_an_agent_that_is_gone():
    twice = (1.5, *order("begin", "unload", "a", 2))
    assert len(overlaps(events(*LOADED[:2], twice))) == 1
    assert overlaps(events(*LOADED, twice)) == []
    assert overlaps(events(*LOADED[:2], (1.2, "agent", {}), twice)) == []


def test_what_is_resident_and_on_its_way_in_counts_together():
    another = (3, *order("begin", "load", "b", 2))
    assert over_budget(events(*LOADED, another), 2) == []
    assert len(over_budget(events(*LOADED, another), 1)) == 1
    assert over_budget(events(*LOADED, (2.5, "server", {}), another), 1) == []


def test_a_server_that_ends_by_itself_is_seen_but_for_what_an_absent_agent_left():
    killed, ended = (1, "ended", {"code": -9}), (2, "ended", {"code": 1})
    away, back = (1.5, "away", {}), (1.6, "back", {})
    assert needless_ends(events(killed)) == []
    assert len(needless_ends(events(killed, ended))) == 1
    assert needless_ends(events(killed, away, ended)) == []
    assert needless_ends(events(killed, away, back, ended)) == []
    assert needless_ends(events(away, killed, ended)) == []
    assert len(needless_ends(events(away, back, killed, ended))) == 1
