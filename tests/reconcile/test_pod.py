"""A pod of a real store and a scripted server: what was told, and what stands in the model dir, agree."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from agent.aio.wakeup import Wakeup
from agent.artifacts.store import Store
from agent.core.actions import Load, Unload
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec, Revision, Told
from agent.core.reasons import Reason
from agent.core.retry import BackoffPolicy, Step, remembered
from agent.reconcile.pod import Pod
from agent.reconcile.server_link import FRESH_SECONDS, ServerLink
from agent.servers.base import ModelState, ServerGoneError, ServerReading, Traits
from tests.artifacts.shelf import manifest_of

A = ModelName("a")
URI = "s3://bucket/model"


class ScriptedServer:
    """Loads what it is asked to, unless a `fault` is set for the next load."""

    traits = Traits("scripted", concurrent_loads=1, blocks_while_loading=False, framework_matters=False)

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.fault: AgentError | None = None
        self.away = False
        self.meanwhile: Callable[[], None] = lambda: None
        self.no_layout_for: set[str] = set()
        self.holds: dict[str, bytes] = {}

    async def read(self) -> ServerReading:
        if self.away:
            raise ServerGoneError(Reason.SERVER_UNAVAILABLE, "connection refused")
        return ServerReading(ready=True, models=dict.fromkeys(self.holds, ModelState.READY))

    def doubt(self, names: Collection[ModelName]) -> None:
        """It lists all that it holds."""

    async def load(self, name: ModelName) -> None:
        self.meanwhile()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.holds[name] = (self.model_dir / name / "model").read_bytes()

    async def unload(self, name: ModelName) -> None:
        self.meanwhile()
        if self.fault is not None:
            raise self.fault
        self.holds.pop(name, None)

    def layout(
        self, name: ModelName, spec: ModelSpec, paths: Collection[str], read: object
    ) -> dict[str, str]:
        if name in self.no_layout_for:
            raise RetryableError(Reason.DISK_ERROR, "input/output error")
        return {path: path for path in paths}

    async def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "models", None) as opened:
        yield opened


@pytest.fixture
def server(store):
    return ScriptedServer(store.model_dir)


@pytest.fixture
def pod(store, server):
    return Pod(store, None, ServerLink(server, Wakeup().ring), lambda: 0.0)


def a_load(store: Store, content: bytes, memory: int = 1, replaces: int = 0, name: ModelName = A) -> Load:
    stored = store.commit(manifest_of(store, URI, {"model": content}))
    return Load(name, ModelSpec(URI, "sklearn", memory), stored.revision, URI, replaces)


def lose(store: Store, content: bytes) -> None:
    for blob in store.store_dir.glob(".agent-blob-*"):
        if blob.read_bytes() == content:
            blob.unlink()


def standing(store: Store, name: ModelName = A) -> bytes | None:
    path = store.model_dir / name / "model"
    return path.read_bytes() if path.exists() else None


async def forget_the_last_answer(pod: Pod) -> None:
    """Have the last answer be too old to count."""
    await asyncio.sleep(FRESH_SECONDS)  # the law speaks of time


async def test_a_confirmed_load_is_told_and_stands(pod, store, server):
    load = a_load(store, b"one")
    await pod.perform(load)
    assert (standing(store), server.holds[A]) == (b"one", b"one")
    assert (store.told()[A].revision, store.told()[A].confirmed) == (load.revision, True)


async def test_nothing_is_published_for_a_server_that_went_away_unseen(pod, store, server):
    """It may be reading its folders at this moment, and end over one that it never confirmed."""
    await pod.perform(a_load(store, b"one"))
    before = store.told()[A]
    published = []
    server.away, server.meanwhile = True, lambda: published.append(standing(store))
    await forget_the_last_answer(pod)
    with pytest.raises(RetryableError, match="nothing was published"):
        await pod.perform(a_load(store, b"two"))
    assert (published, standing(store), store.told()[A]) == ([], b"one", before)


async def test_a_refused_update_puts_the_old_folder_and_the_old_word_back(pod, store, server):
    await pod.perform(a_load(store, b"one"))
    before = store.told()[A]
    server.fault = TerminalError(Reason.LOAD_REJECTED, "no")
    with pytest.raises(TerminalError):
        await pod.perform(a_load(store, b"two"))
    assert (standing(store), store.told()[A]) == (b"one", before)


async def test_a_refused_first_load_leaves_nothing(pod, store, server):
    server.fault = TerminalError(Reason.LOAD_REJECTED, "no")
    with pytest.raises(TerminalError):
        await pod.perform(a_load(store, b"one"))
    assert (standing(store), dict(store.told())) == (None, {})


async def test_an_update_of_unknown_outcome_leaves_the_old_folder_and_doubt(pod, store, server):
    first = a_load(store, b"one")
    await pod.perform(first)
    server.fault = RetryableError(Reason.LOAD_TIMEOUT, "late")
    with pytest.raises(RetryableError):
        await pod.perform(a_load(store, b"two"))
    assert standing(store) == b"one"
    assert (store.told()[A].revision, store.told()[A].confirmed) == (first.revision, False)


async def test_a_publish_that_fails_casts_no_doubt_on_what_serves(pod, store, server):
    """The server was asked nothing, so the old revision needs no second load."""
    await pod.perform(a_load(store, b"one"))
    before, second = store.told()[A], a_load(store, b"two")
    lose(store, b"two")
    with pytest.raises(AgentError):
        await pod.perform(second)
    assert (standing(store), store.told()[A]) == (b"one", before)


async def test_an_unload_takes_the_folder_and_the_word_away_and_one_aside_keeps_the_word(pod, store, server):
    load = a_load(store, b"one")
    await pod.perform(load)
    await pod.perform(Unload(A, 1, aside=True))
    assert (standing(store), store.told()[A].revision) == (None, load.revision)
    await pod.perform(load)
    await pod.perform(Unload(A, 1))
    assert (standing(store), dict(store.told()), server.holds) == (None, {}, {})


async def test_a_folder_stands_until_the_server_has_confirmed_that_it_let_go(pod, store, server):
    await pod.perform(a_load(store, b"one"))
    stood = []
    server.meanwhile = lambda: stood.append(standing(store))
    server.fault = RetryableError(Reason.UNLOAD_FAILED, "still holds a")
    with pytest.raises(RetryableError):
        await pod.perform(Unload(A, 1))
    assert (stood, standing(store)) == ([b"one"], b"one")
    server.fault = None
    await pod.perform(Unload(A, 1))
    assert (stood, standing(store)) == ([b"one", b"one"], None)


async def test_a_folder_that_somebody_removed_is_published_again_with_no_load(pod, store, server):
    await pod.perform(a_load(store, b"one"))
    (store.model_dir / A / "model").unlink()
    server.fault = TerminalError(Reason.LOAD_REJECTED, "not to be asked")
    await pod.inspect(10)
    assert standing(store) == b"one"
    assert server.fault is not None


class KilledError(BaseException):
    """What ends an agent in the middle of a load: no code of the pod handles it."""


@pytest.mark.parametrize("before", [None, b"one"], ids=["first load", "update"])
async def test_what_was_published_and_never_confirmed_is_taken_back_at_the_next_start(
    pod, store, server, before
):
    if before is not None:
        await pod.perform(a_load(store, before))
    server.fault = KilledError()
    with pytest.raises(KilledError):
        await pod.perform(a_load(store, b"two", memory=8, replaces=1))
    assert standing(store) == b"two"
    await pod.take_back_open_intents()
    assert standing(store) == before
    assert not store.told()[A].confirmed, "it is loaded again"
    assert store.told()[A].held_bytes() == 8


async def test_a_first_load_that_was_done_and_never_told_is_found_at_the_next_start_and_left_alone(
    pod, store, server
):
    """The agent was killed between the server's answer and its own word of it (law 8)."""
    load = server.load

    async def load_and_be_killed(name):
        await load(name)
        raise KilledError

    server.load = load_and_be_killed
    with pytest.raises(KilledError):
        await pod.perform(a_load(store, b"one"))
    assert not store.told()[A].confirmed
    await pod.take_back_open_intents()
    assert (standing(store), store.told()[A].confirmed) == (b"one", True)


