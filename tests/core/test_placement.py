import json

from hypothesis import given
from hypothesis import strategies as st

from agent.core.modelconfig import desired_state
from agent.core.parents import Owner, Shard
from agent.core.placement import MAX_CONFIG_BYTES, document, place
from agent.core.quantity import parse_quantity
from agent.core.reasons import Reason
from agent.core.trainedmodel import parse, total_requested_memory
from tests.core.trainedmodels import trained_model

OWNER = Owner("apps/v1", "Deployment", "d", "u")


def model(name, memory="1Gi", age=0, uri="s3://b/m"):
    created = f"2026-01-01T00:00:{age:02}Z"
    return parse(trained_model(name, uri, memory, creationTimestamp=created))


def shard(number, memory):
    return Shard(number, OWNER, None if memory is None else parse_quantity(memory), ready=True)


def shards(*memories):
    return {number: shard(number, memory) for number, memory in enumerate(memories)}


def names(placement):
    return {number: sorted(m.name for m in models) for number, models in placement.lists.items()}


NAMES = ("a", "b", "c", "d", "e")
MODELS = st.lists(
    st.builds(model, st.sampled_from(NAMES), st.sampled_from(["1Gi", "2Gi", "3Gi"]), st.integers(0, 5)),
    unique_by=lambda m: m.name,
)
SHARDS = st.lists(st.sampled_from(["0", "2Gi", "4Gi", None]), max_size=3).map(lambda sizes: shards(*sizes))
LISTED = st.dictionaries(st.sampled_from(NAMES), st.sets(st.integers(0, 3), max_size=2))
LOADED = st.sets(st.tuples(st.sampled_from(NAMES), st.integers(0, 2)))


@given(MODELS, SHARDS, LISTED, LOADED)
def test_every_model_has_one_home_or_a_refusal_and_is_in_its_homes_list(models, there, listed, loaded):
    placement = place(models, there, listed, loaded)
    assert placement.homes.keys() | placement.refused.keys() == {m.name for m in models}
    assert not placement.homes.keys() & placement.refused.keys()
    for name, home in placement.homes.items():
        assert name in names(placement)[home]


@given(MODELS, SHARDS, LISTED, LOADED)
def test_what_is_listed_is_never_refused_and_never_withdrawn_before_it_is_loaded_elsewhere(
    models, there, listed, loaded
):
    placement = place(models, there, listed, loaded)
    for m in models:
        for number in set(listed.get(m.name, ())) & there.keys():
            stays = m.name in names(placement)[number]
            assert stays or (m.name, placement.homes[m.name]) in loaded


@given(MODELS, SHARDS, LISTED, LOADED)
def test_a_newcomer_never_fills_a_shard_beyond_its_memory(models, there, listed, loaded):
    placement = place(models, there, listed, loaded)
    for number, held in placement.lists.items():
        newcomers = [m for m in held if number not in listed.get(m.name, ())]
        if newcomers and there[number].memory is not None:
            assert total_requested_memory(held) <= there[number].memory


