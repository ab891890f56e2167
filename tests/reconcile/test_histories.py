"""Long random histories over a world in memory: edits, faults, restarts, budgets, against a small model.

After each step the laws of the design are checked as far as this world shows them; `calm` ends all faults
and says what must then be there.
"""

import asyncio
from collections import Counter
from dataclasses import replace

import looptime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agent.aio.wakeup import Wakeup
from agent.core.actions import Load, Unload
from agent.core.errors import RetryableError, TerminalError
from agent.core.model import DesiredState, ModelName, ModelSpec, Revision
from agent.core.plan import Rules
from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.reconcile.loop import Clock, Limits, Reconciler
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from tests.fakes.memory_world import MemoryWorld

NAMES = st.sampled_from([ModelName(name) for name in "abcd"])
URIS = [f"s3://b/{number}" for number in range(4)]
SPECS = st.builds(ModelSpec, st.sampled_from(URIS), st.just("sklearn"), st.integers(0, 5))
DOCUMENTS = st.dictionaries(NAMES, SPECS)
TICK = (
    1 / 64
)  # whole in floats and in the loop's microseconds, or simulated time stands still before a hold ends
BUDGETS = st.none() | st.integers(0, 12)
NO_ROOM = {
    Reason.MEMORY_BUDGET_EXCEEDED,
    Reason.EXCEEDS_MEMORY_BUDGET,
    Reason.UPDATE_NEEDS_ROOM,
    Reason.OVER_COMMITTED,
}


class JudgedWorld(MemoryWorld):
    """Checks on the way what no reading afterwards could: who is unloaded, and what a load adds up to."""

    wanted: dict[ModelName, ModelSpec]
    step_aside = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = Counter()
        self.suspects = set()  # (name, revision) that took the server down, or were in flight when it went
        self.on_loss = lambda: None

    def restart_server(self):
        super().restart_server()
        self.on_loss()

    async def perform(self, action):
        self.steps[type(action).__name__] += 1
        if isinstance(action, Unload):
            assert action.aside or action.name not in self.wanted, "law 2: what is wanted was unloaded"
            assert self.step_aside or not action.aside, "nobody allowed a model to step aside"
        elif isinstance(action, Load):
            assert self.server_up, "law 4: a load was asked of a server that does not answer"
            self._check_suspects(action)
        try:
            await super().perform(action)
        except RetryableError as error:
            if error.reason is Reason.SERVER_CRASHED:
                self.suspects.add((action.name, action.revision))
            raise
        if isinstance(action, Load):
            self.suspects.discard((action.name, action.revision))

    def _check_suspects(self, load):
        others = [action for action in self.running.values() if isinstance(action, Load)]
        risky = {(action.name, action.revision) for action in (load, *others)} & self.suspects
        assert not risky or not others, "law 6: a suspect is loaded beside another model"
        good = self.told.get(load.name)
        if good is not None and not good.confirmed and good.revision != load.revision:
            safe = (load.name, good.revision) not in self.suspects and self.budget_bytes is None
            lost = load.name not in self.loaded
            suspect = (load.name, load.revision) in self.suspects
            assert not (safe and lost and suspect), "law 2: a suspect is tried before what served is back"

    def _check_budget(self):
        """Sum up what the server really holds: not what the planner makes of what was told."""
        loads = [action for action in self.running.values() if isinstance(action, Load)]
        if self.budget_bytes is None or not loads[-1].spec.memory_bytes:
            return
        held = sum(self._weight(name) for name in self.loaded) + sum(self.moving.values())
        coming = sum(action.spec.memory_bytes for action in loads)
        assert held + coming <= self.budget_bytes, "law 5: beyond the budget"

    def _weight(self, name):
        """What was declared when it was loaded; a model that is up to date may have been declared anew."""
        revision, loaded_with = self.loaded[name]
        spec, told = self.wanted.get(name), self.told.get(name)
        if told is None:  # the agent lost its memory: it can count only what is declared
            return spec.memory_bytes if spec is not None else 0
        stored = self.stored.get(spec.storage_uri) if spec is not None else None
        current = stored is not None and told.confirmed and told.revision == revision == stored.revision
        return spec.memory_bytes if current else loaded_with


