"""What the agents of a parent's pods say, asked over the pod network; bounded in time, size and number.

A pod that does not answer is reported as one that does not answer, by name; it never delays the others.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from agent.core.modelstatus import ModelReport, PodReport
from agent.core.parents import shard_number
from agent.kube.resources import Key, Object, key_of

PORT_NAME = "agent-status"
DEFAULT_PORT = 9082
_AT_ONCE = 16
_LARGEST_ANSWER = 8 * 1024 * 1024
"""More than a full ConfigMap of models makes; times `_AT_ONCE` it fits into the controller's memory."""

_TOKEN_WORDS = {
    True: "start the controller with --agent-token-file",
    False: "the one in --agent-token-file is not it",
}
_SHOWN = 300


def is_ready(pod: Object) -> bool:
    """Tell whether a pod takes requests, so that what it serves counts."""
    status = pod.get("status") or {}
    conditions = status.get("conditions") or ()
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return ready and bool(status.get("podIP")) and not pod["metadata"].get("deletionTimestamp")


def status_url(pod: Object) -> str:
    """Return where the pod's agent answers: the container port of that name, else the default."""
    address = str(pod["status"]["podIP"])
    host = f"[{address}]" if ":" in address else address
    spec = pod.get("spec") or {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        for port in container.get("ports") or ():
            if port.get("name") == PORT_NAME and isinstance(port.get("containerPort"), int):
                return f"http://{host}:{port['containerPort']}/status"
    return f"http://{host}:{DEFAULT_PORT}/status"


class Agents:
    """The newest report of each pod that was asked. *changed* is called with a pod whose report is news.

    *token_file* holds the bearer token that agents ask for, if they do; it is read anew for each round.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        changed: Callable[[Object], None],
        ask_seconds: float,
        token_file: Path | None = None,
    ) -> None:
        self._session = session
        self._changed = changed
        self._ask_seconds = ask_seconds
        self._token_file = token_file
        self._reports: dict[Key, PodReport] = {}
        self._tags: dict[Key, str] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def report(self, pod: Object) -> PodReport | None:
        """Return what a pod said last, None before its first answer."""
        return self._reports.get(key_of(pod))

    def forget(self, pods: Collection[Key]) -> None:
        """Drop the reports of pods that are gone."""
        for key in pods:
            self._reports.pop(key, None)
            self._tags.pop(key, None)

    async def ask(self, pods: Collection[Object]) -> None:
        """Ask each pod once, some at a time."""
        headers, problem = {}, None
        if self._token_file is not None and pods:
            try:
                headers["Authorization"] = f"Bearer {await asyncio.to_thread(_token, self._token_file)}"
            except (OSError, ValueError) as error:
                problem = f"the agents' token cannot be read from {self._token_file} ({type(error).__name__})"
        async with asyncio.TaskGroup() as group:
            for pod in pods:
                name = f"ask {pod['metadata']['name']}"
                group.create_task(self._ask(pod, headers, problem), name=name)

    async def _ask(self, pod: Object, headers: Mapping[str, str], problem: str | None) -> None:
        async with self._slots:
            report = _silent(pod, problem) if problem is not None else await self._read(pod, headers)
        if self._reports.get(key_of(pod)) != report:
            self._reports[key_of(pod)] = report
            self._changed(pod)

    async def _read(self, pod: Object, headers: Mapping[str, str]) -> PodReport:
        try:
            return await self._request(pod, headers)
        except TimeoutError:
            return _silent(pod, f"its agent did not answer within {self._ask_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _silent(pod, f"its agent does not answer ({type(error).__name__})")

    async def _request(self, pod: Object, headers: Mapping[str, str]) -> PodReport:
        """Ask for the answer, or for the word that it is the one we have."""
        known = self._reports.get(key_of(pod))
        tag = self._tags.pop(key_of(pod), None)
        headers = {**headers, "If-None-Match": tag} if tag is not None else headers
        limits = aiohttp.ClientTimeout(total=self._ask_seconds)
        async with self._session.get(
            status_url(pod), timeout=limits, headers=headers, allow_redirects=False
        ) as answer:
            if answer.status == 304 and known is not None and tag is not None:
                self._tags[key_of(pod)] = tag
                return known
            if answer.status == 401:
                return _silent(pod, f"its agent asks for a token: {_TOKEN_WORDS[self._token_file is None]}")
            if answer.status != 200:
                return _silent(pod, f"its agent answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    return _silent(pod, f"its agent's answer is longer than {_LARGEST_ANSWER >> 20} MiB")
            report = parse_report(pod, bytes(body))
            if report.problem is None and "ETag" in answer.headers:
                self._tags[key_of(pod)] = answer.headers["ETag"]
            return report


def parse_report(pod: Object, body: bytes) -> PodReport:
    """Read an answer of /status; one of another shape is a pod that does not answer."""
    try:
        document = json.loads(body)
        config = document["config"]
        return PodReport(
            pod=pod["metadata"]["name"],
            shard=shard_number(pod) or 0,
            models={str(model["name"]): _model(model) for model in document["models"]},
            rejected={
                str(item["name"]): (str(item["reason"]), str(item["message"])[:_SHOWN])
                for item in config["rejected"]
                if item["name"] is not None
            },
            digest=config.get("plannedDigest"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _silent(pod, f"its agent's answer is not understood ({type(error).__name__})")


def _model(model: Mapping[str, Any]) -> ModelReport:
    spec = model.get("spec") or {}
    message = model.get("message")
    return ModelReport(
        phase=str(model["phase"]),
        ready=model["ready"] is True,
        reason=model.get("reason"),
        message=str(message)[:_SHOWN] if message is not None and model["phase"] == "Failed" else None,
        storage_uri=spec.get("storageUri"),
        framework=spec.get("framework"),
        memory=spec.get("memory"),
        current=model.get("revision") is not None and model["revision"] == model.get("servedRevision"),
    )


def _token(file: Path) -> str:
    with file.open("rb") as opened:
        text = opened.read(64 * 1024).decode("ascii").strip()
    if not text or not text.isprintable():
        raise ValueError("it holds no token")
    return text


def _silent(pod: Object, problem: str) -> PodReport:
    return PodReport(pod["metadata"]["name"], shard_number(pod) or 0, {}, {}, problem=problem)
