"""Admission: first fit in a standing order; what the server holds counts whether it fits or not."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.budget import Rank, admit
from agent.core.reasons import Reason
from tests.core.states import NAMES

NEEDS = st.dictionaries(NAMES, st.tuples(st.sampled_from(Rank), st.integers(0, 9))).map(
    lambda found: [(rank, name, need) for name, (rank, need) in found.items()]
)
BUDGET = st.integers(0, 20)


@given(NEEDS, BUDGET)
def test_newcomers_never_pass_what_residents_leave(needs, budget):
    refused = admit(needs, budget)
    resident = sum(need for rank, _, need in needs if rank is Rank.RESIDENT)
    newcomers = sum(need for rank, name, need in needs if rank is not Rank.RESIDENT and name not in refused)
    assert newcomers <= max(0, budget - resident)


@given(NEEDS, BUDGET)
def test_who_is_refused_does_not_fit_and_is_told_the_sum(needs, budget):
    for name, shortage in admit(needs, budget).items():
        assert shortage.need_bytes == next(need for _, other, need in needs if other == name)
        assert shortage.need_bytes > shortage.free_bytes


@given(NEEDS, BUDGET, st.randoms(use_true_random=False))
def test_the_order_given_decides_nothing(needs, budget, shuffler):
    shuffled = list(needs)
    shuffler.shuffle(shuffled)
    assert admit(shuffled, budget) == admit(needs, budget)


@given(NEEDS, BUDGET)
def test_residents_beyond_a_smaller_budget_are_over_committed_and_nobody_else_is(needs, budget):
    refused, held = admit(needs, budget), 0
    for rank, name, need in sorted(needs):
        over = rank is Rank.RESIDENT and need > max(0, budget - held)
        assert (name in refused and refused[name].reason is Reason.OVER_COMMITTED) == over
        held += need


@given(NEEDS, BUDGET)
def test_only_one_larger_than_everything_can_never_be_loaded(needs, budget):
    for shortage in admit(needs, budget).values():
        assert (shortage.reason is Reason.EXCEEDS_MEMORY_BUDGET) <= (shortage.need_bytes > budget)