class Histories(RuleBasedStateMachine):
    steps_judged = 0

    def __init__(self):
        super().__init__()
        self.loop = looptime.new_event_loop(start=1000.0)
        self.world = JudgedWorld({uri: Revision(f"{uri[-1]}-0") for uri in URIS}, server_slots=3)
        self.world.wanted = {}
        self.world.on_loss = self.lose_all
        self.made = 0
        self.kept = set()  # the reference: who serves, and has been wanted and on a living server since
        self.task = None

    def lose_all(self):
        self.kept.clear()

    # The agent.

    def start(self):
        world = self.world
        self.board = Board(ConfigWord("/mnt/configs/models.json"), ServerWord("http://server"), MemoryWord())
        clock = Clock(now=self.loop.time, wall=self.loop.time, draw=lambda: 0.5)
        rules = Rules(world.budget_bytes, step_aside=world.step_aside)
        self.agent = Reconciler(
            world, self.board, rules, Limits(downloads=2, resync_seconds=300), clock, Wakeup()
        )
        world.ring = self.agent.wakeup.ring
        self.agent.want(DesiredState(dict(world.wanted)))
        self.task = self.loop.create_task(self.agent.run())
        self.run(TICK)

    def stop(self):
        if self.task is not None:
            self.task.cancel()
            self.loop.run_until_complete(asyncio.wait([self.task]))
            assert self.task.cancelled(), self.task.exception()

    def run(self, seconds):
        self.agent.wakeup.ring()
        self.loop.run_until_complete(asyncio.sleep(seconds))
        if self.task.done():
            self.task.result()

    def teardown(self):
        try:
            if self.task is not None:
                self.calm()
        finally:
            self.stop()
            self.loop.close()

    @initialize(document=DOCUMENTS, budget=BUDGETS, step_aside=st.booleans())
    def begin(self, document, budget, step_aside):
        self.world.wanted, self.world.budget_bytes, self.world.step_aside = document, budget, step_aside
        self.start()

    # What people do.

    @rule(document=DOCUMENTS)
    def edit(self, document):
        self.world.wanted = document
        self.world.suspects.clear()  # a revision that was not meant for a while starts afresh
        self.kept &= document.keys()
        self.agent.want(DesiredState(dict(document)))
        self.run(TICK)

    @rule(name=NAMES, spec=SPECS)
    def change_one(self, name, spec):
        self.edit({**self.world.wanted, name: spec})

    @rule()
    def resync(self):
        self.agent.resync()
        self.world.suspects.clear()
        self.run(TICK)

    @rule(budget=BUDGETS, step_aside=st.booleans())
    def restart_with_another_budget(self, budget, step_aside):
        self.stop()
        self.world.budget_bytes, self.world.step_aside = budget, step_aside
        if step_aside:
            self.kept.clear()
        self.start()

    # What storage, server, agent and time do.

    @rule(
        uri=st.sampled_from(URIS), kind=st.sampled_from(["good", "bad", "poison", "late"]), well=st.booleans()
    )
    def new_bytes(self, uri, kind, well):
        self.made += 1
        revision = self.world.content[uri] = Revision(f"{uri[-1]}-{self.made}")
        kinds = {"bad": self.world.bad_revisions, "poison": self.world.poison, "late": self.world.late}
        kinds.get(kind, set()).add(revision)
        self.world.late_ends_well = well

    @rule(uri=st.sampled_from(URIS), there=st.booleans())
    def storage_fails(self, uri, there):
        gone = TerminalError(Reason.NOT_FOUND, "404")
        self.world.fetch_faults[uri] = RetryableError(Reason.STORAGE_UNAVAILABLE, "503") if there else gone

    @rule(uri=st.sampled_from(URIS))
    def storage_recovers(self, uri):
        self.world.fetch_faults.pop(uri, None)

    @rule(up=st.booleans())
    def server_answers(self, up):
        self.world.server_up = up
        self.run(TICK)

    @rule()
    def server_restarts(self):
        self.world.restart_server()
        self.run(TICK)

    @rule(name=NAMES)
    def server_forgets(self, name):
        if self.world.loaded.pop(name, None) is not None:
            self.world.restarts += not self.world.loaded
            self.kept.discard(name)
        self.run(TICK)

    @rule(orphans=st.booleans())
    def agent_restarts(self, orphans):
        self.world.done_by_orphans = orphans
        served = {name for name in self.world.loaded if self.settled(name)}
        self.stop()
        self.world.calls.clear()
        self.start()
        again = {name for kind, name in self.world.calls if kind != "Unload"} & served
        assert not again, "law 8: what was served was fetched or loaded again"

    @rule()
    def volume_is_lost(self):
        self.stop()
        self.world.suspects.clear()
        self.world.stored.clear()
        self.world.told.clear()
        self.world.previous.clear()
        self.start()

    @rule(seconds=st.sampled_from([0.125, 0.875, 1.5, 20.0, 700.0]))
    def time_passes(self, seconds):
        self.run(seconds)

    @rule()
    def calm(self):
        """All faults end: what is wanted is then served, as far as bytes and room allow (laws 3 and 6)."""
        world = self.world
        world.fetch_faults.clear()
        world.late.clear()
        world.server_up = True
        self.resync()
        self.run(4500)
        free = None if world.budget_bytes is None else world.budget_bytes - self.held()
        left_out = []
        for name, spec in world.wanted.items():
            wanted = world.content[spec.storage_uri]
            if wanted in world.bad_revisions | world.poison:
                assert (
                    self.board.models[name].reason in {Reason.LOAD_REJECTED, Reason.SERVER_CRASHED} | NO_ROOM
                )
            elif name not in world.loaded or world.loaded[name][0] != wanted:
                assert self.board.models[name].reason in NO_ROOM, (name, self.board.models[name])
                left_out.append(spec.memory_bytes)
        assert not left_out or (free is not None and max(left_out) > free), "law 3: there was room"
        assert (world.told.keys() & world.loaded.keys()) <= world.wanted.keys(), "somebody was not unloaded"
        assert self.board.models.keys() == world.wanted.keys() | (world.told.keys() - world.wanted.keys())
        assert len(self.agent._holds) <= 3 * len(world.wanted), "law 9: holds pile up"

    # The laws.

    def settled(self, name):
        return name in self.world.wanted and self.world.observe().settled(name, self.world.wanted[name])

    def held(self):
        """What serves, and the room for its next revision, unless that was refused or never fits."""
        world = self.world
        refused = {
            name
            for name in world.wanted
            if self.board.models[name].reason in {Reason.LOAD_REJECTED, Reason.SERVER_CRASHED}
        }
        next_ones = {
            name: spec.memory_bytes
            for name, spec in world.wanted.items()
            if name not in refused and (world.budget_bytes is None or spec.memory_bytes <= world.budget_bytes)
        }
        return sum(max(world._weight(name), next_ones.get(name, 0)) for name in world.loaded)

    @invariant()
    def what_serves_stays(self):
        if self.task is None:
            return
        Histories.steps_judged += 1
        if not self.world.step_aside:
            lost = self.kept - self.world.loaded.keys()
            assert not lost, f"law 2: {lost} served and were wanted all the time"
        leaving = {name for name, action in self.world.running.items() if isinstance(action, Unload)}
        self.kept = (set(self.world.loaded) & self.world.wanted.keys() & self.world.told.keys()) - leaving

    @invariant()
    def the_board_tells_the_truth(self):
        if self.task is None:
            return
        self.run(0.0)
        for name, status in self.board.models.items():
            assert status.ready == (name in self.world.loaded), "law 4: ready is not what the server says"
            if status.reason is None:
                assert self.settled(name), "reason is null only when ready and up to date"
            assert status.reason is not None or (status.ready and status.message is None)
            if status.phase is Phase.FAILED:
                next_step = status.message is not None and status.next_retry is not None
                assert next_step or status.reason in NO_ROOM, "law 7: no next step"
        assert self.world.wanted.keys() <= self.board.models.keys(), "nobody is forgotten"


