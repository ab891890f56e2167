"""The status of a TrainedModel: KServe's three conditions, what the agents say, and Ready over all four.

Ready is never said of what no server confirmed: `Loaded` counts the replicas whose agent serves the
wanted spec. `Reconciling` and `Stalled` are present only while True, since KServe counts any False
condition against Ready (design §8.16).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from agent.core.parents import Parent, predict_path
from agent.core.placement import Placement, Refusal, entry
from agent.core.reasons import Reason
from agent.core.trainedmodel import Condition, TrainedModel, TrainedModelStatus
from agent.core.uri import redacted

MAX_MESSAGE = 1024
OUR_CONDITIONS = frozenset(
    {
        "InferenceServiceReady",
        "IsMMSPredictor",
        "MemoryResourceAvailable",
        "Loaded",
        "Ready",
        "Reconciling",
        "Stalled",
    }
)
PRUNED_FIELDS = frozenset({"loaded", "replicas", "shard"})
"""What KServe's CRD does not have, and so does not keep."""
OUR_FIELDS = frozenset({"url", "address", "observedGeneration"}) | PRUNED_FIELDS
_NOTHING: Mapping[int, Refusal] = MappingProxyType({})
_SERVICE_MESSAGE = "Inference Service needs to be ready before Trained Model can be ready"
_PREDICTOR_MESSAGE = "Inference Service predictor is not configured for multi-model serving"


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What one agent says of one model; `reason` is null only where it is ready and up to date.

    `current` is whether the served revision is the wanted one, which it may be with a reason, too.
    """

    phase: str
    ready: bool
    reason: str | None
    message: str | None
    storage_uri: str | None
    framework: str | None
    memory: str | None
    current: bool = False


@dataclass(frozen=True, slots=True)
class PodReport:
    """What one ready pod's agent answered; `problem` says why it did not.

    `digest` is that of the document from which it made what it says of its models.
    """

    pod: str
    shard: int
    models: Mapping[str, ModelReport]
    rejected: Mapping[str, tuple[str, str]]
    digest: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many ready pods there are, and what they say of one model."""

    desired: int
    loaded: int
    failed: int
    unknown: int

    def to_json(self) -> dict[str, int]:
        """Return the object that stands in the status."""
        return {
            "desired": self.desired,
            "loaded": self.loaded,
            "failed": self.failed,
            "unknown": self.unknown,
        }


@dataclass(frozen=True, slots=True)
class _Word:
    """What one pod says of one model: loaded, failed, unknown or on its way."""

    pod: str
    kind: str
    reason: str
    message: str


def serves(report: PodReport, model: TrainedModel, digest: str | None, *, proved: bool = False) -> bool:
    """Tell whether a pod serves what the model's object wants now.

    What the agent shows must be the wanted spec, and not one that stays because the wanted one was
    rejected. It shows URIs without their query; where there is one, the document's digest is asked too,
    but of a pod that was *proved* to serve just this.
    """
    said = report.models.get(model.name)
    if said is None or not said.ready or not (said.current or said.reason is None):
        return False
    wanted = entry(model)
    shown = redacted(wanted.storage_uri)
    if model.name in report.rejected or (said.storage_uri, said.framework, said.memory) != (
        shown,
        wanted.framework,
        wanted.memory,
    ):
        return False
    return shown == wanted.storage_uri or proved or (digest is not None and report.digest == digest)


def _was_proved(model: TrainedModel, number: int, replicas: int) -> bool:
    """Tell whether the status says of this very spec that as many replicas of the shard all served it."""
    status = model.status
    loaded = status.condition("Loaded") if status is not None else None
    if status is None or loaded is None or loaded.status != "True":
        return False
    said = status.extra.get("replicas")
    return (
        status.observed_generation == model.metadata.get("generation")
        and status.extra.get("shard") == number
        and isinstance(said, Mapping)
        and said.get("desired") == replicas
    )


def model_status(
    model: TrainedModel,
    parent: Parent | None,
    placement: Placement,
    reports: Sequence[PodReport],
    digests: Mapping[int, str],
    withheld: Mapping[int, Refusal] = _NOTHING,
) -> TrainedModelStatus:
    """Say what is true of *model*. Times are left out: `with_times` takes them from the status before.

    *digests* is that of each shard's document, *withheld* why it was not written, *reports* the pods'.
    """
    generation = model.metadata.get("generation")
    if model.name in placement.stale:
        digests = {}  # those are of documents that do not say what is wanted
    number = serving_shard(model, placement, reports, digests)
    here = [report for report in reports if report.shard == number]
    proved = model.name not in placement.stale and _was_proved(model, number, len(here))
    words = [_word(report, model, digests.get(number), proved=proved) for report in here]
    replicas = _replicas(words)
    home = placement.homes.get(model.name)
    refusal = withheld.get(home) if home is not None else None
    loaded = _loaded_here(words, parent, number, refusal, listed=home is not None)
    conditions = [*_kserve_conditions(parent, number, placement, model.name), loaded]
    conditions.append(ready_condition(conditions))
    conditions += _progress(conditions, words, refusal)
    url, internal = _addresses(parent, number, model.name)
    return TrainedModelStatus(
        conditions=tuple(
            replace(item, observed_generation=generation) for item in sorted(conditions, key=lambda c: c.type)
        ),
        url=url,
        address={"url": internal} if internal else None,
        observed_generation=generation,
        extra={
            "loaded": f"{replicas.loaded}/{replicas.desired}",
            "replicas": replicas.to_json(),
            **({"shard": number} if home is not None else {}),
        },
    )


