"""Random histories of one pod on a real store: whatever a load ends in, what stands is whole and confirmed.

That is law 1, and the invariant of design §5: a server that loads each folder it finds, at any moment between
two actions, finds nothing that it has not confirmed before.
"""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agent.aio.wakeup import Wakeup
from agent.artifacts.store import Store
from agent.core.actions import Load, Unload
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.reconcile.pod import Pod
from agent.reconcile.server_link import ServerLink
from tests.artifacts.shelf import manifest_of
from tests.reconcile.test_pod import KilledError, ScriptedServer

NAMES = st.sampled_from([ModelName(name) for name in "ab"])
VERSIONS = st.integers(0, 3)
ENDS = {
    "refused": TerminalError(Reason.LOAD_REJECTED, "no"),
    "crashed": RetryableError(Reason.SERVER_CRASHED, "gone"),
    "late": RetryableError(Reason.LOAD_TIMEOUT, "late"),
    "killed": KilledError(),
}


def files(version):
    return {each: f"{each} {version}".encode() for each in ("model", "weights")}


class PodHistories(RuleBasedStateMachine):
    steps_judged = 0

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name) / "models"
        self.server = ScriptedServer(self.folder)
        self.confirmed = {}  # what the server confirmed last and was not told to give up: name to version
        self.harmed = set()  # names whose old files were lost: nothing may stand in their stead
        self.torn = set()  # names whose folder somebody else changed, and that nobody mends
        self.start()

    def start(self):
        self.store = Store.open(self.folder, None)
        self.pod = Pod(self.store, None, ServerLink(self.server, Wakeup().ring), lambda: 0.0)
        self.loop.run_until_complete(self.pod.take_back_open_intents())

    def teardown(self):
        self.store.close()
        self.place.cleanup()
        self.loop.close()

    @rule()
    def restart_the_agent(self):
        self.store.close()
        self.start()

    @rule(name=NAMES, version=VERSIONS, end=st.sampled_from(["well", *ENDS]), harm=st.booleans())
    def load(self, name, version, end, harm):
        uri = f"s3://b/{version}"
        stored = self.store.commit(manifest_of(self.store, uri, files(version)))
        old = self.confirmed.get(name)
        self.server.fault = ENDS.get(end)
        if harm and old not in (None, version) and end not in ("well", "killed"):
            self.server.meanwhile = lambda: self.lose(old)
            self.harmed |= {each for each, serves in self.confirmed.items() if serves == old}
        try:
            action = Load(name, ModelSpec(uri, "sklearn", 1), stored.revision, uri)
            self.loop.run_until_complete(self.pod.perform(action))
        except (AgentError, KilledError) as error:
            if isinstance(error, KilledError):
                self.restart_the_agent()
        else:
            self.confirmed[name] = version
            self.harmed.discard(name)
            self.torn.discard(name)
        finally:
            self.server.fault, self.server.meanwhile = None, lambda: None

    def lose(self, version):
        for blob in self.store.store_dir.glob(".agent-blob-*"):
            if blob.read_bytes() == files(version)["weights"]:
                blob.unlink()

    @rule(name=NAMES)
    def unload(self, name):
        self.loop.run_until_complete(self.pod.perform(Unload(name, 1)))
        self.confirmed.pop(name, None)
        self.torn.discard(name)

    @rule(name=NAMES)
    def somebody_takes_a_file_away(self, name):
        with suppress(FileNotFoundError):
            (self.folder / name / "weights").unlink()
        self.loop.run_until_complete(self.pod._link._read())
        self.loop.run_until_complete(self.pod._link._read())
        self.loop.run_until_complete(self.pod.inspect(10))
        told = self.store.told().get(name)
        if told is None or not told.confirmed or name in self.harmed:
            self.torn.add(name)

    @invariant()
    def what_stands_is_whole_and_was_confirmed(self):
        PodHistories.steps_judged += 1
        for name in "ab":
            folder = self.folder / name
            there = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
            serves = self.confirmed.get(name)
            if there is not None and name not in self.torn:
                assert serves is not None, "law 1: nobody confirmed what stands there"
                assert there == files(serves), "law 1: what stands there is not what was confirmed"
            if serves is not None and name not in self.harmed | self.torn:
                assert there is not None, "law 2: what serves does not stand there"


def test_between_two_actions_only_what_was_confirmed_stands_in_the_model_dir(record_property):
    PodHistories.steps_judged = 0
    quick = settings(max_examples=20, stateful_step_count=15, deadline=None, derandomize=True)
    run_state_machine_as_test(PodHistories, settings=settings(quick, suppress_health_check=list(HealthCheck)))
    record_property("steps of pod histories", PodHistories.steps_judged)