@given(MODELS, SHARDS, LISTED, LOADED, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(models, there, listed, loaded, shuffler):
    shuffled = list(models)
    shuffler.shuffle(shuffled)
    one, two = place(models, there, listed, loaded), place(shuffled, there, listed, loaded)
    assert (one.homes, one.refused, one.over) == (two.homes, two.refused, two.over)
    assert {n: document(m) for n, m in one.lists.items()} == {n: document(m) for n, m in two.lists.items()}


@given(MODELS, SHARDS, LISTED)
def test_applying_a_placement_once_all_is_loaded_comes_to_rest(models, there, listed):
    everything = {(name, number) for name in NAMES for number in there}
    for _ in range(4):
        placement = place(models, there, listed, everything)
        told = {number: {m.name for m in held} for number, held in placement.lists.items()}
        before, listed = listed, {name: {n for n in told if name in told[n]} for name in NAMES}
        listed = {name: where for name, where in listed.items() if where}
    assert listed == {name: where for name, where in before.items() if where}
    assert all(len(where) == 1 for where in listed.values())


def test_the_oldest_comes_first_among_newcomers():
    placement = place([model("a", "3Gi", age=2), model("z", "3Gi", age=1)], shards("4Gi"), {}, ())
    assert placement.homes == {"z": 0}
    refusal = placement.refused["a"]
    assert refusal.reason is Reason.MEMORY_RESOURCE_NOT_AVAILABLE
    assert refusal.message == (
        "Inference Service does not have enough memory resources for Trained Model: it needs 3Gi; "
        "shard 0 has 4Gi and 3Gi of it is taken by z 3Gi"
    )


def test_what_was_admitted_stays_when_an_older_one_comes_back():
    placement = place([model("a", "3Gi", age=1), model("z", "3Gi", age=2)], shards("4Gi"), {"z": {0}}, ())
    assert placement.homes == {"z": 0}


def test_a_smaller_limit_takes_nothing_away_and_is_told():
    placement = place([model("a", "3Gi"), model("b", "3Gi")], shards("4Gi"), {"a": {0}, "b": {0}}, ())
    assert names(placement) == {0: ["a", "b"]}
    assert list(placement.over) == ["b"]


def test_a_model_is_packed_where_it_leaves_the_least_room():
    assert place([model("a", "2Gi")], shards("8Gi", "3Gi", None), {}, ()).homes == {"a": 1}


def test_a_model_moves_from_a_shard_too_small_and_is_listed_in_both_until_loaded():
    models = [model("a", "3Gi", age=1), model("b", "3Gi", age=2)]
    first = place(models, shards("4Gi", "4Gi"), {"a": {0}, "b": {0}}, ())
    assert names(first) == {0: ["a", "b"], 1: ["b"]}
    second = place(models, shards("4Gi", "4Gi"), {"a": {0}, "b": {0, 1}}, ())
    assert names(second) == names(first)
    third = place(models, shards("4Gi", "4Gi"), {"a": {0}, "b": {0, 1}}, {("b", 1)})
    assert names(third) == {0: ["a"], 1: ["b"]}


def test_a_model_of_a_shard_that_is_gone_finds_another():
    assert place([model("a")], {1: shard(1, "4Gi")}, {"a": {0}}, ()).homes == {"a": 1}


def test_a_full_config_map_opens_the_next_shard_or_says_so_and_nothing_is_cut():
    many = [model(f"m{index:05}", "1Mi", uri="s3://" + "x" * 4000) for index in range(300)]
    one = place(many, shards(None), {}, ())
    assert {refusal.reason for refusal in one.refused.values()} == {Reason.CONFIG_TOO_LARGE}
    two = place(many, shards(None, None), {}, ())
    assert two.refused == {}
    for held in (one.lists[0], *two.lists.values()):
        text = document(held)
        assert len(text.encode()) <= MAX_CONFIG_BYTES
        assert len(json.loads(text)) == len(held)


def test_a_listed_model_whose_new_spec_would_overflow_keeps_its_former_entry_and_is_told():
    held = [model(f"m{index:05}", "1Mi", uri="s3://" + "x" * 4000) for index in range(254)]
    there = {m.name: {0} for m in held}
    former = {"a": model("a", "1Mi"), "b": model("b", "1Mi")}
    long = [model(name, "1Mi", uri="s3://" + "y" * 4000) for name in former]
    placement = place([*held, *long], shards(None), there | {"a": {0}, "b": {0}}, (), former)
    text = document(placement.lists[0])
    assert len(text.encode()) <= MAX_CONFIG_BYTES
    assert placement.refused == {}
    assert {name: refusal.reason for name, refusal in placement.over.items()} == {
        "b": Reason.CONFIG_TOO_LARGE
    }
    listed = {m.name: m.spec.model.storage_uri for m in placement.lists[0]}
    assert (listed["a"][:6], listed["b"]) == ("s3://y", "s3://b/m")


def test_a_listed_model_that_was_made_again_with_more_memory_takes_room_only_if_there_is_some():
    former = {"a": model("a", "1Gi")}
    grown = [model("a", "3Gi", age=1), model("z", "2Gi", age=2)]
    placement = place(grown, shards("4Gi"), {"a": {0}, "z": {0}}, (), former)
    assert placement.over["a"].reason is Reason.MEMORY_RESOURCE_NOT_AVAILABLE
    assert total_requested_memory(placement.lists[0]).canonical() == "3Gi"
    enough = place(grown, shards("5Gi"), {"a": {0}, "z": {0}}, (), former)
    assert (enough.over, total_requested_memory(enough.lists[0]).canonical()) == ({}, "5Gi")


@given(
    MODELS, SHARDS, LISTED, LOADED, st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1Gi", "2Gi"]))
)
def test_more_memory_under_a_name_never_fills_a_shard_beyond_what_it_held(
    models, there, listed, loaded, memory
):
    former = {name: model(name, size) for name, size in memory.items()}
    before = {
        number: total_requested_memory(
            former.get(m.name, m) for m in models if number in listed.get(m.name, ())
        )
        for number in there
    }
    for number, held in place(models, there, listed, loaded, former).lists.items():
        limit = there[number].memory
        assert limit is None or total_requested_memory(held) <= max(limit, before[number])


def test_one_that_wants_more_takes_no_room_that_a_larger_one_stays_in():
    """The shard is too small for what it lists; growing would make that worse."""
    models = [model("a", "3Gi"), model("e", "2Gi")]
    lists = place(models, shards("2Gi"), {"a": {0}, "e": {0}}, set(), {"e": model("e", "1Gi")}).lists
    assert {each.name: str(each.spec.model.memory) for each in lists[0]} == {"a": "3Gi", "e": "1Gi"}


@given(MODELS)
def test_the_document_is_one_that_the_agent_reads_without_a_rejection(models):
    state = desired_state(document(models).encode(), None)
    assert state.rejected == ()
    assert set(state.models) == {m.name for m in models}
