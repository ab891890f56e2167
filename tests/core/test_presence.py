"""What readings of the server mean: one glitch takes nothing away, a restart is noticed."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import ModelName
from agent.core.presence import Presence, after_outcome, after_reading, after_silence
from tests.core.states import NAMES

SETS = st.frozensets(NAMES)
A, B = ModelName("a"), ModelName("b")
UP = Presence(up=True, loaded=frozenset({A, B}))


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


def test_a_name_missing_after_silence_is_lost_at_once_and_counts_as_a_restart():
    presence = read(after_silence(UP), set())
    assert (presence.loaded, presence.restarts) == (frozenset(), 1)


def test_silence_stops_loads_at_once_and_readiness_after_two():
    once = after_silence(UP)
    assert (once.up, once.loaded) == (False, {A, B})
    assert after_silence(once).loaded == frozenset()


def test_an_outcome_is_in_the_presence_at_once():
    assert after_outcome(UP, ModelName("c"), loaded=True).loaded == {"a", "b", "c"}
    assert after_outcome(UP, A, loaded=False).loaded == {B}
