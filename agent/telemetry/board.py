"""The notice board between who decides and who shows: the newest word on everything, and who changed.

The reconciler posts, /status and the log read. Only the newest word is kept, so the board is as large
as the set of models (law 9); all calls are made on the event loop's thread.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.core import uri, words
from agent.core.explain import Refusal
from agent.core.history import History, noted
from agent.core.model import ModelName, Rejection
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase

log = logging.getLogger("agent.models")


@dataclass(frozen=True, slots=True)
class ConfigWord:
    """The document: `digest` of what was seen, `applied_digest` of what is in force, `error` if refused.

    `planned_digest` is that of the document from which the last plan, and so every model's word, was made.
    """

    path: str
    digest: str | None = None
    applied_digest: str | None = None
    accepted: int = 0
    rejected: tuple[Rejection, ...] = ()
    error: tuple[Reason, str] | None = None
    planned_digest: str | None = None


@dataclass(frozen=True, slots=True)
class ServerWord:
    """The model server as last read; `protocol` is None until it answered once."""

    url: str
    protocol: str | None = None
    ready: bool = False


@dataclass(frozen=True, slots=True)
class MemoryWord:
    """Bytes; `budget_bytes` is None without a budget, the resident ones where they cannot be seen."""

    budget_bytes: int | None = None
    reserved_bytes: int = 0
    agent_rss_bytes: int | None = None
    server_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RulesWord:
    """What the operator decided that a plan made elsewhere has to know."""

    update_policy: str = "availability"
    default_memory_bytes: int = 0
    max_removal: int | None = None


Watcher = Callable[[ModelName, ModelStatus | None], None]


class Board:
    """The newest word on config, server, memory and every model; `version` grows with each change.

    `missing` tells what readiness still waits for, nothing once it is there. `turned_at` is the
    monotonic time at which the reconciler last went round. `histories` holds what happened to each
    model, bounded. `rules` do not change. `trace` is told each word on a model (None: it is gone) and
    returns the trace that it belongs to.
    """

    def __init__(
        self,
        config: ConfigWord,
        server: ServerWord,
        memory: MemoryWord,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.server = server
        self.memory = memory
        self.models: dict[ModelName, ModelStatus] = {}
        self.progress: Callable[[str], ProgressReading | None] = lambda _: None
        self.version = 0
        self.missing: Callable[[], tuple[str, ...]] = lambda: ("the agent is starting",)
        self.turned_at = float("-inf")
        self.rules = RulesWord()
        self.histories: dict[ModelName, History] = {}
        self.trace: Callable[[ModelName, ModelStatus | None], str | None] = _untraced
        self._wall = wall
        self._watchers: list[Watcher] = []
        self._head_watchers: list[Callable[[], None]] = []
        self._failing: dict[ModelName, Reason | None] = {}

    def refusal_of(self, name: str) -> Refusal | None:
        """Return why the newest models.json says nothing of *name*: its entry is refused, or all of it."""
        if self.config.error is not None:
            return Refusal(*self.config.error, whole=True)
        found = next((entry for entry in self.config.rejected if entry.name == name), None)
        return Refusal(found.reason, found.message) if found is not None else None

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call *watcher* with each model that changes (None: it is gone); returns how to stop that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def watch_head(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* after each change of what is said of config, server and memory."""
        self._head_watchers.append(watcher)

    def say(
        self,
        *,
        config: ConfigWord | None = None,
        server: ServerWord | None = None,
        memory: MemoryWord | None = None,
    ) -> None:
        """Replace what is given and differs."""
        fresh = (config or self.config, server or self.server, memory or self.memory)
        if fresh != (self.config, self.server, self.memory):
            self.config, self.server, self.memory = fresh
            self.version += 1
            for watcher in self._head_watchers:
                watcher()

    def post(self, status: ModelStatus) -> None:
        """Put up the newest word on a model; logs a line where its story went on."""
        before = self.models.get(status.name)
        if before == status:
            return
        self.models[status.name] = status
        self.histories[status.name] = noted(self.histories.get(status.name, ()), status, self._wall())
        self.version += 1
        trace = self.trace(status.name, status)
        if before is None or (before.phase, before.reason) != (status.phase, status.reason):
            self._tell(status, trace)
        for watcher in self._watchers:
            watcher(status.name, status)

    def drop(self, name: ModelName) -> None:
        """Take down a model that is neither wanted nor served any more."""
        if self.models.pop(name, None) is None:
            return
        self.version += 1
        self._failing.pop(name, None)
        self.histories.pop(name, None)
        log.info("model is gone", extra={"model": name, **_traced(self.trace(name, None))})
        for watcher in self._watchers:
            watcher(name, None)

    def _tell(self, status: ModelStatus, trace: str | None) -> None:
        """Log a transition once: a retry, and the same failure again, are not news."""
        fields: dict[str, object] = {"model": status.name, "phase": status.phase, **_traced(trace)}
        if status.spec is not None:
            fields["uri"] = uri.redacted(status.spec.storage_uri)
        if status.served_revision is not None:
            fields["revision"] = status.served_revision[:12]
        if status.phase is Phase.FAILED:
            if self._failing.get(status.name) != status.reason:
                self._failing[status.name] = status.reason
                log.warning(
                    "model failed", extra=fields | {"reason": status.reason, "message_": status.message}
                )
        elif status.phase is Phase.READY and status.reason is None:
            again = self._failing.pop(status.name, None)
            log.info("model is ready again" if again else "model is ready", extra=fields)
        elif status.name not in self._failing and status.reason is not Reason.QUEUED:
            log.info(
                "model %s", _DOING[status.phase], extra=fields | {"reason": status.reason} | _why(status)
            )


def _untraced(_name: ModelName, _status: ModelStatus | None) -> None:
    return None


def _traced(trace: str | None) -> dict[str, str]:
    return {} if trace is None else {"trace_id": trace}


def _why(status: ModelStatus) -> dict[str, object]:
    return {"message_": status.message} if status.message else {}


_DOING = {
    Phase.PENDING: "waits",
    Phase.DOWNLOADING: "is being downloaded",
    Phase.DOWNLOADED: "is downloaded",
    Phase.LOADING: "is being loaded",
    Phase.READY: "serves",
    Phase.UPDATING: "is being updated",
    Phase.UNLOADING: "is being unloaded",
    Phase.FAILED: "failed",
}


def progress_words(reading: ProgressReading) -> str:
    """Return `120 MiB of 4 GiB, 80 MiB/s, 49 s left` as far as it is known."""
    text = words.size(reading.bytes)
    if reading.total_bytes is not None:
        text += f" of {words.size(reading.total_bytes)}"
    if reading.bytes_per_second:
        text += f", {words.size(round(reading.bytes_per_second))}/s"
    if reading.eta_seconds is not None:
        text += f", {words.duration(reading.eta_seconds)} left"
    return text
