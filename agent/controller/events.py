"""What of a TrainedModel's status is worth a Kubernetes Event, and what was not sent yet.

An event goes before the status that it tells of: a crash between the two sends it once more, under the same
name and cause, and so it is neither lost nor counted twice.
"""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Container, Iterable

from agent.core.controlplane import StatusWrite
from agent.core.errors import AgentError, TerminalError
from agent.kube.events import Involved, caused, event_for
from agent.kube.resources import Object

log = logging.getLogger("agent.controller")

REPORTER = "model-agent-controller"


def event_of(write: StatusWrite, now: str) -> Object | None:
    """Return the event that a new status is worth, None where nothing changed that a person acts on.

    Worth one are each new reason with which the model stalls, and Loaded turning True for the first time
    or after that. An update that goes well is no news.
    """
    loaded, before = write.status.condition("Loaded"), None
    stall = write.status.condition("Stalled")
    told = stall or loaded
    if told is None:
        return None
    if write.before is not None:
        before = write.before.condition(told.type)
    good = told.type == "Loaded" and told.status == "True"
    if told.type == "Loaded" and not good and not write.failing:
        return None  # on its way, or not known
    if before is not None and (before.status, before.reason) == (told.status, told.reason):
        return None
    recovered = write.before is not None and write.before.condition("Stalled") is not None
    if good and not recovered and write.obj["metadata"].get("generation", 1) != 1:
        return None
    obj, metadata = write.obj, write.obj["metadata"]
    involved = Involved(
        obj["apiVersion"], obj["kind"], metadata["namespace"], metadata["name"], str(metadata.get("uid", ""))
    )
    cause = hashlib.sha256(json.dumps(obj.get("status"), sort_keys=True).encode()).hexdigest()[:16]
    event = event_for(involved, REPORTER, REPORTER, told.reason, told.message, now, good=good)
    return caused(event, cause)


class Unsent:
    """Events that are still to be sent, by the uid of their model: one that fails goes with the next look.

    They live in memory alone: one that the API server would not take is lost with this process.
    """

    def __init__(self, send: Callable[[Object], Awaitable[None]]) -> None:
        self._send = send
        self._events: dict[str, list[Object]] = {}

    def add(self, uid: str, event: Object | None) -> None:
        """Have *event* sent; a model has few, since each is a change of its status."""
        waiting = self._events.get(uid, [])
        if event is not None and all(each["metadata"] != event["metadata"] for each in waiting):
            self._events[uid] = [*waiting[-3:], event]

    async def send(self, uids: Iterable[str]) -> list[AgentError]:
        """Send those of models; return what failed and is kept. What is refused for good is dropped."""
        problems: list[AgentError] = []
        for uid in uids:
            for event in list(self._events.get(uid, ())):
                try:
                    await self._send(event)
                except TerminalError as error:
                    log.warning("an event is refused", extra={"error_message": error.message})
                except AgentError as error:
                    problems.append(error)
                    continue
                self._events[uid].remove(event)
            if not self._events.get(uid, True):
                del self._events[uid]
        return problems

    def forget(self, uids: Container[object]) -> None:
        """Drop those of models that are gone."""
        for uid in [uid for uid in self._events if uid not in uids]:
            del self._events[uid]
