"""The parent of TrainedModels, read from what is in the cluster (kserve-contract §2.3, §2.4).

An InferenceService where that kind exists, otherwise the Deployments that carry its label; each shard
is one set of replicas with its own memory, address and ConfigMap. Objects are taken as they come: what
lacks or has a wrong type counts as absent, for a parent that cannot be read is one that is not ready.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.core.quantity import Format, Quantity, parse_quantity

PARENT_LABEL = "serving.kserve.io/inferenceservice"
SHARD_LABEL = "serving.kserve.io/shard"
COMPONENT_LABEL = "component"
"""KServe's label that tells predictor, transformer and explainer apart; without it a pod is a predictor's."""
PREDICTOR = "predictor"
AGENT_CONTAINERS = frozenset({"agent", "model-agent"})
"""KServe's name for the agent beside the server, and that of our own injection."""
SERVER_CONTAINERS = ("kserve-container", "server", "mlserver", "triton", "tritonserver")
"""Names of a model server's container, likeliest first; those that `inject` knows."""
_FRAMEWORKS = (
    *("sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx"),
    *("huggingface", "pmml", "lightgbm", "paddle", "model"),
)
_STORED = ("storageUri", "storage", "storageUris")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns the ConfigMap: it goes when that object goes."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One set of replicas. `memory` is its server's limit; None means no limit at all.

    `url` and `internal_url` have no path; None where nothing gives an address.
    """

    number: int
    owner: Owner
    memory: Quantity | None
    ready: bool
    url: str | None = None
    internal_url: str | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """`multi_model` is whether it serves models that are registered later; `protocol` is v1, v2 or other."""

    name: str
    namespace: str
    shards: Mapping[int, Shard]
    multi_model: bool
    protocol: str


def read_parent(
    inference_service: Mapping[str, Any] | None,
    deployments: Sequence[Mapping[str, Any]],
    services: Sequence[Mapping[str, Any]],
) -> Parent | None:
    """Return the parent that these objects make; deployments and services all carry its label.

    With an InferenceService only Deployments of shards above 0 count, for KServe makes one of its own.
    """
    shards: dict[int, Shard] = {}
    multi_model, protocol = True, None
    for deployment in sorted(deployments, key=lambda item: str(_get(item, "metadata", "name"))):
        number = shard_number(deployment)
        if number is None or number in shards or (inference_service is not None and number == 0):
            continue
        shards[number] = _deployment_shard(deployment, number, services)
        protocol = protocol or _environment(server_container(deployment), "PROTOCOL")
    first: Mapping[str, Any] | None = inference_service
    if inference_service is not None:
        predictor = _get(inference_service, "spec", "predictor")
        shards[0] = _service_shard(inference_service)
        multi_model = is_multi_model(predictor)
        protocol = predictor_protocol(predictor)
    elif deployments:
        first = deployments[0]
    if first is None or not shards:
        return None
    labels = _get(first, "metadata", "labels")
    name = _get(first, "metadata", "name") if inference_service is not None else labels.get(PARENT_LABEL)
    return Parent(
        name=str(name),
        namespace=str(_get(first, "metadata", "namespace")),
        shards=dict(sorted(shards.items())),
        multi_model=multi_model,
        protocol=protocol or "v1",
    )


def shard_number(obj: Mapping[str, Any]) -> int | None:
    """Return the shard that an object's label names, 0 without one, None where it is no number."""
    labels = _get(obj, "metadata", "labels")
    text = labels.get(SHARD_LABEL, "0") if isinstance(labels, Mapping) else "0"
    return (
        int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 5 else None
    )


def is_multi_model(predictor: Any) -> bool:
    """Tell whether a predictor serves registered models, as KServe's IsMMSPredictor does."""
    implementation = _implementation(predictor)
    if implementation is None:
        return False
    framework, settings = implementation
    if framework is None:
        first = _list(predictor["containers"])[0]  # the one that KServe looks at
        return any(_environment(each, "MULTI_MODEL_SERVER") == "true" for each in (first, settings))
    if framework == "huggingface" or _get(settings, "modelFormat", "name") == "huggingface":
        return False
    return not any(settings.get(key) for key in _STORED)


def predictor_protocol(predictor: Any) -> str:
    """Return the protocol that a predictor speaks, as KServe works it out."""
    implementation = _implementation(predictor)
    if implementation is None:
        return "v1"
    framework, settings = implementation
    if framework is None:
        return _environment(settings, "PROTOCOL") or "v1"
    return str(settings.get("protocolVersion") or ("v2" if framework == "triton" else "v1"))