async def test_at_the_start_what_was_told_is_read_once_however_many_models_there_are(tmp_path, server):
    class CountingStore(Store):
        read = 0

        def previous(self):
            self.read += 1
            return super().previous()

    with CountingStore.open(tmp_path / "many", None) as store:
        for number in range(50):
            store.record(ModelName(f"m{number}"), Told(Revision("r"), URI, "sklearn", 1, number % 2 == 0))
        await Pod(store, None, ServerLink(server, Wakeup().ring), lambda: 0.0).take_back_open_intents()
        assert store.read == 1


@pytest.mark.parametrize(
    "fault",
    [
        TerminalError(Reason.LOAD_REJECTED, "no"),
        RetryableError(Reason.SERVER_CRASHED, "gone", retry_after_seconds=3.0),
    ],
    ids=["refused", "crashed"],
)
async def test_where_the_old_folder_cannot_be_put_back_nothing_stands_and_the_servers_word_is_told(
    pod, store, server, fault
):
    """A refused folder that stayed would end a server that loads what it finds."""
    first = a_load(store, b"one")
    await pod.perform(first)
    server.fault, server.meanwhile = fault, lambda: lose(store, b"one")
    with pytest.raises(type(fault)) as told:
        await pod.perform(a_load(store, b"two"))
    assert told.value.reason is fault.reason
    assert getattr(told.value, "retry_after_seconds", None) == getattr(fault, "retry_after_seconds", None)
    assert fault.message in told.value.message
    assert "IntegrityMismatch" in told.value.message
    assert standing(store) is None
    assert store.told()[A].revision == first.revision


