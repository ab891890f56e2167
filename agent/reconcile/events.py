"""The pod's Kubernetes Events (`--events`): a model fails or recovers, the document is refused or in force.

Only the newest word on each model is kept, and no more is told than a bucket of tokens lets through; nothing
is told twice or tried again, and nothing that the API server does holds up or ends the agent.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import aiohttp

from agent.aio.wakeup import Wakeup
from agent.core.errors import AgentError, RetryableError
from agent.core.model import ModelName
from agent.core.status import ModelStatus, Phase
from agent.kube.client import ApiClient
from agent.kube.endpoint import find_endpoint
from agent.kube.events import Involved, emit, event_for
from agent.kube.resources import Object
from agent.reconcile.loop import Clock
from agent.telemetry.board import Board, ConfigWord

log = logging.getLogger("agent.events")

REPORTER = "model-agent"
BURST = 25
KEPT = 13  # tokens that no good news takes
SECONDS_EACH = 10.0
NAMED_AT_MOST = 5
DOCUMENT = "models.json"
READY = "Ready"

Subject = ModelName | None
"""A model, or the document."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What is told of a model or of the document."""

    reason: str
    message: str
    good: bool


class PodEvents:
    """Follows the board and tells what a person would want to know; made before the board's first word."""

    def __init__(self, board: Board, environ: Mapping[str, str], clock: Clock) -> None:
        self._board, self._environ, self._clock = board, environ, clock
        self._bell = Wakeup()
        self._pending: dict[Subject, None] = {}  # in the order of their first unheard word
        self._told: dict[Subject, str] = {}
        self._config: object = None
        self._tokens, self._filled_at = float(BURST), clock.now()
        board.watch(self._changed)
        board.watch_head(self._head_changed)

    async def run(self) -> None:
        """Tell for ever; once the API server refuses, or where there is none, nothing more."""
        pod = _pod(self._environ)
        try:
            if pod is None:
                log.warning("no events are told: POD_NAME, POD_NAMESPACE or POD_UID is not set")
            else:
                endpoint = await asyncio.to_thread(find_endpoint, self._environ)
                async with aiohttp.ClientSession(trust_env=False) as session:
                    client = ApiClient(endpoint, session, manager=REPORTER)
                    await self.tell(pod, partial(emit, client))
        except AgentError as error:
            fields = {"reason": error.reason, "message_": error.message}
            log.warning("no more events are told; config/events has the rights for them", extra=fields)
        except OSError as error:
            log.warning("no events are told: the service account is of no use", extra={"error": str(error)})
        await asyncio.Event().wait()

    async def tell(self, pod: Involved, send: Callable[[Object], Awaitable[None]]) -> None:
        """Tell what is new of *pod* until *send* raises TerminalError; what fails otherwise is lost."""
        while True:
            await self._bell.wait()
            while self._pending:
                await self._token()
                for subject in [*self._pending][:1]:  # it may have gone while a token was waited for
                    del self._pending[subject]
                    word = self._news(subject)
                    if word is not None:
                        self._tokens -= 1
                        await self._send(pod, subject, word, send)

    async def _send(
        self, pod: Involved, subject: Subject, word: _Word, send: Callable[[Object], Awaitable[None]]
    ) -> None:
        now = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        about, message = subject or DOCUMENT, f"{subject or DOCUMENT}: {word.message}"
        try:
            await send(
                event_for(pod, REPORTER, pod.name, word.reason, message, now, good=word.good, about=about)
            )
        except RetryableError as error:
            log.info("an event is lost", extra={"reason": error.reason, "message_": error.message})

    async def _token(self) -> None:
        """Wait until there is a token; it is taken by what is told."""
        while (missing := 1 - self._level()) > 0:
            await Wakeup().wait(max(missing * SECONDS_EACH, 0.01))

    def _level(self) -> float:
        now = self._clock.now()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled_at) / SECONDS_EACH)
        self._filled_at = now
        return self._tokens

    # What the board says.

    def _changed(self, name: ModelName, status: ModelStatus | None) -> None:
        if status is None:
            self._pending.pop(name, None)
            self._told.pop(name, None)
        elif name not in self._told and status.reason is None:
            self._told[name] = READY  # it serves since before this start: no news
        else:
            first = self._told.setdefault(name, "") == "" and status.reason is None
            if first and self._level() - len(self._pending) <= KEPT:
                self._told[name] = READY  # where many start, the tokens are for what goes wrong
            elif status.reason is None or status.phase is Phase.FAILED:
                self._note(name)

    def _head_changed(self) -> None:
        config = self._board.config
        seen = (config.applied_digest, config.error)
        if seen != self._config:
            self._config = seen
            self._note(None)

    def _note(self, subject: Subject) -> None:
        self._pending[subject] = None
        self._bell.ring()

    def _news(self, subject: Subject) -> _Word | None:
        """Return what is to be told of a subject as it stands now, None where that was told."""
        before = self._told.get(subject, "")
        if subject is None:
            word = _of_document(self._board.config)
            key = f"{word.reason} {self._board.config.applied_digest} {word.message}" if word else before
        else:
            word = _of_model(self._board.models[subject], before)
            key = before if word is None else READY if word.good else word.reason
        self._told[subject] = key
        return None if key == before else word


def _of_model(status: ModelStatus, before: str) -> _Word | None:
    if status.phase is Phase.FAILED and status.reason is not None:
        return _Word(status.reason, status.message or "", good=False)
    if status.reason is not None:
        return None  # on its way
    revision = (status.served_revision or "")[:12]
    if before in {"", READY}:
        return _Word("ModelReady", f"the server serves revision {revision}", good=True)
    return _Word("ModelRecovered", f"the server serves revision {revision} after {before}", good=True)


def _of_document(config: ConfigWord) -> _Word | None:
    if config.error is not None:
        reason, message = config.error
        return _Word(reason, message, good=False)
    if config.applied_digest is None:
        return None
    told = f"{config.accepted} models are wanted by the document {config.applied_digest[:12]}"
    if not config.rejected:
        return _Word("ConfigAccepted", told, good=True)
    refused = [f"{each.name or '?'} ({each.reason})" for each in config.rejected[:NAMED_AT_MOST]]
    more = len(config.rejected) - len(refused)
    rest = f" and {more} more" if more else ""
    return _Word("EntriesRejected", f"{told}; refused are {', '.join(refused)}{rest}", good=False)


def _pod(environ: Mapping[str, str]) -> Involved | None:
    name, namespace, uid = (environ.get(f"POD_{part}", "") for part in ("NAME", "NAMESPACE", "UID"))
    return Involved("v1", "Pod", namespace, name, uid) if name and namespace and uid else None