def predict_path(protocol: str, name: str) -> str:
    """Return the path of predictions, empty where a protocol has none over HTTP."""
    return {"v1": f"/v1/models/{name}:predict", "v2": f"/v2/models/{name}/infer"}.get(protocol, "")


def server_container(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model server's container: one of the usual names, else the first that is not the agent."""
    return _server_of(_list(_get(deployment, "spec", "template", "spec", "containers")))


def _server_of(containers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    others = [item for item in containers if item.get("name") not in AGENT_CONTAINERS]
    named = {str(item.get("name")): item for item in reversed(others)}
    likely = [named[name] for name in SERVER_CONTAINERS if name in named]
    return next(iter(likely or others), {})


def _service_shard(service: Mapping[str, Any]) -> Shard:
    implementation = _implementation(_get(service, "spec", "predictor"))
    return Shard(
        number=0,
        owner=_owner(service, "serving.kserve.io/v1beta1", "InferenceService"),
        memory=_memory_limit(implementation[1] if implementation else {}),
        ready=_condition(service, "Ready"),
        url=_text(_get(service, "status", "url")),
        internal_url=_text(_get(service, "status", "address", "url")),
    )


def _deployment_shard(
    deployment: Mapping[str, Any], number: int, services: Sequence[Mapping[str, Any]]
) -> Shard:
    url = _service_url(service for service in services if shard_number(service) == number)
    return Shard(
        number=number,
        owner=_owner(deployment, "apps/v1", "Deployment"),
        memory=_memory_limit(server_container(deployment)),
        ready=_condition(deployment, "Available"),
        url=url,
        internal_url=url,
    )


def _service_url(services: Iterable[Mapping[str, Any]]) -> str | None:
    ranked = sorted(
        services,
        key=lambda item: (_get(item, "spec", "clusterIP") == "None", str(_get(item, "metadata", "name"))),
    )
    for service in ranked:
        ports = [port for port in _list(_get(service, "spec", "ports")) if isinstance(port.get("port"), int)]
        port = min(ports, key=_port_rank, default=None)
        if port is None:
            continue
        number = port["port"]
        secure = number == 443 or "https" in {str(port.get("name")), str(port.get("appProtocol"))}
        scheme = "https" if secure else "http"
        shown = "" if number == {"http": 80, "https": 443}[scheme] else f":{number}"
        metadata = service["metadata"]
        return f"{scheme}://{metadata['name']}.{metadata['namespace']}.svc.cluster.local{shown}"
    return None


def _port_rank(port: Mapping[str, Any]) -> int:
    """Tell how likely a Service's port is the one for predictions over HTTP; the least is the likeliest.

    The order of equal ones is that of the Service. Port names begin with their protocol, as Istio has it.
    """
    name, protocol = str(port.get("name") or "http").lower(), str(port.get("appProtocol") or "").lower()
    if any(word in name for word in ("grpc", "metric", "admin", "agent-status", "h2c")) or "grpc" in protocol:
        return 4
    if name in {"http", "https"}:
        return 0
    if name.startswith("http") or protocol in {"http", "https"}:
        return 1
    return 2 if port["port"] in {80, 443, 8080} else 3


def _implementation(predictor: Any) -> tuple[str | None, Mapping[str, Any]] | None:
    """Return the framework and its settings; the framework is None for a container of the user's own."""
    if not isinstance(predictor, Mapping):
        return None
    for framework in _FRAMEWORKS:
        if isinstance(predictor.get(framework), Mapping):
            return framework, predictor[framework]
    containers = _list(predictor.get("containers"))
    return (None, _server_of(containers)) if containers else None


def _memory_limit(container: Mapping[str, Any]) -> Quantity:
    try:
        return parse_quantity(str(_get(container, "resources", "limits", "memory")))
    except ValueError:
        return Quantity(0, Format.BINARY_SI)


def _environment(container: Mapping[str, Any], name: str) -> str | None:
    for variable in _list(container.get("env")):
        if variable.get("name") == name and isinstance(variable.get("value"), str):
            return str(variable["value"])
    return None


def _condition(obj: Mapping[str, Any], kind: str) -> bool:
    conditions = _list(_get(obj, "status", "conditions"))
    return any(item.get("type") == kind and item.get("status") == "True" for item in conditions)


def _owner(obj: Mapping[str, Any], api_version: str, kind: str) -> Owner:
    metadata = obj["metadata"]
    return Owner(api_version, kind, str(metadata.get("name", "")), str(metadata.get("uid", "")))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _get(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
