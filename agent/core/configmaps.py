"""The ConfigMap of one shard: `modelconfig-<parent>-<shard>`, key `models.json` (kserve-contract §1.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.model import ModelName, ModelSpec
from agent.core.modelconfig import ConfigError, desired_state
from agent.core.parents import PARENT_LABEL, SHARD_LABEL, Shard
from agent.core.placement import document
from agent.core.trainedmodel import TrainedModel

DATA_KEY = "models.json"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "model-agent"
EMPTY = "[]"
KSERVE_MANAGERS = frozenset({"manager", "kserve-controller-manager"})
"""Field managers under which KServe's own controllers write, from the name of their binary."""


def config_map_name(parent: str, shard: int) -> str:
    """Return the name that the agent's volume refers to."""
    return f"modelconfig-{parent}-{shard}"


def config_map(parent: str, namespace: str, shard: Shard, models: Sequence[TrainedModel]) -> dict[str, Any]:
    """Return the object as it is applied; equal input gives equal bytes, so nothing is written twice."""
    metadata: dict[str, Any] = {
        "name": config_map_name(parent, shard.number),
        "namespace": namespace,
        "labels": {
            MANAGED_BY_LABEL: MANAGER,
            PARENT_LABEL: parent,
            SHARD_LABEL: str(shard.number),
        },
    }
    owner = shard.owner
    if owner.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
            }
        ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {DATA_KEY: document(models)},
    }


def needs_writing(desired: Mapping[str, Any], observed: Mapping[str, Any] | None) -> bool:
    """Tell whether the stored object lacks something that *desired* says. What others added may stay."""
    if observed is None:
        return True
    theirs = observed.get("metadata", {})
    ours = desired["metadata"]
    labels = theirs.get("labels") or {}
    owners = _owners(theirs)
    return (
        (observed.get("data") or {}).get(DATA_KEY) != desired["data"][DATA_KEY]
        or any(labels.get(key) != value for key, value in ours["labels"].items())
        or not all(any(own.items() <= other.items() for other in owners) for own in _owners(ours))
    )


def _owners(metadata: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    owners: Sequence[Mapping[str, Any]] = metadata.get("ownerReferences") or ()
    return owners


def foreign_writer(observed: Mapping[str, Any] | None, taken_over: str | None = None) -> str | None:
    """Return the field manager of KServe's own controller where it wrote the list of models, else None.

    The empty list is what KServe's InferenceService controller creates, and is nobody's decision. What
    was written until *taken_over* (RFC 3339, UTC, as the API server writes it) counts no more.
    """
    if observed is None or (observed.get("data") or {}).get(DATA_KEY) in {None, "", EMPTY}:
        return None
    for entry in observed.get("metadata", {}).get("managedFields") or ():
        owned = (entry.get("fieldsV1") or {}).get("f:data") or {}
        if entry.get("manager") not in KSERVE_MANAGERS or f"f:{DATA_KEY}" not in owned:
            continue
        if taken_over is None or str(entry.get("time", "")) > taken_over:
            return str(entry["manager"])
    return None


def listed_models(observed: Mapping[str, Any] | None) -> Mapping[ModelName, ModelSpec]:
    """Return the models that a stored ConfigMap lists, none where it cannot be read. Never raises."""
    text = ((observed or {}).get("data") or {}).get(DATA_KEY)
    if not isinstance(text, str):
        return {}
    try:
        return desired_state(text.encode("utf-8", "replace"), None).models
    except ConfigError:
        return {}
