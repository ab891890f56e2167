"""Kubernetes Events: one object a thing and reason, its count growing. No secret is in one (law 10)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.redact import harmless, redact
from agent.kube.client import ApiClient, ApiConflictError
from agent.kube.resources import EVENTS, Object

CAUSE = "model-agent/cause"
"""The annotation of what made the reporter tell it last."""
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Involved:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


def event_for(
    involved: Involved, reporter: str, instance: str, reason: str, message: str, now: str, *, good: bool,
    about: str = "",
) -> Object:  # fmt: skip
    """Return an event; *now* is RFC 3339. Equal object, *about* and *reason* are one event, counted."""
    told = f"{involved.uid}/{about}/{reason}" if about else f"{involved.uid}/{reason}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{involved.name[:200]}.{digest}", "namespace": involved.namespace},
        "involvedObject": {
            "apiVersion": involved.api_version,
            "kind": involved.kind,
            "name": involved.name,
            "namespace": involved.namespace,
            "uid": involved.uid,
        },
        "type": "Normal" if good else "Warning",
        "reason": reason,
        "message": harmless(redact(message))[:_LONGEST],
        "source": {"component": reporter},
        "reportingComponent": reporter,
        "reportingInstance": instance,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def caused(told: Object, cause: str) -> Object:
    """Return the event with its cause: told again of the same, as after a crash, it is not counted again."""
    return {**told, "metadata": {**told["metadata"], "annotations": {CAUSE: cause}}}


async def emit(client: ApiClient, told: Object) -> None:
    """Store an event, or count it where it is there. Takes the rights to create and patch, and no other."""
    try:
        await client.create(EVENTS, told)
    except ApiConflictError:
        metadata: Mapping[str, Any] = told["metadata"]
        place = metadata["namespace"], metadata["name"]
        fresh = {"lastTimestamp": told["lastTimestamp"], "message": told["message"]}
        stored = await client.merge(EVENTS, *place, fresh)
        cause = metadata.get("annotations") or {}
        if not cause or not cause.items() <= (stored["metadata"].get("annotations") or {}).items():
            counted = {"count": int(stored.get("count") or 1) + 1}
            await client.merge(EVENTS, *place, {**counted, "metadata": {"annotations": cause}})