def _loaded_here(
    words: Sequence[_Word], parent: Parent | None, number: int, refusal: Refusal | None, *, listed: bool
) -> Condition:
    """Return Loaded; where it is not True, and the list may not be written, that is why."""
    many = parent is not None and len(parent.shards) > 1
    loaded = _loaded(words, _replicas(words), listed=listed, shard=number if many else None)
    if refusal is not None and loaded.status != "True":
        return _false("Loaded", refusal.reason, refusal.message)
    return loaded


def _addresses(parent: Parent | None, number: int, name: str) -> tuple[str | None, str | None]:
    """Return where a model answers, from outside and inside of the cluster; None where nothing tells."""
    shard = parent.shards.get(number) if parent is not None else None
    if parent is None or shard is None:
        return None, None
    path = predict_path(parent.protocol, name)
    return (
        shard.url + path if shard.url else None,
        shard.internal_url + path if shard.internal_url else None,
    )


def refused_status(model: TrainedModel, reason: Reason, message: str) -> TrainedModelStatus:
    """Say that nothing is done for *model*, until its object or the cluster is changed."""
    conditions = [
        Condition("Ready", "False", reason, message[:MAX_MESSAGE]),
        Condition("Stalled", "True", reason, message[:MAX_MESSAGE]),
    ]
    generation = model.metadata.get("generation")
    return TrainedModelStatus(
        conditions=tuple(replace(item, observed_generation=generation) for item in conditions),
        observed_generation=generation,
    )


