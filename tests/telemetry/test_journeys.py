"""Every way to Ready is one trace: begun once, ended once, and never kept open for ever."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.actions import Fetch
from agent.core.errors import RetryableError
from agent.core.model import ModelName, ObservedState, Revision, StoredRevision
from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.reconcile.traced import TracedWorld
from agent.telemetry.journeys import LONGEST_SECONDS, Journeys
from tests.fakes.spans import FakeTracer
from tests.web.boards import failed, moving, ready

STATES = {
    "ready": ready("m"),
    "failed": replace(failed("m"), spec=ready("m").spec),
    "again": replace(failed("m"), spec=ready("m").spec, attempts=3),
    "moving": replace(moving("m", Phase.DOWNLOADING), spec=ready("m").spec),
    "other": moving("m", Phase.DOWNLOADING),
    "other ready": ready("m", "s3://bucket/m"),
    "leaving": replace(ready("m"), spec=None, reason=Reason.UNLOADING, phase=Phase.UNLOADING),
    "gone": None,
}


class Ways:
    def __init__(self) -> None:
        self.now, self.tracer = 0.0, FakeTracer()
        self.journeys = Journeys(self.tracer, lambda: self.now)

    def told(self, *states: str) -> list[str | None]:
        return [self.journeys.follow(ModelName("m"), STATES[state]) for state in states]

    def outcomes(self) -> list[object]:
        return [each.attributes.get("outcome") for each in self.tracer.begun]


@given(st.lists(st.tuples(st.sampled_from(sorted(STATES)), st.sampled_from([0.0, 1.0, LONGEST_SECONDS]))))
def test_each_trace_ends_once_and_at_most_one_a_model_is_open(events):
    ways = Ways()
    for state, pause in events:
        ways.now += pause
        ways.told(state)
        live = [each for each in ways.tracer.begun if not each.ended]
        status = STATES[state]
        unsettled = status is not None and status.spec is not None and status.reason is not None
        assert len(live) == unsettled
        assert all(each.ended <= 1 for each in ways.tracer.begun)
        assert ways.journeys.under_way(ModelName("m")) == unsettled
    ways.journeys.close()
    assert all(each.ended == 1 and "outcome" in each.attributes for each in ways.tracer.begun)


def test_the_way_ends_at_ready_and_a_model_that_stays_ready_begins_none():
    ways = Ways()
    assert ways.told("ready") == [None]
    traces = ways.told("moving", "failed", "failed", "again", "ready", "ready")
    assert len(set(traces[:5])) == 1
    assert traces[5] is None
    (span,) = ways.tracer.begun
    assert (span.attributes["outcome"], span.attributes["revision"]) == ("ready", "ab" * 32)
    assert span.notes == ["failed", "failed"], "once a failed attempt"
    assert span.failure is None


def test_another_spec_and_an_hour_begin_a_trace_that_is_linked_to_the_last():
    ways = Ways()
    ways.told("failed", "other")
    ways.now = LONGEST_SECONDS
    ways.told("moving", "gone")
    ways.now += LONGEST_SECONDS
    ways.told("failed")
    ways.now += LONGEST_SECONDS
    ways.told("again")
    assert ways.outcomes() == ["superseded", "superseded", "dropped", "unfinished", None]
    begun = ways.tracer.begun
    assert [each.linked for each in begun] == [None, begun[0], begun[1], None, begun[3]]
    assert begun[3].failure == "NotFound: nothing is there"


class Storage:
    """A world in which a fetch finds a revision, or fails."""

    restarts, server_slots = 0, 1

    def __init__(self, finds: str | RetryableError, journeys: Journeys) -> None:
        self.finds, self.journeys = finds, journeys
        self.stored = self._stored("old")

    def observe(self) -> ObservedState:
        return ObservedState(self.stored, {}, (), frozenset(), server_up=True)

    glance = observe

    async def perform(self, action) -> None:
        assert self.journeys.under_way(action.name)
        if isinstance(self.finds, RetryableError):
            raise self.finds
        self.stored = self._stored(self.finds)

    def _stored(self, revision: str) -> dict[str, StoredRevision]:
        return {SPEC.storage_uri: StoredRevision(SPEC.storage_uri, Revision(revision), 1, 0.0)}


SPEC = STATES["ready"].spec


@pytest.mark.parametrize(
    ("finds", "outcomes"),
    [("old", ["unchanged"]), ("new", [None]), (RetryableError(Reason.NOT_FOUND, "gone"), ["unchanged"])],
)
async def test_to_look_again_at_what_serves_begins_a_way_only_if_there_are_new_bytes(finds, outcomes):
    ways = Ways()
    ways.told("ready")
    world = TracedWorld(Storage(finds, ways.journeys), ways.journeys)
    with contextlib.suppress(RetryableError):
        await world.perform(Fetch(ModelName("m"), SPEC, relist=True))
    assert ways.outcomes() == outcomes
    ways.told("moving", "ready")
    assert ways.outcomes()[-1] == "ready"
