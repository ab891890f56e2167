"""Hypothesis strategies for everything that the planner reads, small enough to collide often."""

from dataclasses import dataclass

from hypothesis import strategies as st

from agent.core.actions import Action, Fetch, Load, Unload
from agent.core.model import DesiredState, ModelName, ModelSpec, ObservedState, Revision, StoredRevision, Told
from agent.core.plan import Plan, Rules, plan
from agent.core.reasons import Reason
from agent.core.retry import Hold, Holds, Step

NAMES = st.sampled_from([ModelName(name) for name in "abcde"])
URIS = st.sampled_from(["s3://b/one", "s3://b/two", "s3://b/three"])
REVISIONS = st.sampled_from([Revision(digit * 4) for digit in "12345"])
MEMORY = st.sampled_from([0, 1, 2, 3, 5, 8])
SPECS = st.builds(ModelSpec, URIS, st.sampled_from(["sklearn", "onnx"]), MEMORY)
DESIRED = st.builds(DesiredState, st.dictionaries(NAMES, SPECS))
TOLD = st.builds(Told, REVISIONS, URIS, st.just("sklearn"), MEMORY, st.booleans())
STORED = st.dictionaries(URIS, REVISIONS).map(
    lambda known: {uri: StoredRevision(uri, revision, 1, 50.0) for uri, revision in known.items()}
)
OBSERVED = st.builds(
    ObservedState,
    stored=STORED,
    told=st.dictionaries(NAMES, TOLD),
    restorable=st.frozensets(NAMES),
    loaded=st.frozensets(NAMES),
    server_up=st.booleans(),
    moving=st.frozensets(NAMES, max_size=1),
    layout_by_framework=st.booleans(),
)
HOLD = st.builds(
    Hold,
    failures=st.integers(1, 5),
    until=st.sampled_from([90.0, 110.0]),
    reason=st.just(Reason.LOAD_REJECTED),
    message=st.just("no"),
    terminal=st.booleans(),
    relist=st.booleans(),
    crashes=st.integers(0, 4),
    refusals=st.integers(0, 4),
)
HOLDS = st.dictionaries(
    st.one_of(
        st.tuples(st.just(Step.FETCH), NAMES, URIS),
        st.tuples(st.just(Step.LOAD), NAMES, REVISIONS),
        st.tuples(st.just(Step.UNLOAD), NAMES, st.just("")),
    ),
    HOLD,
)
BUSY = st.lists(
    st.one_of(
        st.builds(Fetch, NAMES, SPECS, st.booleans()),
        st.builds(Load, NAMES, SPECS, REVISIONS, URIS, MEMORY),
        st.builds(Unload, NAMES, MEMORY),
    ),
    max_size=3,
).map(lambda actions: {action.name: action for action in actions})
RULES = st.builds(Rules, budget_bytes=st.none() | st.integers(0, 20), step_aside=st.booleans())
NOW = 100.0


@dataclass(frozen=True)
class Question:
    """Everything that a plan is made from."""

    desired: DesiredState
    observed: ObservedState
    busy: dict[ModelName, Action]
    holds: Holds
    rules: Rules

    def ask(self, **changed: object) -> Plan:
        return plan(
            self.desired,
            self.observed,
            busy=self.busy,
            holds=changed.pop("holds", self.holds),
            rules=self.rules,
            now=NOW,
            **changed,
        )


QUESTIONS = st.builds(Question, DESIRED, OBSERVED, BUSY, HOLDS, RULES)


def actions(made: Plan) -> list[Action]:
    return [*made.unloads, *made.loads, *made.fetches]
