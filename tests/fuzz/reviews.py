"""Reviews as an API server sends them, and changes of their structure: any node may become anything else.

`changed(data, seed)` is a function of its arguments; what is no JSON comes back as it is, for a fuzzer to
change by bytes.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

GVK = {"group": "serving.kserve.io", "version": "v1alpha1", "kind": "TrainedModel"}
MODEL = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "TrainedModel",
    "metadata": {
        "name": "iris-v2", "namespace": "team-a", "uid": "0f1e", "generation": 2, "resourceVersion": "71",
        "creationTimestamp": "2026-11-02T10:00:00Z", "labels": {"app": "iris"},
        "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
    },
    "spec": {
        "inferenceService": "parent",
        "model": {"storageUri": "s3://bucket/iris/2", "framework": "sklearn", "memory": "256Mi"},
    },
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}  # fmt: skip
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "iris-5d9f-", "namespace": "team-a",
        "labels": {"model-agent/inject": "true", "pod-template-hash": "5d9f"},
        "annotations": {"model-agent/volume-size": "20Gi", "model-agent/server-port": "8080"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "iris-5d9f", "controller": True}],
    },
    "spec": {
        "initContainers": [{"name": "first", "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
        "containers": [
            {
                "name": "kserve-container", "image": "mlserver:1",
                "ports": [{"containerPort": 9000, "name": "grpc"}, {"containerPort": 8080, "name": "http"}],
                "resources": {"limits": {"memory": "2Gi"}}, "env": [{"name": "A", "value": "b"}],
                "volumeMounts": [{"name": "t", "mountPath": "/var/t", "readOnly": True}],
            },
            {"name": "proxy", "image": "envoy"},
        ],
        "volumes": [{"name": "t", "emptyDir": {}}],
        "serviceAccountName": "default",
    },
}  # fmt: skip


def review(obj: Any, old: Any = None, operation: str = "CREATE", version: str = "v1", **more: Any) -> Any:
    """Return a review with all that an API server says in one."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": GVK, "resource": {**GVK, "resource": "x"},
        "requestKind": GVK, "name": "iris-v2", "namespace": "team-a", "operation": operation,
        "userInfo": {"username": "admin", "groups": ["system:masters"], "extra": {"k": ["v"]}},
        "object": obj, "oldObject": old, "dryRun": False, "options": {"kind": "CreateOptions"}, **more,
    }  # fmt: skip
    return {"apiVersion": f"admission.k8s.io/{version}", "kind": "AdmissionReview", "request": request}


REAL = [
    review(MODEL),
    review({**MODEL, "metadata": {**MODEL["metadata"], "name": "a.b"}}, dryRun=True),
    review(MODEL, MODEL, "UPDATE", "v1beta1"),
    review(MODEL, {**MODEL, "spec": {"inferenceService": "parent", "model": {"memory": 1}}}, "UPDATE"),
    review(None, MODEL, "DELETE"),
    review(None, None, "CONNECT", subResource="scale"),
    review(POD),
    review(POD, POD, "UPDATE"),
    review({**POD, "spec": {"containers": POD["spec"]["containers"][1:]}}, dryRun=True),
    review({**POD, "metadata": {**POD["metadata"], "annotations": {"model-agent/classic": "true"}}}),
]

_RAW = {"@@inf@@": "1e999", "@@big@@": "9" * 5000, "@@int@@": "1" + "0" * 400, "@@nan@@": "NaN"}
"""Numbers that Python would not write, or not so."""

_WORDS = (
    *("", " ", "true", "null", "0", "-1", "9" * 5000, "１", "x" * 300, "x" * 5000, "\x00", "a\nb"),
    *(
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "é",
        "e\u0301",
        "../x",
        "a/b~1",
        "%2e",
        "kserve-container",
        "model-agent",
        "Pod",
    ),
    *("CREATE", "UPDATE", "DELETE", "CONNECT", "create", "admission.k8s.io/v1", "AdmissionReview"),
    *(
        "1Gi",
        "0",
        "-5Gi",
        "1e999",
        "NaN",
        "2Ei",
        "9223372036854775808",
        "1_0",
        "s3://b/m",
        "s3://",
        "hdfs://x",
    ),
    *("2026-01-01T00:00:00Z", "http", "grpc", "8080", "65536", "/mnt/models", "/mnt/models/", "ReplicaSet"),
)
_KEYS = (
    *("metadata", "name", "labels", "annotations", "spec", "uid", "operation", "object", "oldObject"),
    *("deletionTimestamp", "containers", "initContainers", "volumes", "volumeMounts", "ports", "dryRun"),
    *("containerPort", "protocol", "resources", "limits", "memory", "model", "storageUri", "framework"),
    *("inferenceService", "ownerReferences", "controller", "kind", "", "a/b~c", "\ud800"),
    *("model-agent/inject", "model-agent/classic", "model-agent/server-port", "model-agent/volume-size"),
    *("model-agent/server-path", "model-agent/config-map", "model-agent/unknown"),
)


def changed(data: bytes, seed: int) -> bytes:
    """Return *data* with one to four changes."""
    try:
        draw = random.Random(seed)  # noqa: S311 - to be the same each time
        return written(_changed(json.loads(data), draw))
    except (ValueError, RecursionError):
        return data


def _changed(document: Any, draw: random.Random) -> Any:
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        holder = {"": document}
        spot = draw.choice(list(_spots(holder)))
        draw.choice(_CHANGES)(draw, *spot, document)
        document = holder[""]
    return document


def written(document: Any) -> bytes:
    """Return JSON, with the numbers that Python does not write."""
    text = json.dumps(document)
    for word, raw in _RAW.items():
        text = text.replace(f'"{word}"', raw)
    return text.encode()


def _spots(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place as its holder and its key there."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        for key, below in node.items() if isinstance(node, dict) else enumerate(node):
            yield node, key
            if isinstance(below, dict | list):
                waiting.append(below)


def _odd(draw: random.Random) -> Any:
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice((None, True, False, 0, -1, 1.5, 2**63, [], {}, [None], {"": None}))
    if kind == 1:
        return draw.choice(tuple(_RAW))
    if kind == 2:
        deep: Any = draw.choice(("", 0, None))
        nest: Callable[[Any], Any] = draw.choice((lambda x: [x], lambda x: {"a": x}))
        for _ in range(draw.choice((5, 100, 400, 900, 940, 960, 980))):
            deep = nest(deep)
        return deep
    return draw.choice(_WORDS)


def _copied(node: Any) -> Any:
    return json.loads(json.dumps(node))


def _replace(draw: random.Random, holder: Any, key: Any, _: Any) -> None:
    holder[key] = _odd(draw)


def _remove(_: random.Random, holder: Any, key: Any, __: Any) -> None:
    if key != "":
        del holder[key]


def _rename(draw: random.Random, holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict) and key != "":
        holder[draw.choice(_KEYS)] = holder.pop(key)


def _add(draw: random.Random, holder: Any, key: Any, _: Any) -> None:
    below = holder[key]
    if isinstance(below, dict):
        below[draw.choice(_KEYS)] = _odd(draw)
    elif isinstance(below, list):
        below.insert(draw.randrange(len(below) + 1), _copied(draw.choice(below)) if below else _odd(draw))
    else:
        holder[key] = [below]


def _graft(draw: random.Random, holder: Any, key: Any, document: Any) -> None:
    """Put a part of this or another review here."""
    other = {"": _copied(draw.choice((document, *REAL)))}
    place, there = draw.choice(list(_spots(other)))
    holder[key] = place[there]


_CHANGES = (_replace, _replace, _replace, _remove, _rename, _add, _graft)
