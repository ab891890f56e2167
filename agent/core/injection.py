"""What a pod says of the sidecar that it wants, and the change as a JSON patch. Pure.

A pod asks by the label `model-agent/inject: "true"`; its annotations are the options of `model-agent inject`
by their names. The same function as the command's does the rest.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.core.inject import NAME, InjectError, Options, inject

LABEL = "model-agent/inject"
_ANNOTATIONS = ("config-map", "server-container", "server-port", "server-path", "volume-size", "classic")
_ANNOTATED = {f"model-agent/{name}": name for name in _ANNOTATIONS}
_HASH = "pod-template-hash"


def wanted(pod: Mapping[str, Any]) -> bool:
    """Whether a pod asks for the sidecar."""
    return _metadata(pod, "labels").get(LABEL) == "true"


def patch_of(pod: Mapping[str, Any], given: Options) -> list[dict[str, Any]]:
    """Return the JSON patch (RFC 6902) that puts the sidecar into a pod. Raises InjectError."""
    options = options_of(pod, given)
    named = {**pod, "metadata": {**(pod.get("metadata") or {}), "name": workload(pod)}, "kind": "Pod"}
    injected = inject(named, options)
    if injected is None:
        raise InjectError("this is no pod")
    old, new = pod["spec"], injected.manifest["spec"]
    changed = [
        {"op": "add", "path": f"/spec/{key}", "value": value}
        for key, value in new.items()
        if old.get(key) != value
    ]
    return [*changed, *({"op": "remove", "path": f"/spec/{key}"} for key in old if key not in new)]


def options_of(pod: Mapping[str, Any], given: Options) -> Options:
    """Return *given* with what the pod's annotations say. Raises InjectError for one that cannot be read."""
    said = {
        _ANNOTATED[key]: value
        for key, value in _metadata(pod, "annotations").items()
        if key in _ANNOTATED and isinstance(value, str)
    }
    unknown = [key for key in _metadata(pod, "annotations") if key.startswith("model-agent/")]
    for key in unknown:
        if key not in _ANNOTATED:
            raise InjectError(f"the annotation {key} is none of {', '.join(_ANNOTATED)}")
    port = said.get("server-port")
    if port is not None and not (
        port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536
    ):
        raise InjectError(f"the annotation model-agent/server-port {port[:63]!r} is no port")
    return replace(
        given,
        config_map=said.get("config-map") or given.config_map,
        server_container=said.get("server-container") or given.server_container,
        server_port=int(port) if port else given.server_port,
        server_path=said.get("server-path") or given.server_path,
        volume_size=said.get("volume-size") or given.volume_size,
        native=given.native and said.get("classic") != "true",
    )


def workload(pod: Mapping[str, Any]) -> str:
    """Return the name of what made a pod: its Deployment, StatefulSet and so on, else its own."""
    metadata = pod.get("metadata") or {}
    owners = metadata.get("ownerReferences")
    known = owners if isinstance(owners, list | tuple) else ()
    owner = next((each for each in known if isinstance(each, Mapping) and each.get("controller")), {})
    name = str(owner.get("name") or metadata.get("name") or NAME)
    made_from = _metadata(pod, "labels").get(_HASH)
    return name.removesuffix(f"-{made_from}") if owner.get("kind") == "ReplicaSet" else name


def _metadata(pod: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = (pod.get("metadata") or {}).get(key)
    return found if isinstance(found, Mapping) else {}
