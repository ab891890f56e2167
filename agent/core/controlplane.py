"""What is to be written for one parent, decided from one reading of everything that concerns it.

Pure and repeatable: the same reading gives the same decision, and once it is carried out the next
reading gives an empty one. A crash between any two writes is only another reading.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agent.core.configmaps import DATA_KEY, config_map, foreign_writer, listed_models, needs_writing
from agent.core.model import ModelName
from agent.core.model import ModelSpec as Entry
from agent.core.modelstatus import (
    PodReport,
    any_failed,
    loaded_condition,
    loaded_on,
    model_status,
    refused_status,
    same_status,
    timed,
    with_times,
)
from agent.core.parents import Parent, read_parent
from agent.core.placement import Placement, Refusal, entry, place
from agent.core.quantity import parse_quantity
from agent.core.reasons import Reason
from agent.core.trainedmodel import (
    KSERVE_FINALIZER,
    Condition,
    ModelSpec,
    TrainedModel,
    TrainedModelSpec,
    TrainedModelStatus,
    UnreadableObjectError,
    parse,
    parse_status,
)
from agent.core.uri import redacted
from agent.core.validation import Fault, faults

Object = Mapping[str, Any]
_NOWHERE = Placement({}, {}, {}, {}, {})
_NOTHING: Mapping[int, Refusal] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Checked:
    """A stored TrainedModel, read once: what is wrong with it, and the model; a shell if not `readable`."""

    obj: Object
    model: TrainedModel
    faults: tuple[Fault, ...]
    readable: bool = True

    @property
    def is_going(self) -> bool:
        """Tell whether it was deleted and only finalizers keep it."""
        return bool(self.obj["metadata"].get("deletionTimestamp"))


def check(obj: Object) -> Checked:
    """Read a stored object, whatever its shape."""
    try:
        model, readable = parse(obj), True
    except UnreadableObjectError:
        model, readable = _shell(obj), False
    return Checked(obj, model, faults({**obj, "status": None}), readable)


def needs_digest(item: Checked) -> bool:
    """Tell whether agents do not show all of a model's URI, so that the stored document has to be read."""
    uri = item.model.spec.model.storage_uri
    return redacted(uri) != uri


@dataclass(frozen=True, slots=True)
class Reading:
    """All that concerns one parent: the objects as they are stored, and what its ready pods' agents say.

    `models` are the TrainedModels that name it; `config_maps` its ConfigMaps by shard. Lists that KServe's
    controller wrote until `taken_over`, a time in RFC 3339, are ours all the same.
    """

    namespace: str
    name: str
    models: Sequence[Checked]
    inference_service: Object | None = None
    deployments: Sequence[Object] = ()
    services: Sequence[Object] = ()
    config_maps: Mapping[int, Object] = field(default_factory=dict)
    reports: Sequence[PodReport] = ()
    taken_over: str | None = None


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """A status to write over that of `obj`; `before` is what it said.

    `failing` tells that a replica failed, where no condition does.
    """

    obj: Object
    status: TrainedModelStatus
    before: TrainedModelStatus | None
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write once the ConfigMaps are: statuses and finalizers, each only where it differs.

    `unsettled` tells that something is on its way, so that agents are asked again soon.
    """

    statuses: Sequence[StatusWrite] = ()
    finalizers: Sequence[Object] = ()
    unsettled: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each model goes: `config_maps` are to be written first, for they are what agents wait for.

    `foreign` are the field managers of ConfigMaps that are not ours to write, `digests` those of the
    documents that each shard's agents should come to have.
    """

    parent: Parent | None
    placement: Placement
    foreign: Mapping[int, str]
    digests: Mapping[int, str]
    config_maps: Mapping[int, Object]


def parent_of(reading: Reading) -> Parent | None:
    """Return the parent of a reading."""
    return read_parent(reading.inference_service, reading.deployments, reading.services)


def lay_out(reading: Reading) -> Layout:
    """Decide which model is listed where, and which ConfigMaps are to be written for that."""
    parent = parent_of(reading)
    writers = {n: foreign_writer(obj, reading.taken_over) for n, obj in reading.config_maps.items()}
    foreign = {number: manager for number, manager in writers.items() if manager is not None}
    placement, maps = _NOWHERE, {}
    if parent is not None and parent.multi_model:
        placement = _place(parent, reading)
        maps = {
            number: config_map(reading.name, reading.namespace, parent.shards[number], models)
            for number, models in placement.lists.items()
        }
    return Layout(
        parent=parent,
        placement=placement,
        foreign=foreign,
        digests={number: _digest(obj) for number, obj in maps.items()},
        config_maps={
            number: obj
            for number, obj in maps.items()
            if number not in foreign and needs_writing(obj, reading.config_maps.get(number))
        },
    )