async def test_what_takes_the_server_down_is_known_to_the_next_agent_until_it_is_loaded(pod, store, server):
    first, second = a_load(store, b"one"), a_load(store, b"two")
    await pod.perform(first)
    for fault in (Reason.SERVER_CRASHED, Reason.SERVER_UNAVAILABLE, Reason.SERVER_CRASHED):
        server.fault = RetryableError(fault, "gone")
        with pytest.raises(RetryableError):
            await pod.perform(second)
        await pod.perform(first)
        await pod.take_back_open_intents()
    told = store.told()[A]
    assert (told.revision, told.suspect, told.crashes) == (first.revision, second.revision, 2)
    key = (Step.LOAD, A, second.revision)
    assert remembered(store.told(), 7.0, BackoffPolicy())[key].crashes == 2
    await pod.perform(second)
    assert not remembered(store.told(), 7.0, BackoffPolicy())


async def test_one_folder_that_cannot_be_mended_keeps_no_other_from_it_and_is_told_once(
    pod, store, server, caplog
):
    others = [ModelName("b"), ModelName("c")]
    for name in (A, *others):
        await pod.perform(a_load(store, b"one", name=name))
    server.no_layout_for = {A}
    for _ in range(3):
        (store.model_dir / "c" / "model").unlink()
        await pod.inspect(10)
        assert standing(store, others[1]) == b"one"
    assert [record.model for record in caplog.records if "cannot be checked" in record.message] == [A]


async def test_after_an_update_of_unknown_outcome_the_larger_of_both_revisions_counts(pod, store, server):
    await pod.perform(a_load(store, b"one", memory=1))
    server.fault = RetryableError(Reason.LOAD_TIMEOUT, "late")
    with pytest.raises(RetryableError):
        await pod.perform(a_load(store, b"two", memory=8, replaces=1))
    assert pod.observe().held_bytes(A, None) == 9, "both, while it may go on"
    await pod._link._read()
    seen = pod.observe()
    assert (seen.held_bytes(A, None), seen.told[A].memory_bytes) == (8, 1)


async def test_a_load_of_unknown_outcome_counts_until_the_server_was_read(pod, store, server):
    server.fault = RetryableError(Reason.LOAD_TIMEOUT, "late")
    with pytest.raises(RetryableError):
        await pod.perform(a_load(store, b"one", memory=8))
    assert pod.observe().held_bytes(A, None) == 8
    await pod._link._read()
    assert pod.observe().held_bytes(A, None) == 0


async def test_what_was_confirmed_stays_at_the_next_start(pod, store, server):
    await pod.perform(a_load(store, b"one"))
    server.fault = RetryableError(Reason.LOAD_TIMEOUT, "late")
    with pytest.raises(RetryableError):
        await pod.perform(a_load(store, b"two"))
    await pod.take_back_open_intents()
    assert standing(store) == b"one"