def same_status(desired: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Tell whether a stored status says what we would write, apart from what others say there.

    KServe's own CRD drops the fields that are ours alone; where none of them is there, the rest counts.
    """
    theirs = observed.get("conditions")
    listed = theirs if isinstance(theirs, list) else []
    said = [item for item in listed if isinstance(item, Mapping) and item.get("type") in OUR_CONDITIONS]
    wanted, fields = list(desired["conditions"]), OUR_FIELDS | desired.keys() - {"conditions"}
    pruned = not (PRUNED_FIELDS & observed.keys() or any("observedGeneration" in item for item in said))
    if pruned:
        fields -= PRUNED_FIELDS
        wanted = [
            {key: value for key, value in item.items() if key != "observedGeneration"} for item in wanted
        ]
    return said == wanted and all(desired.get(key) == observed.get(key) for key in fields)


def serving_shard(
    model: TrainedModel, placement: Placement, reports: Collection[PodReport], digests: Mapping[int, str]
) -> int:
    """Return the shard whose address the model has: its home, or the one it is moving from until then."""
    home = placement.homes.get(model.name, 0)
    others = placement.lingering.get(model.name, ())
    if not others or loaded_on(home, model, reports, digests):
        return home
    return others[0]


def loaded_on(
    number: int, model: TrainedModel, reports: Collection[PodReport], digests: Mapping[int, str]
) -> bool:
    """Tell whether every ready replica of a shard serves the model, and there is one."""
    replicas = [report for report in reports if report.shard == number]
    return bool(replicas) and all(serves(report, model, digests.get(number)) for report in replicas)


def with_times(status: TrainedModelStatus, before: TrainedModelStatus | None, now: str) -> TrainedModelStatus:
    """Give each condition its lastTransitionTime: the one before, or *now* where its status changed."""
    return replace(status, conditions=tuple(timed(item, before, now) for item in status.conditions))


def timed(item: Condition, before: TrainedModelStatus | None, now: str) -> Condition:
    """Give one condition its time."""
    old = before.condition(item.type) if before is not None else None
    kept = old is not None and old.status == item.status and old.last_transition_time
    return replace(item, last_transition_time=old.last_transition_time if old is not None and kept else now)


def loaded_condition(
    model: TrainedModel, reports: Sequence[PodReport], generation: int | None, digest: str | None
) -> Condition:
    """Return the Loaded condition alone, for `--status-only` beside KServe's own controller."""
    words = [_word(report, model, digest) for report in reports]
    return replace(_loaded(words, _replicas(words), listed=True, shard=None), observed_generation=generation)


def any_failed(model: TrainedModel, reports: Collection[PodReport], digest: str | None) -> bool:
    """Tell whether a replica says that it failed to serve the model."""
    return any(_word(report, model, digest).kind == "failed" for report in reports)


def ready_condition(conditions: Collection[Condition]) -> Condition:
    """Return Ready over the others: the first that is False, else the first Unknown, else True."""
    for status in ("False", "Unknown"):
        for item in conditions:
            if item.status == status:
                return Condition("Ready", status, item.reason, item.message)
    return Condition("Ready", "True")


def _kserve_conditions(
    parent: Parent | None, number: int, placement: Placement, name: str
) -> list[Condition]:
    shard = parent.shards.get(number) if parent is not None else None
    if parent is None:
        service = _false("InferenceServiceReady", Reason.INFERENCE_SERVICE_NOT_FOUND, _SERVICE_MESSAGE)
    elif shard is None or not shard.ready:
        service = _false("InferenceServiceReady", Reason.INFERENCE_SERVICE_NOT_READY, _SERVICE_MESSAGE)
    else:
        service = Condition("InferenceServiceReady", "True")
    predictor = Condition("IsMMSPredictor", "Unknown")
    if parent is not None and parent.multi_model:
        predictor = Condition("IsMMSPredictor", "True")
    elif parent is not None:
        predictor = _false("IsMMSPredictor", Reason.IS_NOT_MMS_PREDICTOR, _PREDICTOR_MESSAGE)
    return [service, predictor, _memory(placement.refused.get(name) or placement.over.get(name), parent)]


def _memory(refusal: Refusal | None, parent: Parent | None) -> Condition:
    if refusal is not None:
        return _false("MemoryResourceAvailable", refusal.reason, refusal.message)
    return Condition("MemoryResourceAvailable", "Unknown" if parent is None else "True")


def _false(kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, "False", reason, message[:MAX_MESSAGE])


def _word(report: PodReport, model: TrainedModel, digest: str | None, *, proved: bool = False) -> _Word:
    if report.problem is not None:
        return _Word(report.pod, "unknown", Reason.AGENT_UNREACHABLE, report.problem)
    if serves(report, model, digest, proved=proved):
        return _Word(report.pod, "loaded", Reason.LOADED, "")
    if model.name in report.rejected:
        return _Word(report.pod, "failed", *report.rejected[model.name])
    said = report.models.get(model.name)
    wanted = entry(model)
    if said is None or said.storage_uri not in {wanted.storage_uri, redacted(wanted.storage_uri)}:
        return _Word(report.pod, "waiting", Reason.CONFIG_PENDING, "its agent has not seen this spec yet")
    if said.phase == "Failed":
        return _Word(report.pod, "failed", said.reason or Reason.INTERNAL_ERROR, said.message or "")
    # no message: what is on its way changes its words with every byte, and each word is a write
    return _Word(report.pod, "waiting", said.reason or Reason.CONFIG_PENDING, said.phase)


def _replicas(words: Collection[_Word]) -> Replicas:
    kinds = Counter(word.kind for word in words)
    return Replicas(len(words), kinds["loaded"], kinds["failed"], kinds["unknown"])


def _loaded(words: Sequence[_Word], replicas: Replicas, *, listed: bool, shard: int | None) -> Condition:
    where = "" if shard is None else f" of shard {shard}"
    count = f"loaded on {replicas.loaded} of {replicas.desired} replicas{where}"
    if not listed:
        return _false(
            "Loaded", Reason.CONFIG_PENDING, "it is in no ConfigMap, so no agent is asked to load it"
        )
    if not words:
        return Condition("Loaded", "Unknown", Reason.NO_READY_REPLICAS, f"no replica{where} is ready")
    if replicas.loaded == replicas.desired:
        return Condition("Loaded", "True", Reason.LOADED, count)
    worst = sorted(
        (word for word in words if word.kind != "loaded"),
        key=lambda word: (("failed", "waiting", "unknown").index(word.kind), word.pod),
    )
    told = "; ".join(f"{word.pod}: {word.reason}: {word.message}" for word in worst[:3])
    more = f"; and {len(worst) - 3} more" if len(worst) > 3 else ""
    status = "Unknown" if worst[0].kind == "unknown" else "False"
    return Condition("Loaded", status, worst[0].reason, f"{count}; {told}{more}"[:MAX_MESSAGE])


def _progress(
    conditions: Collection[Condition], words: Collection[_Word], refusal: Refusal | None
) -> list[Condition]:
    """Say whether to wait or to act: Stalled where the user has to, Reconciling where time will do."""
    ready = next(item for item in conditions if item.type == "Ready")
    if ready.status == "True":
        return []
    never_by_itself = {
        Reason.IS_NOT_MMS_PREDICTOR,
        Reason.MEMORY_RESOURCE_NOT_AVAILABLE,
        Reason.CONFIG_TOO_LARGE,
        Reason.INFERENCE_SERVICE_NOT_FOUND,
    }
    needs_user = refusal is not None or any(word.kind == "failed" for word in words)
    kind = "Stalled" if needs_user or ready.reason in never_by_itself else "Reconciling"
    return [Condition(kind, "True", ready.reason, ready.message)]
