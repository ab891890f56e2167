"""Holds: every failure has a next try, in bounded time; nothing is remembered for ever."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.actions import Cancelled, Failed, Fetch, Load, Succeeded, Unload
from agent.core.model import ModelName, ModelSpec, Revision
from agent.core.reasons import Reason
from agent.core.retry import BackoffPolicy, Step, after_restart, hold_key, record, still_meant
from tests.core.states import DESIRED, HOLDS, NOW

POLICY = BackoffPolicy()
SPEC = ModelSpec("s3://b/one", "sklearn", 1)
FETCH = Fetch(ModelName("a"), SPEC)
LOAD = Load(ModelName("a"), SPEC, Revision("1111"), SPEC.storage_uri)
UNLOAD = Unload(ModelName("a"), 1)
ACTIONS = st.sampled_from([FETCH, LOAD, UNLOAD])
JITTER = st.floats(0, 1, exclude_max=True)


def failed_times(action, times, jitter=0.5, **fault):
    holds = {}
    for _ in range(times):
        failed = Failed(
            action, fault.get("reason", Reason.STORAGE_UNAVAILABLE), "no", fault.get("terminal", False)
        )
        holds = record(holds, failed, NOW, POLICY, jitter)
    return holds[hold_key(action)]


@given(ACTIONS, st.integers(1, 2000), JITTER, st.booleans())
def test_every_failure_is_tried_again_after_a_bounded_pause(action, times, jitter, terminal):
    hold = failed_times(action, min(50, times), jitter, terminal=terminal)
    longest = POLICY.refused_cap_seconds if terminal and action is LOAD else max(POLICY.cap_seconds, 300.0)
    assert NOW + POLICY.floor_seconds <= hold.until <= NOW + longest


@given(HOLDS, ACTIONS)
def test_success_forgets_the_failures_of_that_step_alone(holds, action):
    after = record(holds, Succeeded(action), NOW, POLICY, 0.5)
    assert hold_key(action) not in after
    assert after.keys() == holds.keys() - {hold_key(action)}


@given(HOLDS, ACTIONS)
def test_a_cancelled_action_is_neither_success_nor_failure(holds, action):
    assert record(holds, Cancelled(action), NOW, POLICY, 0.5) == holds


def test_a_refused_load_waits_five_minutes_doubling_to_an_hour():
    pauses = [failed_times(LOAD, times, terminal=True).until - NOW for times in range(1, 7)]
    assert pauses == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_a_refused_archive_which_is_fetched_at_each_try_waits_as_long():
    refused = {"reason": Reason.ARCHIVE_REFUSED, "terminal": True}
    pauses = [failed_times(FETCH, times, **refused).until - NOW for times in range(1, 7)]
    assert pauses == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_a_new_listing_frees_a_refused_load_for_one_more_try():
    refused = record({}, Failed(LOAD, Reason.LOAD_REJECTED, "no", terminal=True), NOW, POLICY, 0.5)
    assert refused[hold_key(LOAD)].relist
    listed = record(refused, Succeeded(Fetch(LOAD.name, SPEC, relist=True)), NOW, POLICY, 0.5)
    assert not listed[hold_key(LOAD)].relist
    assert listed[hold_key(LOAD)].failures == 1


def test_what_the_storage_asks_for_is_waited_but_not_for_ever():
    throttled = Failed(FETCH, Reason.STORAGE_THROTTLED, "slow down", retry_after_seconds=20.0)
    assert record({}, throttled, NOW, POLICY, 0.0)[hold_key(FETCH)].until == NOW + 20
    forever = Failed(FETCH, Reason.STORAGE_THROTTLED, "slow down", retry_after_seconds=1e9)
    assert (
        record({}, forever, NOW, POLICY, 0.0)[hold_key(FETCH)].until == NOW + POLICY.retry_after_cap_seconds
    )


def test_a_restarted_server_is_asked_again_but_not_for_what_took_it_down():
    refused = record({}, Failed(LOAD, Reason.LOAD_REJECTED, "no", terminal=True), NOW, POLICY, 0.5)
    assert not after_restart(refused)
    crashed = record({}, Failed(LOAD, Reason.SERVER_CRASHED, "gone"), NOW, POLICY, 0.5)
    assert after_restart(crashed) == crashed


def test_a_model_that_takes_the_server_down_again_and_again_is_put_off_for_minutes():
    assert failed_times(LOAD, 3, reason=Reason.SERVER_CRASHED).until - NOW >= 300


FAILURES = st.sampled_from(
    [
        Failed(LOAD, Reason.SERVER_CRASHED, "gone"),
        Failed(LOAD, Reason.SERVER_UNAVAILABLE, "refused"),
        Failed(LOAD, Reason.LOAD_TIMEOUT, "late"),
        Failed(LOAD, Reason.LOAD_REJECTED, "no", terminal=True),
    ]
)


@given(st.lists(FAILURES, max_size=12), FAILURES, JITTER)
def test_a_load_is_quarantined_for_its_crashes_alone_and_no_other_failure_ends_that(before, last, jitter):
    failures, holds = [*before, last], {}
    for failed in failures:
        holds = record(holds, failed, NOW, POLICY, jitter)
    hold, crashes = holds[hold_key(LOAD)], sum(each.reason is Reason.SERVER_CRASHED for each in failures)
    quarantined = crashes >= POLICY.crashes_before_quarantine
    assert (hold.until - NOW >= POLICY.terminal_seconds) == (quarantined or last.terminal)
    assert hold.terminal == (quarantined or last.terminal)
    assert (after_restart(holds) == holds) == (crashes > 0)


@given(st.integers(0, 20))
def test_a_first_refusal_waits_five_minutes_whatever_failed_before_it(times):
    holds = {}
    for _ in range(times):
        holds = record(holds, Failed(LOAD, Reason.LOAD_TIMEOUT, "late"), NOW, POLICY, 0.5)
    holds = record(holds, Failed(LOAD, Reason.LOAD_REJECTED, "no", terminal=True), NOW, POLICY, 0.5)
    assert holds[hold_key(LOAD)].until == NOW + POLICY.terminal_seconds


@given(HOLDS, DESIRED)
def test_holds_of_what_nobody_means_any_more_are_dropped(holds, desired):
    for step, name, target in still_meant(holds, desired, set()):
        assert step is not Step.LOAD
        assert (name in desired.models) == (step is Step.FETCH)
        assert step is Step.UNLOAD or desired.models[name].storage_uri == target