EVERYTHING = settings(deadline=None, suppress_health_check=list(HealthCheck))


def judge_histories(record_property, **options):
    Histories.steps_judged = 0
    run_state_machine_as_test(Histories, settings=settings(EVERYTHING, **options))
    record_property("steps of histories", Histories.steps_judged)
    print(f"{Histories.steps_judged} steps of histories")


def test_the_laws_hold_after_each_step_of_random_histories(record_property):
    judge_histories(record_property, max_examples=30, stateful_step_count=20, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_laws_hold_after_each_step_of_long_histories(record_property):
    judge_histories(record_property, max_examples=2000, stateful_step_count=50)


def test_a_model_dropped_and_taken_again_at_once_is_left_alone():
    history = Histories()
    spec = ModelSpec(URIS[0], "sklearn", 1)
    history.world.wanted = {ModelName("a"): spec}
    history.start()
    history.run(5.0)
    history.world.calls.clear()
    history.agent.want(DesiredState({}))
    history.agent.want(DesiredState({ModelName("a"): replace(spec)}))
    history.run(60.0)
    assert not history.world.calls
    assert history.board.models[ModelName("a")].ready
    history.stop()
    history.loop.close()


def test_nothing_is_remembered_of_models_that_came_and_went():
    history = Histories()
    history.start()
    for number in range(300):
        uri = URIS[number % 4] if number % 3 else "s3://b/nowhere"
        history.world.wanted = {ModelName(f"m{number}"): ModelSpec(uri, "sklearn", 1)}
        history.edit(history.world.wanted)
        history.run(3.0)
    history.edit({})
    history.run(60.0)
    agent = history.agent
    left = [agent._holds, agent._prints, agent._busy, agent._tasks, agent._verdicts, agent._short_since]
    assert [len(each) for each in left] == [0] * 6
    assert not history.board.models
    assert not history.world.told
    history.stop()
    history.loop.close()
