"""A /status document read back into what the planner observes, so that its plan can be foretold. Pure.

What /status does not tell is taken for the best: the server is up, and what it has on disk beside the
revisions shown is not known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.core.model import DesiredState, ModelName, ModelSpec, ObservedState, Revision, StoredRevision, Told
from agent.core.quantity import parse_quantity
from agent.core.reasons import Reason
from agent.core.retry import Hold, HoldKey, Step
from agent.core.uri import redacted

EMPTY = ObservedState(stored={}, told={}, restorable=frozenset(), loaded=frozenset(), server_up=True)
SOON = 1e-3  # of a try whose time has come: it is still ahead, and may fail again
LAYOUT_BY_FRAMEWORK = frozenset({"mlserver"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a running agent has: its world, what it is asked for now, what it waits over, how it was set up.

    Times of holds are seconds from the moment at which the document was read.
    """

    observed: ObservedState = EMPTY
    wanted: DesiredState = field(default_factory=lambda: DesiredState({}))
    holds: Mapping[HoldKey, Hold] = field(default_factory=dict)
    budget_bytes: int | None = None
    step_aside: bool = False
    max_removal: int | None = None


def default_memory_of(document: Mapping[str, Any]) -> int:
    """Return what a model without memory counts there. Raises as `seen_of` does."""
    return int(_rules(document)["defaultModelMemoryBytes"])


def _rules(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the agent was set up; an agent of an older release does not tell, and has the defaults."""
    plain = {"updatePolicy": "availability", "defaultModelMemoryBytes": 0, "maxRemoval": None}
    return plain | dict(document.get("rules", {}))


def seen_of(document: Mapping[str, Any], desired: Mapping[ModelName, ModelSpec], now: float) -> Seen:
    """Read *document* at *now* (Unix seconds).

    Its URIs are shown without secrets; those of *desired* give them back.
    Raises KeyError, TypeError, AttributeError or ValueError where it is no /status.
    """
    whole = {redacted(spec.storage_uri): spec.storage_uri for spec in desired.values()}
    stored: dict[str, StoredRevision] = {}
    told: dict[ModelName, Told] = {}
    wanted: dict[ModelName, ModelSpec] = {}
    holds: dict[HoldKey, Hold] = {}
    for model in document["models"]:
        name, spec = ModelName(model["name"]), _spec(model["spec"], whole)
        revision, served = model["revision"], model["servedRevision"]
        if spec is not None:
            wanted[name] = spec
            if revision is not None:
                stored[spec.storage_uri] = as_declared(spec, Revision(revision))
            holds |= _hold(name, spec, model, now)
        if model["ready"] and served is not None:
            uri = spec.storage_uri if spec is not None and served == revision else f"before:{name}"
            framework = spec.framework if spec is not None else ""
            told[name] = Told(Revision(served), uri, framework, _held(model, spec), confirmed=True)
    observed = ObservedState(
        stored=stored,
        told=told,
        restorable=frozenset(told),
        loaded=frozenset(told),
        server_up=True,
        layout_by_framework=document["server"]["protocol"] in LAYOUT_BY_FRAMEWORK,
    )
    rules = _rules(document)
    return Seen(
        observed,
        DesiredState(wanted),
        holds,
        document["memory"]["budgetBytes"],
        rules["updatePolicy"] == "resource",
        rules["maxRemoval"],
    )


def as_declared(spec: ModelSpec, revision: Revision) -> StoredRevision:
    """Return a revision on disk whose bytes are those that *spec* declares: others are not kept."""
    return StoredRevision(spec.storage_uri, revision, 0, 0.0, spec.declared.digest, spec.declared.checks)


def _spec(spec: Mapping[str, Any] | None, whole: Mapping[str, str]) -> ModelSpec | None:
    if spec is None:
        return None
    memory = spec["memory"]
    need = parse_quantity(memory).bytes_ceil() if memory is not None else 0
    uri = spec["storageUri"]
    return ModelSpec(
        whole.get(uri, uri), spec["framework"], need, memory, spec.get("sha256"), spec.get("signature")
    )


def _held(model: Mapping[str, Any], spec: ModelSpec | None) -> int:
    held = model.get("heldBytes")
    return int(held) if held is not None else spec.memory_bytes if spec is not None else 0


def _hold(name: ModelName, spec: ModelSpec, model: Mapping[str, Any], now: float) -> dict[HoldKey, Hold]:
    """Return what the agent waits over: the load of what is on disk, or else the fetch."""
    if model["phase"] != "Failed" or model["attempts"] == 0 or model["reason"] not in set(Reason):
        return {}
    revision, again = model["revision"], model["nextRetryTime"]
    until = math.inf if again is None else max(datetime.fromisoformat(again).timestamp() - now, SOON)
    key = (Step.FETCH, name, spec.source) if revision is None else (Step.LOAD, name, revision)
    return {key: Hold(model["attempts"], until, Reason(model["reason"]), model["message"] or "")}
