"""The sidecar in a pod: ONE description of its container, its volumes and what the model server gets of them.

Pure: Kubernetes objects as dicts come in, new ones go out. Injecting twice is injecting once. The agent has
the volume's root and keeps its store there; the server sees the sub-path `models` alone, read-only (design
§5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.core.parents import SERVER_CONTAINERS
from agent.core.quantity import parse_quantity

NAME = "model-agent"
CONFIG_VOLUME = "model-agent-config"
ROOT, CONFIGS = "/mnt/model-agent", "/mnt/configs"
STATUS_PORT, STATUS_PORT_NAME = 9082, "agent-status"
_PODS_WITH_TEMPLATE = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"})
_PLACE = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
}
_NOT_HTTP = ("grpc", "metrics", "http2", "h2c", "queue")


class InjectError(ValueError):
    """A pod that the sidecar cannot be put into as asked; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to inject. `config_map` None: named after the workload; `server_port` None: found out.

    `native`: an init container that restarts always (Kubernetes 1.29), started before the server and ended
    after it; else a classic container. `volume_size` bounds the volume and, below it, the downloads.
    """

    image: str = "model-agent:0.1.0"
    config_map: str | None = None
    server_container: str | None = None
    server_port: int | None = None
    server_path: str = "/mnt/models"
    native: bool = True
    volume_size: str | None = None


@dataclass(frozen=True, slots=True)
class Injected:
    """The new object, and what was done, a line each."""

    manifest: dict[str, Any]
    notes: tuple[str, ...]


def inject(manifest: Mapping[str, Any], options: Options) -> Injected | None:
    """Put the sidecar into the object's pod, or into each of a List; None for a kind that has none.

    Raises InjectError.
    """
    name = str(_mapping(manifest, "metadata").get("name") or NAME)
    kind = manifest.get("kind")
    if kind == "List":
        return _list(manifest, options)
    if kind == "Pod":
        pod, notes = _pod(manifest.get("spec"), name, options)
        return Injected({**manifest, "spec": pod}, notes)
    if kind == "PodTemplate":
        template = manifest.get("template")
    elif kind in _PODS_WITH_TEMPLATE:
        template = _mapping(manifest, "spec").get("template")
    else:
        return None
    if not isinstance(template, Mapping):
        raise InjectError(f"{kind} {name} has no pod template")
    pod, notes = _pod(template.get("spec"), name, options)
    changed = {**template, "spec": pod}
    if kind == "PodTemplate":
        return Injected({**manifest, "template": changed}, notes)
    return Injected({**manifest, "spec": {**manifest["spec"], "template": changed}}, notes)


def _list(manifest: Mapping[str, Any], options: Options) -> Injected | None:
    items: list[Any] = []
    notes: list[str] = []
    found = False
    for item in manifest.get("items") or ():
        injected = inject(item, options) if isinstance(item, Mapping) else None
        items.append(item if injected is None else injected.manifest)
        if injected is not None:
            found = True
            name = f"{item['kind']} {(item.get('metadata') or {}).get('name', '')}".rstrip()
            notes += (f"{name}: {note}" for note in injected.notes)
    return Injected({**manifest, "items": items}, tuple(notes)) if found else None


def patch(options: Options) -> dict[str, Any]:
    """Return the same as a strategic merge patch for a Deployment, as kustomize takes it.

    The server's container must have the name that *options* give, `server` where they give none.
    """
    name = options.server_container or "server"
    place = "initContainers" if options.native else "containers"
    pod: dict[str, Any] = {
        "containers": [{"name": name, "volumeMounts": [_server_mount(options)]}],
        "volumes": _volumes(options.config_map or f"modelconfig-{NAME}-0", options),
    }
    pod[place] = [*pod.get(place, []), container(options, name, options.server_port, budget=True)]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": pod}},
    }


def container(options: Options, server: str, port: int | None, *, budget: bool) -> dict[str, Any]:
    """Return the sidecar's container beside the container *server*, whose memory limit is the *budget*."""
    limit = {"containerName": server, "resource": "limits.memory"}
    env: list[dict[str, Any]] = []
    if budget:
        env.append({"name": "MODELAGENT_MEMORY_BUDGET", "valueFrom": {"resourceFieldRef": limit}})
    if options.volume_size:
        env.append({"name": "MODELAGENT_DISK_BUDGET", "value": str(_bytes(options.volume_size) * 9 // 10)})
    return {
        "name": NAME,
        "image": options.image,
        **({"restartPolicy": "Always"} if options.native else {}),
        "args": [
            "run",
            f"--config-dir={CONFIGS}",
            f"--model-dir={ROOT}/models",
            f"--store-dir={ROOT}/store",
            *([f"--server-url=http://127.0.0.1:{port}"] if port else []),
            "--status-host=0.0.0.0",
            "--deny-address=metadata,loopback",
            f"--status-port={STATUS_PORT}",
        ],
        "env": [*env, *_place()],
        "ports": [{"name": STATUS_PORT_NAME, "containerPort": STATUS_PORT, "protocol": "TCP"}],
        # Up and turning, never "loaded": the server starts only after this one passed.
        "startupProbe": {**_asked("/healthz"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {
            **_asked("/healthz"),
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {**_asked("/readyz"), "periodSeconds": 5},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": NAME, "mountPath": ROOT},
            {"name": CONFIG_VOLUME, "mountPath": CONFIGS, "readOnly": True},
        ],
    }


def _place() -> list[dict[str, Any]]:
    return [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _PLACE.items()]


def _asked(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": STATUS_PORT_NAME}}


def _pod(spec: Any, name: str, options: Options) -> tuple[dict[str, Any], tuple[str, ...]]:
    if not isinstance(spec, Mapping) or not spec.get("containers"):
        raise InjectError(f"{name} has no containers to put the sidecar beside")
    _check_shape(spec, name)
    if not options.image:
        raise InjectError("the sidecar's image has no name: leave --image out, or name one")
    if not options.server_path.startswith("/"):
        raise InjectError(f"{options.server_path!r} is no absolute path to mount the models at")
    notes: list[str] = []
    server = _server(spec["containers"], name, options, notes)
    port = options.server_port or _http_port(server, notes)
    limited = "memory" in ((server.get("resources") or {}).get("limits") or {})
    config_map = options.config_map or f"modelconfig-{name}-0"
    sidecar = container(options, server["name"], port, budget=limited)
    others = [each for each in spec["containers"] if each.get("name") != NAME]
    containers = [_with_models(each, options) if each is server else _without_models(each) for each in others]
    init = [dict(each) for each in spec.get("initContainers") or () if each.get("name") != NAME]
    (init if options.native else containers).append(sidecar)
    rest = [each for each in spec.get("volumes") or () if each.get("name") not in (NAME, CONFIG_VOLUME)]
    pod = {**spec, "containers": containers, "volumes": [*rest, *_volumes(config_map, options)]}
    pod.pop("initContainers", None)
    if init:
        pod["initContainers"] = init
    notes += _told(server["name"], config_map, limited=limited, options=options)
    return pod, tuple(notes)


def _mapping(where: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return what is an object, or absent; raises InjectError for anything else."""
    found = where.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise InjectError(f"{key} is no object")
    return found or {}


def _check_shape(spec: Mapping[str, Any], name: str) -> None:
    """Refuse what no API server would take, before it is looked into."""
    for key in ("containers", "initContainers", "volumes"):
        _listed(spec, key, name)
    for each in (*spec["containers"], *(spec.get("initContainers") or ())):
        if not isinstance(each.get("name"), str) or not each["name"]:
            raise InjectError(f"{name} has a container without a name")
    for each in spec["containers"]:
        for key in ("volumeMounts", "ports"):
            _listed(each, key, each["name"])
        for port in each.get("ports") or ():
            number = port.get("containerPort")
            if not isinstance(number, int) or not 0 < number < 65536:
                raise InjectError(f"{each['name']}: a containerPort is no port")
        _mapping(_mapping(each, "resources"), "limits")


def _listed(where: Mapping[str, Any], key: str, name: str) -> None:
    found = where.get(key) or []
    if not isinstance(found, list | tuple) or not all(isinstance(each, Mapping) for each in found):
        raise InjectError(f"{name}: {key} is no list of objects")


def _told(server: str, config_map: str, *, limited: bool, options: Options) -> list[str]:
    kind = (
        "a native sidecar: it is up before the server and ends after it" if options.native else "a container"
    )
    return [
        f"the container {NAME} is {kind}",
        f"{server} sees the models at {options.server_path}, read-only",
        f"the models are those of models.json in the ConfigMap {config_map}",
        f"the memory budget is {server}'s own limits.memory"
        if limited
        else f"there is no memory budget: {server} has no limits.memory",
        f"/status, /readyz and /metrics are on port {STATUS_PORT} ({STATUS_PORT_NAME})",
    ]


def _server(
    containers: Sequence[Mapping[str, Any]], name: str, options: Options, notes: list[str]
) -> Mapping[str, Any]:
    named = {str(each.get("name")): each for each in containers if each.get("name") != NAME}
    if options.server_container is not None:
        if options.server_container not in named:
            raise InjectError(
                f"{name} has no container {options.server_container!r}; it has {', '.join(named)}"
            )
        return named[options.server_container]
    if not named:
        raise InjectError(f"{name} has no containers to put the sidecar beside")
    found = next((named[each] for each in SERVER_CONTAINERS if each in named), next(iter(named.values())))
    if len(named) > 1:
        notes.append(f"the model server is taken to be {found['name']}; --server-container names another")
    return found


def _http_port(server: Mapping[str, Any], notes: list[str]) -> int | None:
    ports = [each for each in server.get("ports") or () if each.get("protocol", "TCP") == "TCP"]
    http = [each for each in ports if not str(each.get("name") or "").startswith(_NOT_HTTP)]
    if not http:
        notes.append(
            "the server names no http port: the agent looks for it on 8080; --server-port names another"
        )
        return None
    port: int = http[0]["containerPort"]
    return port


def _with_models(server: Mapping[str, Any], options: Options) -> dict[str, Any]:
    mounts = [each for each in server.get("volumeMounts") or () if each.get("name") != NAME]
    for each in mounts:
        if str(each.get("mountPath")).rstrip("/") == options.server_path.rstrip("/"):
            raise InjectError(
                f"{server['name']} already mounts {each.get('name')} at {options.server_path}; take that"
                " mount away, or name another folder with --server-path"
            )
    return {**server, "volumeMounts": [*mounts, _server_mount(options)]}


def _without_models(other: Mapping[str, Any]) -> dict[str, Any]:
    """Take away what an earlier injection gave to a container that is not the server now."""
    mounts = [each for each in other.get("volumeMounts") or () if each.get("name") != NAME]
    rest = {key: value for key, value in other.items() if key != "volumeMounts"}
    return {**rest, "volumeMounts": mounts} if mounts else rest


def _server_mount(options: Options) -> dict[str, Any]:
    return {"name": NAME, "mountPath": options.server_path, "subPath": "models", "readOnly": True}


def _volumes(config_map: str, options: Options) -> list[dict[str, Any]]:
    size = {"sizeLimit": options.volume_size} if options.volume_size else {}
    # Optional: the pod comes up before its ConfigMap is there, and /readyz says that it is missing.
    return [
        {"name": NAME, "emptyDir": size},
        {"name": CONFIG_VOLUME, "configMap": {"name": config_map, "optional": True}},
    ]


def _bytes(text: str) -> int:
    try:
        size = parse_quantity(text).bytes_ceil()
    except ValueError:
        size = 0
    if size <= 0:
        raise InjectError(f"{text!r} is no size for a volume, such as 20Gi")
    return size
