"""`model-agent validate` and `model-agent render`: what the control plane would say of files.

Both decide with the functions of the webhook and the controller, and read no cluster. Exit code 0, or 1
where anything is refused.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from agent.controller.documents import DocumentError, dump_documents, load_documents, objects
from agent.core.configmaps import DATA_KEY, config_map
from agent.core.modelconfig import ConfigError, desired_state
from agent.core.parents import PARENT_LABEL, Owner, Parent, Shard, read_parent
from agent.core.placement import place
from agent.core.trainedmodel import API_VERSION, KIND, TrainedModel, parse
from agent.core.uri import BUILT_IN_SCHEMES, scheme_of
from agent.core.validation import Fault, faults

STDIN = "-"
_EXTRAS = {"s3": ("boto3", "s3"), "gs": ("google.cloud.storage", "gcs")}
_CHECKED = "no TrainedModel, no ConfigMap with models.json, and no list of models"
_LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Found:
    """One object of a file; `place` says which, for people."""

    place: str
    value: Any


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported here, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def validate_files(
    paths: Sequence[str], out: TextIO, err: TextIO, installed: Callable[[str], bool] = is_installed
) -> int:
    """Check every TrainedModel, model ConfigMap and bare models.json in the files ("-" is standard input).

    Writes a line a fault, `FILE: document N: FIELD: MESSAGE`, to *err*, and one line of summary to
    *out*. Objects of other kinds are passed over. A scheme whose package is not *installed* here is a
    warning alone, for the agent runs elsewhere.
    """
    checked = wrong = 0
    schemes: set[str] = set()
    for path in paths:
        try:
            text, before = _read(path), checked
            for found in _found(path, text):
                checked_here, problems = _check(found.value, text)
                schemes |= _schemes(found.value, text)
                checked += checked_here
                wrong += bool(problems)
                err.writelines(f"{found.place}: {problem}\n" for problem in problems)
            if checked == before:
                err.write(f"warning: {path} holds nothing to check: {_CHECKED}\n")
        except (OSError, ValueError) as error:
            wrong += 1
            err.write(f"{path}: {_words(error)}\n")
    for scheme, (module, extra) in _EXTRAS.items():
        if scheme in schemes and not installed(module):
            err.write(f"warning: {scheme}:// needs {module} where the agent runs: model-agent[{extra}]\n")
    known = ", ".join(BUILT_IN_SCHEMES)
    err.writelines(
        f"warning: {scheme}:// needs a package of fsspec where the agent runs; built in are {known}\n"
        for scheme in sorted(schemes - {*BUILT_IN_SCHEMES, ""})
    )
    out.write(f"{checked} checked, {wrong} with faults\n")
    return 1 if wrong else 0


def render_files(paths: Sequence[str], isvc: str | None, out: TextIO, err: TextIO) -> int:
    """Write the ConfigMaps that the controller would write for the TrainedModels in the files, as YAML.

    Parents in the same files give memory and shards; a parent that is not there is taken as one shard
    without a limit. *isvc* leaves the others out. Refusals are explained on *err*.
    """
    found: list[_Found] = []
    for path in paths:
        try:
            found += _found(path, _read(path))
        except (OSError, ValueError) as error:
            err.write(f"{path}: {_words(error)}\n")
            return 1
    refused = 0
    models: dict[tuple[str, str], list[TrainedModel]] = {}
    for item in found:
        if not _is_kind(item.value, KIND):
            continue
        problems = faults(item.value)
        refused += bool(problems)
        err.writelines(f"{item.place}: {problem}\n" for problem in problems)
        if not problems:
            model = parse(item.value)
            if isvc in {None, model.spec.inference_service}:
                models.setdefault((model.namespace, model.spec.inference_service), []).append(model)
    maps = []
    for (namespace, name), theirs in sorted(models.items()):
        parent = _parent(namespace, name, [item.value for item in found])
        placement = place(theirs, parent.shards, {}, ())
        for refused_name, refusal in sorted(placement.refused.items()):
            refused += 1
            err.write(f"{namespace}/{refused_name}: {refusal.reason}: {refusal.message}\n")
        maps += [
            config_map(name, namespace, parent.shards[number], listed)
            for number, listed in placement.lists.items()
        ]
    if not maps and not refused:
        of = f" of the InferenceService {isvc}" if isvc is not None else ""
        err.write(f"warning: there is nothing to render: no TrainedModel{of} is in {', '.join(paths)}\n")
    out.write(dump_documents(maps))
    return 1 if refused else 0


def _check(value: Any, text: str) -> tuple[int, list[Fault]]:
    """Return how many things were checked, and what is wrong with them."""
    if _is_kind(value, KIND):
        return 1, list(faults(value))
    listed = _models_json(value, text)
    if listed is not None:
        return 1, _config_faults(listed)
    return (0, []) if isinstance(value, Mapping) else (1, [Fault("document", "it is no object and no list")])


def _schemes(value: Any, text: str) -> set[str]:
    """Return the schemes of what an agent would take of an object."""
    if _is_kind(value, KIND):
        uris = [] if faults(value) else [value["spec"]["model"]["storageUri"]]
    else:
        listed = _models_json(value, text)
        try:
            state = (
                desired_state(listed.encode("utf-8", "surrogatepass"), None) if listed is not None else None
            )
        except ConfigError:
            state = None
        uris = [spec.storage_uri for spec in state.models.values()] if state is not None else []
    return {scheme_of(uri) or "" for uri in uris}


def _models_json(value: Any, text: str) -> str | None:
    """Return the models.json that an object is or holds, None where there is none."""
    if isinstance(value, list):
        return text
    data = value.get("data") if _is_kind(value, "ConfigMap") else None
    listed = data.get(DATA_KEY) if isinstance(data, Mapping) else None
    return listed if isinstance(listed, str) else None


def _config_faults(text: str) -> list[Fault]:
    try:
        state = desired_state(text.encode("utf-8", "surrogatepass"), None)
    except ConfigError as error:
        return [Fault(DATA_KEY, f"{error.reason}: {error.message}")]
    return [
        Fault(f"{DATA_KEY} {rejection.name or '(no name)'}", f"{rejection.reason}: {rejection.message}")
        for rejection in state.rejected
    ]


def _found(path: str, text: str) -> Iterator[_Found]:
    if text.lstrip("\ufeff \t\r\n").startswith("["):
        yield _Found(f"{path}: document 1", [])  # a bare models.json, which has a reader of its own
        return
    for number, document in enumerate(load_documents(text), start=1):
        for index, value in enumerate(objects(document), start=1):
            name = value.get("metadata") if isinstance(value, Mapping) else None
            named = f" ({name['name']})" if isinstance(name, Mapping) and "name" in name else ""
            item = f" item {index}" if value is not document else ""
            yield _Found(f"{path}: document {number}{item}{named}", value)


def _parent(namespace: str, name: str, values: Iterable[Any]) -> Parent:
    here = [value for value in values if isinstance(value, Mapping) and _namespace(value) == namespace]
    service = next(
        (v for v in here if _is_kind(v, "InferenceService") and v["metadata"].get("name") == name), None
    )
    labelled = [value for value in here if _labels(value).get(PARENT_LABEL) == name]
    deployments = [value for value in labelled if _is_kind(value, "Deployment")]
    parent = read_parent(service, deployments, [value for value in labelled if _is_kind(value, "Service")])
    if parent is None:
        only = Shard(0, Owner("", "", name, ""), None, ready=False)
        return Parent(name, namespace, {0: only}, multi_model=True, protocol="v1")
    return replace(parent, name=name, namespace=namespace)


def _is_kind(value: Any, kind: str) -> bool:
    if not isinstance(value, Mapping) or value.get("kind") != kind:
        return False
    return (
        isinstance(value.get("metadata"), Mapping) or kind == KIND or value.get("apiVersion") == API_VERSION
    )


def _namespace(value: Mapping[str, Any]) -> str:
    metadata = value.get("metadata")
    return str(metadata.get("namespace", "default")) if isinstance(metadata, Mapping) else "default"


def _labels(value: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = value.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return labels if isinstance(labels, Mapping) else {}


def _read(path: str) -> str:
    if path == STDIN:
        raw = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with Path(path).open("rb") as file:
            raw = file.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise DocumentError(f"it is larger than {_LARGEST} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 at byte {error.start}") from error


def _words(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
