"""Every way to Ready is one trace: begun once, ended once, and never kept open for ever."""

import asyncio
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
        self.tracer = FakeTracer()
        self.journeys = Journeys(self.tracer, lambda: 0.0)

    def told(self, *states: str) -> list[str | None]:
        return [self.journeys.follow(ModelName("m"), STATES[state]) for state in states]

    def outcomes(self) -> list[object]:
        return [each.attributes.get("outcome") for each in self.tracer.begun]


@given(st.lists(st.sampled_from(sorted(STATES))))
def test_each_trace_ends_once_and_at_most_one_a_model_is_open(states):
    ways = Ways()
    for state in states:
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
    assert span.notes == ["failed", "failed"], "one for each failed attempt"
    assert span.failure is None


def test_another_spec_begins_a_trace_that_is_linked_to_the_last():
    ways = Ways()
    ways.told("failed", "other", "moving", "gone", "failed")
    assert ways.outcomes() == ["superseded", "superseded", "dropped", None]
    begun = ways.tracer.begun
    assert [each.linked for each in begun] == [None, begun[0], begun[1], None]


@pytest.mark.looptime(start=1000.0)
async def test_an_hour_ends_a_trace_by_itself_and_a_linked_one_goes_on():
    tracer, loop = FakeTracer(), asyncio.get_running_loop()
    journeys = Journeys(tracer, loop.time)
    keeping = asyncio.create_task(journeys.keep_short())
    journeys.follow(ModelName("m"), STATES["failed"])
    await asyncio.sleep(2.5 * LONGEST_SECONDS)
    keeping.cancel()
    journeys.follow(ModelName("m"), STATES["ready"])
    first, second, third = tracer.begun
    assert [each.attributes["outcome"] for each in tracer.begun] == ["unfinished", "unfinished", "ready"]
    assert (first.linked, second.linked, third.linked) == (None, first, second)
    assert first.failure == second.failure == "NotFound: nothing is there"


async def test_a_look_that_finds_nothing_new_ends_no_way_that_was_begun_meanwhile():
    ways = Ways()
    ways.told("ready")
    storage = Storage("old", ways.journeys, meanwhile=lambda: ways.told("other"))
    await TracedWorld(storage, ways.journeys).perform(Fetch(ModelName("m"), SPEC, relist=True))
    assert ways.outcomes() == ["superseded", None]


class Storage:
    """A world in which a fetch finds a revision, or fails."""

    restarts, server_slots = 0, 1

    def __init__(self, finds: str | RetryableError, journeys: Journeys, meanwhile=lambda: None) -> None:
        self.finds, self.journeys, self.meanwhile = finds, journeys, meanwhile
        self.stored = self._stored("old")

    def observe(self) -> ObservedState:
        return ObservedState(self.stored, {}, (), frozenset(), server_up=True)

    glance = observe

    async def perform(self, action) -> None:
        assert self.journeys.under_way(action.name)
        self.meanwhile()
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
