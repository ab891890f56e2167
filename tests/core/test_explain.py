"""The answer to "why is this model not loaded?"."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.budget import Shortage
from agent.core.explain import MOST_HOLDERS, Refusal, explain, explain_refused
from agent.core.explanations import EXPLANATIONS
from agent.core.history import MOST, Transition, failures, noted, state_began, trouble_began
from agent.core.model import ModelName, ModelSpec, Revision
from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase

GIB = 1 << 30
SPEC = ModelSpec("s3://bucket/m", "sklearn", 2 * GIB, "2Gi")
READY = ModelStatus(
    ModelName("m"), Phase.READY, True, None, None, SPEC, Revision("1"), Revision("1"), 0, None, (), 2 * GIB
)
WAITING = replace(
    READY,
    phase=Phase.PENDING,
    ready=False,
    reason=Reason.MEMORY_BUDGET_EXCEEDED,
    message="waits for memory",
    held_bytes=0,
    shortage=Shortage(Reason.MEMORY_BUDGET_EXCEEDED, 2 * GIB, GIB, 4 * GIB),
)
FAILED = replace(
    READY, phase=Phase.FAILED, ready=False, reason=Reason.NOT_FOUND, message="nothing is there", attempts=2,
    next_retry=99.0,
)  # fmt: skip

STATUSES = st.builds(
    ModelStatus,
    name=st.just(ModelName("m")),
    phase=st.sampled_from(Phase),
    ready=st.booleans(),
    reason=st.none() | st.sampled_from(Reason),
    message=st.none() | st.text(min_size=1, max_size=400),
    spec=st.none() | st.just(SPEC),
    revision=st.none() | st.just(Revision("1")),
    served_revision=st.none() | st.just(Revision("1")),
    attempts=st.integers(0, 5),
    next_retry=st.none() | st.just(99.0),
    conditions=st.just(()),
    held_bytes=st.integers(0, GIB),
    shortage=st.none() | st.just(WAITING.shortage),
)


def told(*statuses: ModelStatus):
    history: tuple[Transition, ...] = ()
    for moment, status in enumerate(statuses):
        history = noted(history, status, float(moment))
    return history


@given(st.lists(STATUSES, min_size=1, max_size=40))
def test_every_state_has_an_answer_that_says_what_is_next_and_what_to_do(statuses):
    answer = explain(statuses[-1], told(*statuses), statuses)
    assert answer.summary
    assert answer.next_step
    assert (answer.told is None) == (statuses[-1].reason is None)
    assert (answer.memory is None) == (statuses[-1].shortage is None)


@given(st.lists(STATUSES, min_size=1, max_size=60))
def test_a_history_is_bounded_in_order_and_ends_with_what_is(statuses):
    history = told(*statuses)
    assert len(history) <= MOST
    assert [each.at for each in history] == sorted(each.at for each in history)
    assert (history[-1].phase, history[-1].reason) == (statuses[-1].phase, statuses[-1].reason)
    assert all(len(each.message or "") <= 300 for each in history)


def test_saying_the_same_again_is_no_news():
    history = told(FAILED)
    assert noted(history, FAILED, 50.0) is history


def test_the_sum_names_who_holds_the_memory_largest_first():
    others = [replace(READY, name=ModelName(f"m{size}"), held_bytes=size) for size in range(1, 15)]
    memory = explain(WAITING, told(WAITING), [*others, WAITING]).memory
    assert memory is not None
    assert (memory.need_bytes, memory.free_bytes, memory.budget_bytes) == (2 * GIB, GIB, 4 * GIB)
    assert [size for _, size in memory.holders] == list(range(14, 14 - MOST_HOLDERS, -1))
    assert (memory.other_models, memory.other_bytes) == (4, 1 + 2 + 3 + 4)


def test_what_it_waits_for_is_what_is_missing():
    assert explain(WAITING, told(WAITING), []).waits_for == "1 GiB more memory"


def test_retries_do_not_begin_the_trouble_anew():
    trying = replace(READY, phase=Phase.DOWNLOADING, ready=False, reason=Reason.DOWNLOADING, attempts=1)
    again = replace(FAILED, attempts=3)
    answer = explain(again, told(READY, FAILED, trying, again), [])
    assert answer.since == 1.0
    assert answer.next_at == 99.0
    assert [each.attempts for each in answer.attempts] == [2, 3]
    assert answer.summary == "Failed: Nothing is there. 3 tries have failed in a row."
    assert answer.told is EXPLANATIONS[Reason.NOT_FOUND]


def test_a_uri_at_the_head_of_a_message_stays_as_it_is():
    status = replace(FAILED, message="s3://bucket/m: nothing is there", attempts=1)
    assert explain(status, (), []).summary == "Failed: s3://bucket/m: nothing is there."


def test_an_update_that_failed_says_that_the_old_one_serves():
    held = replace(FAILED, ready=True)
    assert "keeps serving" in explain(held, told(held), []).summary


def test_a_model_that_is_ready_needs_nothing():
    answer = explain(READY, told(FAILED, READY), [])
    assert (answer.since, answer.waits_for, answer.told) == (1.0, None, None)
    assert "nothing is to be done" in answer.next_step


@pytest.mark.parametrize("phase", Phase)
def test_only_tries_that_failed_are_attempts(phase):
    status = replace(FAILED, phase=phase)
    assert bool(failures(told(status))) == (phase is Phase.FAILED)


@given(st.integers(0, 200))
def test_since_is_when_the_trouble_began_however_often_it_was_retried(tries):
    history = noted((), READY, 0.0)
    for attempt in range(tries):
        trying = replace(
            READY, phase=Phase.DOWNLOADING, ready=False, reason=Reason.DOWNLOADING, attempts=attempt
        )
        history = noted(history, trying, 10.0 + 2 * attempt)
        history = noted(history, replace(FAILED, attempts=attempt + 1), 11.0 + 2 * attempt)
    answer = explain(replace(FAILED, attempts=tries + 1), history, [])
    assert answer.since == (10.0 if tries else None)
    assert len(history) + sum(each.left_out for each in history) == 2 * tries + 1 or history[0].at == 10.0


def test_since_is_when_the_waiting_began_however_often_its_sum_changed():
    queued = replace(WAITING, reason=Reason.QUEUED, shortage=None, message=None)
    history = noted(noted((), READY, 0.0), queued, 1.0)
    for moment in range(2, 100):
        history = noted(history, replace(WAITING, message=f"{moment} B are free"), float(moment))
    assert explain(WAITING, history, []).since == 2.0
    assert (history[0].at, history[1].at) == (1.0, 2.0)


@given(st.none() | STATUSES, st.sampled_from(Reason), st.booleans())
def test_who_is_refused_hears_why_and_what_to_do(status, reason, whole):
    refusal = Refusal(reason, "no quantity", whole=whole)
    answer = explain_refused(refusal) if status is None else explain(status, (), [], refusal)
    assert answer.refusal is refusal
    assert answer.told is not None
    assert "quantity" in answer.summary
    assert answer.next_step


def test_a_refused_entry_says_what_serves_meanwhile():
    refusal = Refusal(Reason.INVALID_MEMORY, "memory '4 gigs' is no quantity")
    answer = explain(READY, told(READY), [], refusal)
    assert answer.summary == (
        "Rejected: Memory '4 gigs' is no quantity. "
        "What was accepted before stays in force: revision 1 serves."
    )
    assert answer.told is EXPLANATIONS[Reason.INVALID_MEMORY]
    assert answer.waits_for == "a corrected entry in models.json"
    assert "Nothing serves under this name" in explain_refused(refusal).summary


@given(st.lists(STATUSES, min_size=1, max_size=120))
def test_where_trouble_and_state_began_is_kept_whatever_else_goes(statuses):
    def began(belongs) -> float:
        moments = [moment for moment, status in enumerate(statuses) if not belongs(status)]
        return float(moments[-1] + 1 if moments else 0)

    def fine(status) -> bool:
        return status.phase is Phase.READY and status.reason is None

    history, last = told(*statuses), statuses[-1]
    assert history[trouble_began(history)].at == began(lambda each: fine(each) == fine(last))
    assert history[state_began(history)].at == began(
        lambda each: (each.phase, each.reason) == (last.phase, last.reason)
    )