def decide(reading: Reading, layout: Layout, now: str, failed: Mapping[int, Refusal] = _NOTHING) -> Decision:
    """Decide what to say of each model. *now* is the time for conditions that change, RFC 3339.

    *failed* says of shards why their ConfigMap could not be read or written.
    """
    foreign = {n: Refusal(Reason.FOREIGN_WRITER, _foreign_words(who)) for n, who in layout.foreign.items()}
    withheld = foreign | dict(failed)
    writes: list[StatusWrite] = []
    for item in reading.models:
        if item.is_going:
            continue
        if item.faults:
            uri = item.model.spec.model.storage_uri
            words = "; ".join(str(fault) for fault in item.faults)
            words = words.replace(uri, redacted(uri)) if uri else words
            status = refused_status(item.model, Reason.INVALID_SPEC, words)
        else:
            status = model_status(
                item.model, layout.parent, layout.placement, reading.reports, layout.digests, withheld
            )
        before = item.model.status
        writes.append(StatusWrite(item.obj, with_times(status, before, now), before))
    return Decision(
        statuses=[
            write
            for write in writes
            if not same_status(write.status.to_json(), write.obj.get("status") or {})
        ],
        finalizers=[item.obj for item in reading.models if _is_held_by_kserve(item.obj)],
        unsettled=any(write.status.condition("Reconciling") for write in writes),
    )


def decide_status_only(reading: Reading, now: str) -> Decision:
    """Decide the Loaded condition alone, for a cluster in which KServe's own controller does the rest.

    Each status holds all conditions that are there, for KServe's list of them is one value.
    """
    writes = []
    unsettled = False
    stored = reading.config_maps.get(0)
    listed = listed_models(stored)
    for item in reading.models:
        if item.is_going or not item.readable:
            continue
        model = item.model
        generation = model.metadata.get("generation")
        theirs = listed.get(ModelName(model.name)) == entry(model)
        digest = _digest(stored) if stored is not None and theirs else None
        condition = loaded_condition(model, reading.reports, generation, digest)
        loaded = timed(condition, model.status, now)
        before = model.status.condition("Loaded") if model.status is not None else None
        unsettled |= loaded.status != "True"
        if before is None or _without_generation(before) != _without_generation(loaded):
            there = model.status.conditions if model.status is not None else ()
            others = [other for other in there if other.type != "Loaded"]
            status = TrainedModelStatus(tuple(sorted([*others, loaded], key=lambda one: one.type)))
            failing = any_failed(model, reading.reports, digest)
            writes.append(StatusWrite(item.obj, status, model.status, failing))
    return Decision(statuses=writes, unsettled=unsettled)


def _without_generation(item: Condition) -> tuple[str, str, str]:
    """Return what is compared: KServe's schema has no observedGeneration in a condition and drops it."""
    return item.status, item.reason, item.message


def _as_listed(metadata: Object, parent: str, spec: Entry) -> TrainedModel:
    """Return a model as a ConfigMap still lists it: a bad spec, or one without room, takes nothing."""
    memory = spec.memory or "0"
    model = ModelSpec(spec.storage_uri, spec.framework, parse_quantity(memory), memory)
    return TrainedModel(metadata, TrainedModelSpec(parent, model))


def _shell(obj: Object) -> TrainedModel:
    """Return a model for an object that is not readable: enough for a status."""
    status = obj.get("status")
    plain = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": obj["metadata"],
        "spec": {"inferenceService": "", "model": {"storageUri": "", "framework": "", "memory": 0}},
    }
    known = parse(plain)
    parsed = parse_status(status) if isinstance(status, Mapping) else None
    return TrainedModel(known.metadata, known.spec, parsed)


def _told_shard(model: TrainedModel) -> int | None:
    """Return the shard that the status of the very spec gives, None where it gives none."""
    status = model.status
    if status is None or status.observed_generation != model.metadata.get("generation"):
        return None
    shard = status.extra.get("shard")
    return shard if type(shard) is int else None


def _place(parent: Parent, reading: Reading) -> Placement:
    here = [item for item in reading.models if not item.is_going]
    live = [item.model for item in here if not item.faults]
    lists = {number: listed_models(obj) for number, obj in sorted(reading.config_maps.items())}
    listed: dict[str, set[int]] = {}
    entries: dict[str, Entry] = {}
    for number, specs in lists.items():
        for name, spec in specs.items():
            listed.setdefault(name, set()).add(number)
            entries.setdefault(name, spec)
    kept = [
        _as_listed(item.obj["metadata"], reading.name, entries[item.model.name])
        for item in here
        if item.faults and item.model.name in entries
    ]
    former = {
        model.name: _as_listed(model.metadata, reading.name, entries[model.name])
        for model in live
        if model.name in entries and entries[model.name] != entry(model)
    }
    for model in live:
        told = _told_shard(model)
        if model.name not in listed and told is not None:
            listed[model.name] = {told}  # its list was deleted or spoilt; its status remembers
    stored = {number: _digest(obj) for number, obj in reading.config_maps.items()}

    def says(number: int, model: TrainedModel) -> bool:
        return lists[number].get(ModelName(model.name)) == entry(model)

    loaded = {
        (model.name, number)
        for model in live
        if len(listed.get(model.name, ())) > 1
        for number in listed[model.name]
        if loaded_on(number, model, reading.reports, stored if says(number, model) else {})
    }
    return place([*live, *kept], parent.shards, listed, loaded, former)


def _digest(obj: Object) -> str:
    return hashlib.sha256(str((obj.get("data") or {}).get(DATA_KEY)).encode()).hexdigest()


def _foreign_words(manager: str) -> str:
    return (
        f"the ConfigMap is written by the field manager {manager!r}, which is KServe's own controller; it is "
        "left alone: run this controller with --status-only; or stop the other, then start this one once "
        "with --take-over"
    )


def _is_held_by_kserve(obj: Object) -> bool:
    metadata = obj["metadata"]
    return bool(metadata.get("deletionTimestamp")) and KSERVE_FINALIZER in (metadata.get("finalizers") or ())
