"""The controller's shell: read what concerns a parent, decide, write what differs.

Level, not edge: each look reads everything afresh, so that a crash, a lost event or a conflict costs one
more look and nothing else. Nothing is written while another may lead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from agent.controller.agents import Agents
from agent.controller.events import Unsent, event_of
from agent.controller.queue import Queue
from agent.controller.view import View
from agent.core.configmaps import config_map_name
from agent.core.controlplane import (
    Decision,
    Reading,
    StatusWrite,
    decide,
    decide_status_only,
    lay_out,
    needs_digest,
    parent_of,
)
from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.parents import PARENT_LABEL
from agent.core.placement import Refusal
from agent.core.reasons import Reason
from agent.core.trainedmodel import KSERVE_FINALIZER
from agent.kube.client import ApiClient, ApiConflictError, ApiNotFoundError
from agent.kube.events import emit
from agent.kube.resources import CONFIG_MAPS, TRAINED_MODELS, Key, Object, version_of

log = logging.getLogger("agent.controller")

_FIRST_PAUSE = 1.0
_CONFLICT_PAUSE = 0.05  # what is new is on its way to us already


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """`status_only` writes the Loaded condition and events alone, beside KServe's own controller.

    `take_over` makes ours the lists that KServe's controller wrote before this process started.
    Agents are asked every `settled_seconds`, and every `unsettled_seconds` while something is on its way.
    """

    status_only: bool = False
    take_over: bool = False
    workers: int = 4
    writes_at_once: int = 16
    unsettled_seconds: float = 2.0
    settled_seconds: float = 10.0
    ask_seconds: float = 5.0
    rest_seconds: float = 0.1
    refused_seconds: float = 300.0
    agent_token_file: Path | None = None


class Leadership(Protocol):
    """Whether we may write."""

    @property
    def held(self) -> bool:
        """Tell it of this moment."""
        ...


class NotLeadingError(RetryableError):
    """The lease ran out in the middle of a look; whoever leads now goes on."""

    def __init__(self) -> None:
        super().__init__(Reason.API_CONFLICT, "the lease ran out, so nothing more is written")


class Controller:
    """One controller of all parents; `view` is public for health and tests."""

    def __init__(
        self,
        client: ApiClient,
        session: aiohttp.ClientSession,
        leadership: Leadership,
        settings: ControllerSettings,
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._leadership = leadership
        self._settings = settings
        self._utc = utc
        self._queue = Queue(settings.rest_seconds)
        self._agents = Agents(session, self._pod_said, settings.ask_seconds, settings.agent_token_file)
        self.view = View(client, self._agents, self._queue.ring)
        self._writes = asyncio.Semaphore(settings.writes_at_once)
        self._unsettled: set[Key] = set()
        self._wrote: dict[str, tuple[Any, Any]] = {}
        self._taken_over = _instant(utc()) if settings.take_over else None
        self._told = Unsent(lambda event: self._write(lambda: emit(client, event)))

    @property
    def quiet(self) -> bool:
        """Tell whether all was read and nothing is left to do now."""
        return self.view.ready and self._queue.quiet

    async def run(self) -> None:
        """Keep everything as it should be; never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.view.run(), name="view")
            await self.view.synced()
            for key in self.view.parents():
                self._queue.ring(key)
            for number in range(self._settings.workers):
                group.create_task(self._work(), name=f"worker {number}")
            group.create_task(self._ask(), name="agents")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key = await self._queue.take()
            begun_at = loop.time()
            try:
                await self._look(key)
            except TerminalError as error:
                self._log(key, error)
                self._queue.ring(key, self._settings.refused_seconds)
            except AgentError as error:
                self._log(key, error)
                first = _CONFLICT_PAUSE if isinstance(error, ApiConflictError) else _FIRST_PAUSE
                self._queue.failed(key, first, getattr(error, "retry_after_seconds", None))
            except Exception:  # the one place where a bug ends: this parent waits, the others go on
                log.exception("a bug; this parent is left for a while", extra={"parent": "/".join(key)})
                self._queue.ring(key, self._settings.refused_seconds)
            else:
                self._queue.succeeded(key)
            finally:
                self._queue.done(key, loop.time() - begun_at)

    async def _look(self, key: Key) -> None:
        """Do everything that is to be done for one parent now."""
        now = _instant(self._utc())
        reading, failed = await self._with_unknown_maps(self.view.reading(key))
        reading = replace(reading, taken_over=self._taken_over)
        layout = None
        if not self._settings.status_only:
            layout = lay_out(reading)
            for number, obj in layout.config_maps.items():
                if number not in failed:
                    await self._write_map(number, obj, reading, failed)
        unasked = [pod for pod in self.view.ready_pods(key) if self._agents.report(pod) is None]
        if unasked:
            await self._agents.ask(unasked)
            self._queue.ring(key)  # and say nothing of what is not known yet
            return
        told = {number: Refusal(error.reason, error.message) for number, error in failed.items()}
        decision = decide_status_only(reading, now) if layout is None else decide(reading, layout, now, told)
        (self._unsettled.add if decision.unsettled else self._unsettled.discard)(key)
        problems = [*failed.values(), *await self._write_each(decision, now)]
        problems += await self._told.send([_uid(item.obj) for item in reading.models])
        if problems:
            raise min(problems, key=lambda error: isinstance(error, TerminalError))

    async def _with_unknown_maps(self, reading: Reading) -> tuple[Reading, dict[int, AgentError]]:
        """Add the ConfigMaps that are there without our label: KServe makes them, and labels get lost.

        Returns also why some may not be read: those are not written either.
        """
        parent = parent_of(reading)
        needed = not self._settings.status_only or any(map(needs_digest, reading.models))
        if parent is None or not parent.multi_model or not needed:
            return reading, {}
        found = dict(reading.config_maps)
        failed: dict[int, AgentError] = {}
        for number in parent.shards.keys() - found.keys():
            try:
                name = config_map_name(reading.name, number)
                found[number] = await self._client.get(CONFIG_MAPS, reading.namespace, name)
            except ApiNotFoundError:
                continue
            except TerminalError as error:
                failed[number] = error
        return replace(reading, config_maps=found), failed

    async def _write_map(
        self, number: int, obj: Object, reading: Reading, failed: dict[int, AgentError]
    ) -> None:
        """Write one list; what is not a passing trouble goes into *failed*, for the models to tell."""
        before = reading.config_maps.get(number)
        fence = {} if before is None else {"resourceVersion": version_of(before)}
        fenced = {**obj["metadata"], **fence}
        name = obj["metadata"]["name"]
        try:
            written = await self._write(lambda: self._client.apply(CONFIG_MAPS, {**obj, "metadata": fenced}))
        except ApiConflictError:
            raise
        except TerminalError as error:
            failed[number] = error
            return
        except RetryableError as error:
            if (
                isinstance(error, NotLeadingError)
                or self._queue.failures((reading.namespace, reading.name)) < 2
            ):
                raise
            failed[number] = error
            return
        self.view.note(CONFIG_MAPS, written)
        log.info(
            "wrote the list of models",
            extra={"config_map": name, "namespace": reading.namespace, "parent": reading.name},
        )

    async def _write_each(self, decision: Decision, now: str) -> list[AgentError]:
        """Write statuses and finalizers, some at a time; one that fails does not keep the others back."""
        problems: list[AgentError] = []

        async def guarded(step: Awaitable[None]) -> None:
            try:
                await step
            except ApiNotFoundError:
                pass  # deleted meanwhile; the view will tell
            except AgentError as error:
                problems.append(error)

        async with asyncio.TaskGroup() as group:
            for write in decision.statuses:
                group.create_task(guarded(self._write_status(write, now)))
            for obj in decision.finalizers:
                group.create_task(guarded(self._release(obj)))
        return problems

    async def _write_status(self, write: StatusWrite, now: str) -> None:
        uid = _uid(write.obj)
        wanted = write.status.to_json()
        if self._wrote.get(uid) == (_timeless(wanted), write.obj.get("status")):
            return  # the server keeps less than we say; saying it again changes nothing
        self._told.add(uid, event_of(write, now))
        await self._told.send([uid])  # before the status; what fails goes at the end of the look
        written = await self._write(lambda: self._put_status(write, wanted))
        self._wrote[uid] = (_timeless(wanted), written.get("status"))
        self.view.note(TRAINED_MODELS, written)

    async def _put_status(self, write: StatusWrite, wanted: dict[str, Any]) -> Object:
        obj, metadata = write.obj, write.obj["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if self._settings.status_only:
            patch = {"metadata": {"resourceVersion": version_of(obj)}, "status": wanted}
            return await self._client.merge(TRAINED_MODELS, namespace, name, patch, subresource="status")
        named = {"name": name, "namespace": namespace, "uid": metadata["uid"]}
        applied = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "metadata": named,
            "status": wanted,
        }
        return await self._client.apply(TRAINED_MODELS, applied, subresource="status")

    async def _release(self, obj: Object) -> None:
        """Take KServe's finalizer off an object that is going, for its controller is not there to do it."""
        metadata = obj["metadata"]
        kept = [name for name in metadata["finalizers"] if name != KSERVE_FINALIZER]
        patch = {"metadata": {"resourceVersion": version_of(obj), "finalizers": kept or None}}
        await self._write(
            lambda: self._client.merge(TRAINED_MODELS, metadata["namespace"], metadata["name"], patch)
        )

    async def _write(self, request: Callable[[], Any]) -> Any:
        async with self._writes:
            if not self._leadership.held:
                raise NotLeadingError
            return await request()

    async def _ask(self) -> None:
        """Ask the agents of parents that have models, those of unsettled ones more often."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        asked_all_at = float("-inf")
        while True:
            everyone = loop.time() - asked_all_at >= settings.settled_seconds
            parents: Iterable[Key] = self.view.models.parents() if everyone else self._unsettled
            asked_all_at = loop.time() if everyone else asked_all_at
            await self._agents.ask([pod for key in list(parents) for pod in self.view.ready_pods(key)])
            if everyone:
                self._forget()
            await asyncio.sleep(settings.unsettled_seconds)

    def _forget(self) -> None:
        """Drop what is remembered of parents and models that are gone."""
        parents = self.view.parents()
        self._queue.drop(lambda key: key in parents)
        uids = {obj["metadata"].get("uid") for key in parents for obj in self.view.models.of(key)}
        for uid in [uid for uid in self._wrote if uid not in uids]:
            del self._wrote[uid]
        self._told.forget(uids)

    def _pod_said(self, pod: Object) -> None:
        metadata = pod["metadata"]
        self._queue.ring((metadata.get("namespace", ""), metadata["labels"][PARENT_LABEL]))

    def _log(self, key: Key, error: AgentError) -> None:
        level = logging.INFO if isinstance(error, ApiConflictError) else logging.WARNING
        told = {"reason": error.reason, "error_message": error.message}
        log.log(
            level,
            "a parent could not be brought up to date; trying again",
            extra={"namespace": key[0], "parent": key[1], **told},
        )


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def _timeless(status: dict[str, Any]) -> Any:
    conditions = [
        {key: value for key, value in item.items() if key != "lastTransitionTime"}
        for item in status["conditions"]
    ]
    return {**status, "conditions": conditions}
