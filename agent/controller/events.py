"""Kubernetes Events on what changed for a model: one object a reason, its count growing."""

import hashlib
from collections.abc import Mapping
from typing import Any

from agent.core.controlplane import StatusWrite
from agent.kube.client import ApiClient, ApiConflictError
from agent.kube.resources import EVENTS, Object

REPORTER = "model-agent-controller"
_LONGEST = 1024


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
    if told.type == "Loaded" and not good:
        return None  # on its way, or not known
    if before is not None and (before.status, before.reason) == (told.status, told.reason):
        return None
    recovered = write.before is not None and write.before.condition("Stalled") is not None
    if good and not recovered and write.obj["metadata"].get("generation", 1) != 1:
        return None
    metadata = write.obj["metadata"]
    uid, reason = str(metadata.get("uid", "")), told.reason
    digest = hashlib.sha256(f"{uid}/{reason}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": write.obj["apiVersion"],
            "kind": write.obj["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": uid,
        },
        "type": "Normal" if good else "Warning",
        "reason": reason,
        "message": told.message[:_LONGEST],
        "source": {"component": REPORTER},
        "reportingComponent": REPORTER,
        "reportingInstance": REPORTER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


async def emit(client: ApiClient, event: Object) -> None:
    """Store an event, or count it where one of the same model and reason is there."""
    try:
        await client.create(EVENTS, event)
    except ApiConflictError:
        metadata: Mapping[str, Any] = event["metadata"]
        stored = await client.get(EVENTS, metadata["namespace"], metadata["name"])
        patch = {
            "count": int(stored.get("count") or 1) + 1,
            "lastTimestamp": event["lastTimestamp"],
            "message": event["message"],
        }
        await client.merge(EVENTS, metadata["namespace"], metadata["name"], patch)
