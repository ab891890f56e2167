"""What is foretold is what the planner would do."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import DesiredState, ModelName, ModelSpec, Rejection, Revision, Told
from agent.core.plan import Rules
from agent.core.preview import Size, Verb, preview
from agent.core.reasons import Reason
from agent.core.seen import EMPTY, Seen, default_memory_of, seen_of
from agent.web.render import Renderer
from tests.core.states import DESIRED, OBSERVED
from tests.web.boards import board_with, failed, ready

MIB = 1 << 20
BUDGETS = st.none() | st.integers(0, 20)


def wanted(**models: tuple[str, int]) -> DesiredState:
    return DesiredState(
        {ModelName(n): ModelSpec(uri, "sklearn", mib * MIB) for n, (uri, mib) in models.items()}
    )


def told(found) -> dict[str, tuple[str, ...]]:
    return {change.name: tuple(map(str, change.verbs)) for change in found.changes}


def ask(desired, observed=EMPTY, *, budget=None, sizes=None, holds=None):
    return preview(desired, observed, holds=holds or {}, rules=Rules(budget), sizes=sizes or {})


@given(DESIRED, OBSERVED, BUDGETS)
def test_it_ends_and_tells_of_every_wanted_model_once(desired, observed, budget):
    found = ask(desired, observed, budget=budget)
    names = [change.name for change in found.changes]
    assert len(names) == len(set(names))
    assert set(names) >= set(desired.models)


@given(DESIRED, BUDGETS)
def test_from_nothing_what_is_loaded_fits_the_budget_and_the_rest_waits(desired, budget):
    found = ask(desired, budget=budget)
    assert budget is None or found.after_bytes <= budget
    for change in found.changes:
        assert (Verb.LOAD in change.verbs) != bool({Verb.WAIT, Verb.REFUSE} & set(change.verbs))


def test_an_empty_agent_fetches_and_loads_all_and_the_listing_gives_the_bytes():
    sizes = {"s3://b/a": Size(100), "s3://b/c": Size(None)}
    found = ask(wanted(a=("s3://b/a", 1), c=("s3://b/c", 2)), sizes=sizes)
    assert told(found) == {"a": ("fetch", "load"), "c": ("fetch", "load")}
    assert [change.fetch_bytes for change in found.changes] == [100, None]
    assert (found.before_bytes, found.after_bytes) == (0, 3 * MIB)


def test_two_models_of_one_uri_are_one_download():
    found = ask(wanted(a=("s3://b/a", 1), c=("s3://b/a", 1)), sizes={"s3://b/a": Size(100)})
    assert told(found) == {"a": ("fetch", "load"), "c": ("load",)}
    assert sum(change.fetch_bytes for change in found.changes) == 100


def test_what_does_not_fit_waits_and_what_never_fits_is_refused():
    found = ask(wanted(a=("s3://b/a", 3), b=("s3://b/b", 3), c=("s3://b/c", 9)), budget=4 * MIB)
    assert told(found) == {"c": ("refuse",), "b": ("wait",), "a": ("fetch", "load")}
    assert found.changes[1].message == "needs 3 MiB, 1 MiB of the budget of 4 MiB are free"


def test_what_the_storage_does_not_have_is_refused_with_its_reason():
    found = ask(wanted(a=("s3://b/a", 1)), sizes={"s3://b/a": Size(None, Reason.NOT_FOUND, "nothing")})
    assert told(found) == {"a": ("refuse",)}
    assert found.changes[0].reason is Reason.NOT_FOUND
    assert not found.anything
    assert found.refused


def test_a_rejected_entry_is_refused_and_what_serves_under_its_name_stays():
    desired = DesiredState({}, (Rejection("a", Reason.INVALID_MEMORY, "no"),))
    assert told(ask(desired)) == {"a": ("refuse",)}


def document(*statuses) -> dict:
    return json.loads(Renderer(board_with(*statuses), lambda at: at).document([s.name for s in statuses]))


def seen(desired: DesiredState, *statuses) -> Seen:
    return seen_of(document(*statuses), desired.models, 1e9 - 12)  # `failed` is tried again at 1e9


def test_what_a_running_agent_has_already_is_kept():
    desired = DesiredState({ModelName("a"): ModelSpec("s3://bucket/model", "sklearn", MIB)})
    have = seen(desired, ready("a"))
    assert told(ask(desired, have.observed)) == {"a": ("keep",)}
    assert not ask(desired, have.observed).anything


def test_what_is_asked_for_no_more_is_unloaded():
    have = seen(DesiredState({}), ready("a"))
    assert told(ask(DesiredState({}), have.observed)) == {"a": ("unload",)}


def test_a_new_uri_is_fetched_and_loaded_over_the_old():
    desired = wanted(a=("s3://bucket/other", 1))
    assert told(ask(desired, seen(desired, ready("a")).observed)) == {"a": ("fetch", "load")}


def test_a_failure_that_the_agent_waits_over_is_not_foretold_to_succeed():
    desired = DesiredState({ModelName("b"): ModelSpec("s3://bucket/none", "sklearn", 0)})
    have = seen(desired, failed("b"))
    found = ask(desired, have.observed, holds=have.holds)
    assert told(found) == {"b": ("wait",)}
    assert found.changes[0].reason is Reason.NOT_FOUND
    assert found.changes[0].next_try_seconds == 12
    assert found.anything, "the agent is going to try it again"


def test_what_waits_for_memory_alone_is_nothing_to_do():
    found = ask(wanted(a=("s3://b/a", 3), b=("s3://b/b", 3)), budget=2 * MIB)
    assert not found.anything


@pytest.mark.parametrize("declared", [("a" * 64, None), ("list.sha256", None), (None, "model.sig")])
def test_declared_bytes_that_are_served_are_kept(declared):
    spec = ModelSpec("s3://bucket/model", "sklearn", MIB, "1Mi", *declared)
    desired = DesiredState({ModelName("a"): spec})
    assert told(ask(desired, seen(desired, replace(ready("a"), spec=spec)).observed)) == {"a": ("keep",)}


def test_a_failed_fetch_of_a_declared_digest_is_waited_over():
    spec = ModelSpec("s3://bucket/none", "sklearn", 0, None, "a" * 64)
    desired = DesiredState({ModelName("b"): spec})
    have = seen(desired, replace(failed("b"), spec=spec))
    assert told(ask(desired, have.observed, holds=have.holds)) == {"b": ("wait",)}
    lost = {"s3://bucket/none": Size(None, Reason.NOT_FOUND, "nothing")}
    assert told(ask(desired, sizes=lost)) == {"b": ("refuse",)}


def test_how_the_agent_was_set_up_is_read_and_an_older_agent_has_the_defaults():
    document_ = document(ready("a"))
    document_["rules"] = {"updatePolicy": "resource", "defaultModelMemoryBytes": 7, "maxRemoval": 3}
    found = seen_of(document_, {}, 0.0)
    assert (found.step_aside, found.max_removal, default_memory_of(document_)) == (True, 3, 7)
    del document_["rules"]
    assert (seen_of(document_, {}, 0.0).step_aside, default_memory_of(document_)) == (False, 0)


def test_a_uri_shown_without_its_secrets_is_known_again():
    desired = DesiredState({ModelName("a"): ModelSpec("https://host/m?sig=secret", "sklearn", MIB)})
    assert told(ask(desired, seen(desired, ready("a", uri="https://host/m?sig=secret")).observed)) == {
        "a": ("keep",)
    }


@given(st.sampled_from(["1", "2"]))
def test_stepping_aside_is_told_as_it_is(revision):
    desired = wanted(a=("s3://b/new", 3))
    name = ModelName("a")
    observed = EMPTY.__class__(
        stored={}, restorable=frozenset({name}), loaded=frozenset({name}), server_up=True,
        told={name: Told(Revision(revision), "s3://b/old", "sklearn", 3 * MIB, confirmed=True)},
    )  # fmt: skip
    aside = preview(desired, observed, holds={}, rules=Rules(4 * MIB, step_aside=True), sizes={})
    assert told(aside) == {"a": ("fetch", "unload", "load")}
    stays = preview(desired, observed, holds={}, rules=Rules(4 * MIB), sizes={})
    assert told(stays) == {"a": ("fetch", "wait")}
