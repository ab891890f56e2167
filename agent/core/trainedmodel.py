"""The TrainedModel resource of serving.kserve.io/v1alpha1, as values (kserve-contract §2.1).

The law here: what was read is written back without loss, unknown fields and the way that memory was
spelt included; `parse(obj).to_json() == obj`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.quantity import Format, Quantity, parse_quantity

GROUP = "serving.kserve.io"
API_VERSION = f"{GROUP}/v1alpha1"
KIND = "TrainedModel"
KSERVE_FINALIZER = "trainedmodel.finalizer"


class UnreadableObjectError(ValueError):
    """The object is no TrainedModel: its message names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What to serve. `written` is memory as the document spells it, a string or a whole number."""

    storage_uri: str
    framework: str
    memory: Quantity
    written: str | int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the `model` object."""
        said = {"storageUri": self.storage_uri, "framework": self.framework, "memory": self.written}
        return {**said, **self.extra}


@dataclass(frozen=True, slots=True)
class TrainedModelSpec:
    """The parent's name and the model."""

    inference_service: str
    model: ModelSpec
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the `spec` object."""
        return {"inferenceService": self.inference_service, "model": self.model.to_json(), **self.extra}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `status` is True, False or Unknown, in words as Kubernetes writes them."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the condition, absent fields left out."""
        said = {
            "type": self.type,
            "status": self.status,
            "reason": self.reason or None,
            "message": self.message or None,
            "lastTransitionTime": self.last_transition_time,
            "observedGeneration": self.observed_generation,
        }
        return {key: value for key, value in said.items() if value is not None} | dict(self.extra)


@dataclass(frozen=True, slots=True)
class TrainedModelStatus:
    """What was said of the model; `address` is Knative's Addressable, its `url` inside the cluster."""

    conditions: tuple[Condition, ...] = ()
    url: str | None = None
    address: Mapping[str, Any] | None = None
    observed_generation: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of that type, None where it was never said."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    def to_json(self) -> dict[str, Any]:
        """Return the `status` object, absent fields left out."""
        said = {
            "conditions": [condition.to_json() for condition in self.conditions] or None,
            "url": self.url,
            "address": None if self.address is None else dict(self.address),
            "observedGeneration": self.observed_generation,
        }
        return {key: value for key, value in said.items() if value is not None} | dict(self.extra)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One object. `metadata` is as the API server gave it; `status` is None where the object has none."""

    metadata: Mapping[str, Any]
    spec: TrainedModelSpec
    status: TrainedModelStatus | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name, which is the model's name on every server."""
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """Return the namespace, `default` where a file leaves it out."""
        return str(self.metadata.get("namespace", "default"))

    def to_json(self) -> dict[str, Any]:
        """Return the object as it was read."""
        said: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": dict(self.metadata),
            "spec": self.spec.to_json(),
        }
        if self.status is not None:
            said["status"] = self.status.to_json()
        return said | dict(self.extra)


def parse(obj: Mapping[str, Any]) -> TrainedModel:
    """Read an object. Raises UnreadableObjectError; whether its values are allowed is `validation`'s."""
    if obj.get("apiVersion") != API_VERSION or obj.get("kind") != KIND:
        raise UnreadableObjectError(f"apiVersion and kind must be {API_VERSION} and {KIND}")
    metadata = _object(obj, "metadata", "metadata")
    spec = _object(obj, "spec", "spec")
    model = _object(spec, "model", "spec.model")
    status = obj.get("status")
    return TrainedModel(
        metadata=metadata,
        spec=TrainedModelSpec(
            inference_service=_string(spec, "inferenceService", "spec.inferenceService"),
            model=_model(model),
            extra=_rest(spec, "inferenceService", "model"),
        ),
        status=parse_status(status) if isinstance(status, Mapping) else None,
        extra=_rest(
            obj, "apiVersion", "kind", "metadata", "spec", *(["status"] if _is(status, Mapping) else [])
        ),
    )


def parse_status(status: Mapping[str, Any]) -> TrainedModelStatus:
    """Read a status. What does not have its type is kept as an unknown field, for others write it too."""
    conditions = status.get("conditions") or []
    readable = _is(conditions, list) and bool(conditions) and all(_readable(item) for item in conditions)
    known = {
        "url": _is(status.get("url"), str),
        "address": _is(status.get("address"), Mapping),
        "observedGeneration": type(status.get("observedGeneration")) is int,
        "conditions": readable,
    }
    return TrainedModelStatus(
        conditions=tuple(_condition(item) for item in conditions) if readable else (),
        url=status["url"] if known["url"] else None,
        address=status["address"] if known["address"] else None,
        observed_generation=status["observedGeneration"] if known["observedGeneration"] else None,
        extra=_rest(status, *(key for key, fits in known.items() if fits)),
    )


def total_requested_memory(models: Iterable[TrainedModel]) -> Quantity:
    """Return the sum of the memory of *models*; printed in the format of the first that is not zero."""
    total = Quantity(0, Format.BINARY_SI)
    for model in models:
        total = total.add(model.spec.model.memory)
    return total


def _model(model: Mapping[str, Any]) -> ModelSpec:
    memory = model.get("memory")
    if type(memory) is not str and type(memory) is not int:
        raise UnreadableObjectError("spec.model.memory must be a quantity such as 256Mi, or a whole number")
    try:
        quantity = parse_quantity(str(memory))
    except ValueError as error:
        raise UnreadableObjectError(
            f"spec.model.memory {str(memory)[:40]!a} is no quantity: {error}"
        ) from error
    return ModelSpec(
        storage_uri=_string(model, "storageUri", "spec.model.storageUri"),
        framework=_string(model, "framework", "spec.model.framework"),
        memory=quantity,
        written=memory,
        extra=_rest(model, "storageUri", "framework", "memory"),
    )


def _readable(item: Any) -> bool:
    """Tell whether a condition has the types that `Condition` can give back unchanged."""
    if not _is(item, Mapping) or not (_is(item.get("type"), str) and _is(item.get("status"), str)):
        return False
    words = all(
        _is(item[key], str) and item[key]
        for key in ("reason", "message", "lastTransitionTime")
        if key in item
    )
    return words and type(item.get("observedGeneration", 0)) is int


def _condition(item: Mapping[str, Any]) -> Condition:
    known = ("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration")
    return Condition(
        type=item["type"],
        status=item["status"],
        reason=item.get("reason", ""),
        message=item.get("message", ""),
        last_transition_time=item.get("lastTransitionTime"),
        observed_generation=item.get("observedGeneration"),
        extra=_rest(item, *known),
    )


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind)


def _object(parent: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    value = parent.get(key)
    if not isinstance(value, Mapping):
        raise UnreadableObjectError(f"{path} must be an object" if key in parent else f"{path} is missing")
    return value


def _string(parent: Mapping[str, Any], key: str, path: str) -> str:
    value = parent.get(key)
    if not isinstance(value, str):
        raise UnreadableObjectError(f"{path} must be a string" if key in parent else f"{path} is missing")
    return value


def _rest(obj: Mapping[str, Any], *known: str) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key not in known}
