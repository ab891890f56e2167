"""What readings of the server mean: one glitch takes nothing away, a restart is noticed."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import ModelName
from agent.core.presence import Presence, after_outcome, after_reading, after_silence
from tests.core.states import NAMES

SETS = st.frozensets(NAMES)
A, B = ModelName("a"), ModelName("b")
UP = Presence(up=True, loaded=frozenset({A, B}), known=frozenset({A, B}))


def read(before, loaded, busy=()):
    return after_reading(before, ready=True, loaded=frozenset(loaded), moving=frozenset(), busy=busy)


@given(SETS, SETS)
def test_two_equal_readings_are_believed(before, listed):
    presence = read(read(Presence(up=True, loaded=before), listed), listed)
    assert presence.loaded == listed


@given(SETS, SETS, SETS)
def test_what_runs_is_judged_by_its_outcome_alone(before, listed, busy):
    presence = read(Presence(up=True, loaded=before), listed, busy)
    assert presence.loaded & busy == before & busy


def test_a_name_missing_once_is_doubted_and_stays():
    presence = read(UP, {A})
    assert (presence.loaded, presence.doubted, presence.restarts) == ({A, B}, {B}, 0)
    assert read(presence, {A, B}).doubted == frozenset()


def test_one_name_that_is_lost_is_no_restart_and_all_of_them_are():
    assert read(read(UP, {A}), {A}).restarts == 0
    assert read(UP, set()).restarts == 0, "it may be a glitch"
    assert read(read(UP, set()), set()).restarts == 1


def test_what_was_loaded_since_the_restart_hides_no_restart():
    new = ModelName("c")
    again = after_outcome(UP, new, loaded=True)
    assert read(read(again, {new}), {new}).restarts == 1


def test_a_name_missing_after_a_refused_connection_is_lost_at_once_and_the_server_restarted():
    presence = read(after_silence(UP, refused=True), {A})
    assert (presence.loaded, presence.restarts) == ({A}, 1)
    assert read(presence, {A}).restarts == 1, "that counts once"


@given(st.integers(1, 9), SETS)
def test_silence_that_ends_with_all_there_is_no_restart_and_with_nothing_there_is_one(times, others):
    silent = UP
    for _ in range(times):
        silent = after_silence(silent)
    assert read(silent, {A, B} | others).restarts == 0
    assert read(read(silent, set()), set()).restarts == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_flapping_is_no_restart_as_long_as_somebody_listens_and_something_stays(answers):
    presence = UP
    for answered, ready in answers:
        presence = (
            after_reading(presence, ready=ready, loaded=frozenset({A}), moving=frozenset(), busy=())
            if answered
            else after_silence(presence)
        )
    assert presence.restarts == 0


def test_what_we_unload_ourselves_is_no_restart():
    presence = after_outcome(after_outcome(UP, A, loaded=False), B, loaded=False)
    assert read(read(presence, set()), set()).restarts == 0


def test_silence_stops_loads_at_once_and_readiness_after_two():
    once = after_silence(UP)
    assert (once.up, once.loaded) == (False, {A, B})
    assert after_silence(once).loaded == frozenset()


def test_an_outcome_is_in_the_presence_at_once():
    assert after_outcome(UP, ModelName("c"), loaded=True).loaded == {"a", "b", "c"}
    assert after_outcome(UP, A, loaded=False).loaded == {B}
