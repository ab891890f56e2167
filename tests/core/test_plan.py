"""The laws of the planner, for any state it may find itself in."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.actions import Failed, Fetch, Load, Unload
from agent.core.model import DesiredState, ModelName, ModelSpec, ObservedState, Revision, StoredRevision, Told
from agent.core.plan import SUSPECT_WAITS_SECONDS, Rules, plan
from agent.core.reasons import Reason
from agent.core.retry import BackoffPolicy, Hold, Step, hold_key, record
from tests.core.states import DESIRED, NAMES, NOW, QUESTIONS, RULES, Question, actions

POLICY = BackoffPolicy()


@given(QUESTIONS)
def test_each_model_gets_one_action_at_most_and_none_while_one_runs(question):
    names = [action.name for action in actions(question.ask())]
    assert len(names) == len(set(names))
    assert not set(names) & question.busy.keys()


@given(QUESTIONS, st.floats(0, 1, exclude_max=True), st.booleans())
def test_nothing_that_just_failed_is_started_again_at_once(question, jitter, terminal):
    for action in actions(question.ask()):
        failed = Failed(action, Reason.STORAGE_UNAVAILABLE, "503", terminal)
        holds = record(question.holds, failed, NOW, POLICY, jitter)
        again = {hold_key(other) for other in actions(question.ask(holds=holds))}
        assert hold_key(action) not in again


@given(QUESTIONS)
def test_all_loads_of_a_plan_fit_the_budget_together_with_what_the_server_holds(question):
    made = question.ask()
    if question.rules.budget_bytes is not None and any(load.spec.memory_bytes for load in made.loads):
        assert made.reserved_bytes <= question.rules.budget_bytes


@given(QUESTIONS)
def test_what_is_reserved_covers_all_that_the_server_holds_or_is_about_to(question):
    made, seen = question.ask(), question.observed
    running = {name for name, action in question.busy.items() if isinstance(action, Load)}
    starting = sum(load.spec.memory_bytes for load in made.loads)
    loading = sum(
        action.spec.memory_bytes + action.replaces_bytes
        for action in question.busy.values()
        if isinstance(action, Load)
    )
    leaving = sum(
        seen.told[name].memory_bytes
        for name in ((seen.loaded | seen.moving) & seen.told.keys())
        - question.desired.models.keys()
        - running
    )
    assert made.reserved_bytes >= starting + loading + leaving


@given(QUESTIONS)
def test_only_what_we_loaded_and_nobody_wants_is_unloaded(question):
    for unload in question.ask().unloads:
        assert unload.name in question.observed.told
        assert unload.aside == (unload.name in question.desired.models)
        assert question.rules.step_aside or not unload.aside


@given(QUESTIONS)
def test_nothing_serving_steps_aside_for_a_revision_that_failed_before(question):
    for unload in question.ask().unloads:
        if unload.aside:
            spec = question.desired.models[unload.name]
            wanted = question.observed.stored.get(spec.storage_uri)
            before = question.observed.told[unload.name]  # what may come back, where its outcome is not known
            meant = {before.revision} | ({wanted.revision} if wanted is not None else set())
            assert any((Step.LOAD, unload.name, revision) not in question.holds for revision in meant)


@given(QUESTIONS)
def test_a_server_that_is_down_is_asked_nothing(question):
    made = replace(question, observed=replace(question.observed, server_up=False)).ask()
    assert not made.loads
    assert not made.unloads


@given(QUESTIONS, st.randoms(use_true_random=False))
def test_the_order_of_entries_decides_nothing(question, shuffler: random.Random):
    entries = list(question.desired.models.items())
    shuffler.shuffle(entries)
    shuffled = replace(question, desired=replace(question.desired, models=dict(entries)))
    assert shuffled.ask() == question.ask()


@given(QUESTIONS)
def test_nobody_is_forgotten(question):
    """Whoever is not settled has an action, or a verdict that says what it waits for."""
    made, seen = question.ask(), question.observed
    starting = {action.name for action in actions(made)}
    assert made.verdicts.keys() == question.desired.models.keys()
    for name, spec in question.desired.models.items():
        verdict = made.verdicts[name]
        if name in starting or name in question.busy or name in seen.moving or seen.settled(name, spec):
            continue
        shared = verdict.reason is Reason.DOWNLOADING
        no_server = verdict.reason is Reason.WAITING_FOR_SERVER and not seen.server_up
        shared |= verdict.reason is Reason.QUEUED and (bool(loads_of(question, made)) or overdue(question))
        held = verdict.hold is not None and verdict.hold.until > NOW
        assert verdict.shortage is not None or held or shared or no_server


def loads_of(question, made):
    running = [action for action in question.busy.values() if isinstance(action, Load)]
    return [*running, *made.loads]


def overdue(question):
    return any(hold.crashed and hold.until + SUSPECT_WAITS_SECONDS <= NOW for hold in question.holds.values())


@st.composite
def crashed_before(draw):
    """Several models on disk, of which some took the server down when they were loaded last."""
    names = draw(st.lists(NAMES, min_size=1, unique=True))
    specs = {name: ModelSpec(f"s3://b/{name}", "sklearn", draw(st.integers(0, 4))) for name in names}
    stored = {f"s3://b/{name}": StoredRevision(f"s3://b/{name}", OLD, 1, 50.0) for name in names}
    holds = {
        (Step.LOAD, name, OLD): Hold(2, NOW - draw(SINCE), Reason.SERVER_CRASHED, "gone", crashes=1)
        for name in draw(st.lists(st.sampled_from(names), unique=True))
    }
    running = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    busy = {name: Load(name, specs[name], OLD, f"s3://b/{name}") for name in running}
    return Question(
        DesiredState(specs), seen(stored=stored), busy, holds, Rules(draw(st.none() | st.integers(0, 9)))
    )


SINCE = st.sampled_from([1.0, SUSPECT_WAITS_SECONDS + 1.0])


@given(crashed_before())
def test_what_took_the_server_down_before_is_loaded_alone(question):
    """Else its neighbours in flight would be taken for what took it down (laws 2 and 6, fault M9)."""
    made = question.ask()
    loads = loads_of(question, made)
    if made.loads and any(hold_key(load) in question.holds for load in loads):
        assert len(loads) == 1


@given(crashed_before())
def test_what_took_the_server_down_before_goes_last_but_gets_its_turn(question):
    made = question.ask()
    trusted = {load.name for load in question.ask(holds={}).loads}
    sound = [name for name in trusted if (Step.LOAD, name, OLD) not in question.holds]
    late = any(NOW - hold.until > SUSPECT_WAITS_SECONDS for hold in question.holds.values())
    if trusted and not question.busy:
        assert made.loads, "nobody waits for nothing"
        started = hold_key(made.loads[0])
        assert late or not sound or started not in question.holds, "the others are loaded first"
        if late and question.rules.budget_bytes is None:
            assert question.holds[started].until == min(hold.until for hold in question.holds.values())
    elif late and question.rules.budget_bytes is None:
        assert not made.loads or question.holds.keys() <= {hold_key(load) for load in question.busy.values()}


@given(QUESTIONS)
def test_what_serves_stays_when_it_is_wanted(question):
    """Neither a hold, nor a shortage, nor a smaller budget takes away what serves (law 2)."""
    for unload in question.ask().unloads:
        if unload.name in question.desired.models:
            assert unload.aside


@given(DESIRED, RULES)
def test_carrying_plans_out_ends_with_all_that_fit_served(desired, rules):
    """From nothing, with every action succeeding: the end has no action left and no one unexplained."""
    observed = ObservedState({}, {}, frozenset(), frozenset(), server_up=True)
    for _ in range(50):
        made = plan(desired, observed, busy={}, holds={}, rules=rules, now=NOW)
        if not actions(made):
            break
        for action in actions(made):
            observed = carried_out(observed, action)
    assert not actions(made)
    for name, spec in desired.models.items():
        assert observed.settled(name, spec) or made.verdicts[name].shortage is not None
    held = sum(desired.models[name].memory_bytes for name in observed.loaded)
    assert rules.budget_bytes is None or held <= rules.budget_bytes


def carried_out(observed: ObservedState, action: Fetch | Load | Unload) -> ObservedState:
    match action:
        case Fetch(spec=spec):
            revision = Revision(spec.storage_uri[::-1])
            stored = StoredRevision(spec.storage_uri, revision, 1, NOW)
            return replace(observed, stored={**observed.stored, spec.storage_uri: stored})
        case Load(name=name, spec=spec):
            told = Told(action.revision, action.uri, spec.framework, spec.memory_bytes, confirmed=True)
            return replace(observed, told={**observed.told, name: told}, loaded=observed.loaded | {name})
        case Unload(name=name):
            kept = observed.told if action.aside else {n: t for n, t in observed.told.items() if n != name}
            return replace(observed, told=kept, loaded=observed.loaded - {name})


# Named cases: the faults that a first sketch of this planner had (design §3), and the table's rows.

A, B = ModelName("a"), ModelName("b")
OLD, NEW = Revision("0001"), Revision("0002")


def served(revision: Revision, memory: int, uri: str = "s3://b/one") -> Told:
    return Told(revision, uri, "sklearn", memory, confirmed=True)


def seen(**changed) -> ObservedState:
    plain = {
        "stored": {"s3://b/one": StoredRevision("s3://b/one", OLD, 1, 50.0)},
        "told": {},
        "restorable": frozenset(),
        "loaded": frozenset(),
        "server_up": True,
    }
    return ObservedState(**(plain | changed))


def ask(models: dict[ModelName, ModelSpec], observed: ObservedState, **changed):
    question = Question(DesiredState(models), observed, {}, {}, Rules(changed.pop("budget", None)))
    return replace(question, **changed).ask()


def test_a_model_with_a_smaller_spec_than_it_was_loaded_with_leaves_room_that_can_be_used():
    """Counted one way to admit and another to plan, b would be admitted for ever and never loaded."""
    observed = seen(told={A: served(OLD, 9)}, loaded=frozenset({A}))
    made = ask(
        {A: ModelSpec("s3://b/one", "sklearn", 1), B: ModelSpec("s3://b/one", "sklearn", 9)},
        observed,
        budget=10,
    )
    assert [load.name for load in made.loads] == [B]


def test_a_change_of_memory_alone_starts_nothing():
    observed = seen(told={A: served(OLD, 9)}, loaded=frozenset({A}))
    assert not actions(ask({A: ModelSpec("s3://b/one", "sklearn", 3)}, observed))


def test_a_change_of_framework_loads_anew_only_where_the_layout_depends_on_it():
    observed = seen(told={A: served(OLD, 1)}, loaded=frozenset({A}))
    changed = {A: ModelSpec("s3://b/one", "onnx", 1)}
    assert not actions(ask(changed, observed))
    assert [
        type(action) for action in actions(ask(changed, replace(observed, layout_by_framework=True)))
    ] == [Load]


def test_an_update_that_does_not_fit_beside_the_old_one_waits_and_the_old_one_serves():
    observed = seen(told={A: served(Revision("0000"), 6)}, loaded=frozenset({A}))
    made = ask({A: ModelSpec("s3://b/one", "sklearn", 6)}, observed, budget=10)
    assert not actions(made)
    assert made.verdicts[A].reason is Reason.UPDATE_NEEDS_ROOM


def test_with_the_resource_policy_the_old_one_steps_aside_and_keeps_its_room_from_a_newcomer():
    models = {A: ModelSpec("s3://b/one", "sklearn", 6), ModelName("0"): ModelSpec("s3://b/one", "sklearn", 6)}
    observed = seen(told={A: served(Revision("0000"), 6)}, loaded=frozenset({A}))
    made = ask(models, observed, rules=Rules(10, step_aside=True))
    assert [(unload.name, unload.aside) for unload in made.unloads] == [(A, True)]
    aside = replace(observed, loaded=frozenset())
    assert [load.name for load in ask(models, aside, rules=Rules(10, step_aside=True)).loads] == [A]


def test_a_server_that_lost_its_models_gets_the_old_revision_back_while_the_new_one_is_on_hold():
    observed = seen(told={A: served(Revision("0000"), 1, "s3://b/two")}, restorable=frozenset({A}))
    hold = Hold(1, NOW + 100, Reason.LOAD_REJECTED, "bad", terminal=True)
    made = ask({A: ModelSpec("s3://b/one", "sklearn", 1)}, observed, holds={(Step.LOAD, A, OLD): hold})
    assert [(load.revision, load.uri) for load in made.loads] == [("0000", "s3://b/two")]


def test_a_server_that_lost_its_models_gets_the_old_revision_back_before_the_new_one_is_fetched():
    observed = seen(told={A: served(OLD, 1)}, restorable=frozenset({A}))
    made = ask({A: ModelSpec("s3://b/new", "sklearn", 1)}, observed)
    assert [load.revision for load in made.loads] == [OLD]
    assert not made.fetches


def test_what_served_comes_back_before_the_update_that_took_the_server_down_is_tried_again():
    observed = seen(
        told={A: replace(served(Revision("0000"), 1, "s3://b/two"), confirmed=False)},
        restorable=frozenset({A}),
    )
    crashed = {(Step.LOAD, A, OLD): Hold(1, NOW - 1, Reason.SERVER_CRASHED, "gone", crashes=1)}
    wanted = {A: ModelSpec("s3://b/one", "sklearn", 1)}
    assert [load.revision for load in ask(wanted, observed, holds=crashed).loads] == ["0000"]
    back = replace(observed, told={A: served(Revision("0000"), 1, "s3://b/two")}, loaded=frozenset({A}))
    assert [load.revision for load in ask(wanted, back, holds=crashed).loads] == [OLD]


def test_where_there_is_no_room_for_what_served_the_smaller_one_that_is_wanted_is_fetched():
    observed = seen(told={A: served(Revision("0000"), 9, "s3://b/two")}, restorable=frozenset({A}))
    wanted = {A: ModelSpec("s3://b/new", "sklearn", 2)}
    fetch = Fetch(A, wanted[A])
    assert list(ask(wanted, observed, budget=5).fetches) == [fetch]
    assert not ask(wanted, observed, budget=5, busy={A: fetch}).cancel
    assert ask(wanted, observed, budget=9, busy={A: fetch}).cancel == (A,)


def test_where_a_load_of_unknown_outcome_has_no_room_beside_itself_what_is_wanted_is_fetched():
    """It may be in the server, so it is admitted; the load that would make sure of it never fits."""
    told = replace(served(Revision("0000"), 4, "s3://b/two"), confirmed=False)
    observed = seen(told={A: told}, loaded=frozenset({A}), restorable=frozenset({A}))
    wanted = {A: ModelSpec("s3://b/new", "sklearn", 2)}
    fetch = Fetch(A, wanted[A])
    assert list(ask(wanted, observed, budget=7).fetches) == [fetch]
    assert not ask(wanted, observed, budget=7, busy={A: fetch}).cancel
    assert [load.revision for load in ask(wanted, observed, budget=8).loads] == ["0000"]


def test_a_refused_revision_whose_hold_is_over_is_listed_again_before_it_is_loaded_again():
    hold = Hold(1, NOW - 1, Reason.LOAD_REJECTED, "bad", terminal=True, relist=True)
    made = ask({A: ModelSpec("s3://b/one", "sklearn", 1)}, seen(), holds={(Step.LOAD, A, OLD): hold})
    assert [fetch.relist for fetch in made.fetches] == [True]
    assert not made.loads


def test_a_running_fetch_that_nobody_wants_is_cancelled():
    fetch = Fetch(A, ModelSpec("s3://b/two", "sklearn", 1))
    made = ask({A: ModelSpec("s3://b/new", "sklearn", 1)}, seen(), busy={A: fetch})
    assert made.cancel == (A,)
    assert ask({}, seen(), busy={A: fetch}).cancel == (A,)


def test_two_models_of_one_uri_are_fetched_once():
    spec = ModelSpec("s3://b/new", "sklearn", 1)
    made = ask({A: spec, B: spec}, seen())
    assert [fetch.name for fetch in made.fetches] == [A]
    assert made.verdicts[B].reason is Reason.DOWNLOADING


def test_one_that_waited_long_gets_the_next_room_before_smaller_ones():
    models = {A: ModelSpec("s3://b/one", "sklearn", 8), B: ModelSpec("s3://b/one", "sklearn", 2)}
    observed = seen(told={ModelName("c"): served(OLD, 6)}, loaded=frozenset({ModelName("c")}))
    models |= {ModelName("c"): ModelSpec("s3://b/one", "sklearn", 6)}
    question = Question(DesiredState(models), observed, {}, {}, Rules(10))
    assert [load.name for load in question.ask().loads] == [B]
    assert not question.ask(waited={A}).loads


@pytest.mark.parametrize("terminal", [False, True])
def test_what_was_refused_keeps_no_room_from_others_while_it_is_put_off_for_minutes(terminal):
    """One that is to be tried again in a moment does: a newcomer would take what was its own."""
    models = {A: ModelSpec("s3://b/one", "sklearn", 8), B: ModelSpec("s3://b/one", "sklearn", 4)}
    hold = Hold(1, NOW + 100, Reason.LOAD_REJECTED, "no", terminal=terminal)
    made = ask(models, seen(), holds={(Step.LOAD, A, OLD): hold}, budget=10)
    assert [load.name for load in made.loads] == ([B] if terminal else [])
    assert made.verdicts[A].hold == hold
    updated = seen(told={A: served(Revision("0000"), 2)}, loaded=frozenset({A}))
    made = ask(models, updated, holds={(Step.LOAD, A, OLD): hold}, budget=10)
    assert [load.name for load in made.loads] == ([B] if terminal else [])


def test_an_update_that_is_larger_than_the_whole_budget_keeps_no_room_from_others():
    models = {A: ModelSpec("s3://b/one", "sklearn", 11), B: ModelSpec("s3://b/one", "sklearn", 4)}
    observed = seen(told={A: served(Revision("0000"), 2)}, loaded=frozenset({A}))
    made = ask(models, observed, budget=10)
    assert [load.name for load in made.loads] == [B]
    assert made.verdicts[A].reason is Reason.UPDATE_NEEDS_ROOM


def test_a_model_larger_than_the_budget_says_so_with_the_numbers():
    made = ask({A: ModelSpec("s3://b/one", "sklearn", 11)}, seen(), budget=10)
    shortage = made.verdicts[A].shortage
    assert (shortage.reason, shortage.need_bytes, shortage.budget_bytes) == (
        Reason.EXCEEDS_MEMORY_BUDGET,
        11,
        10,
    )
