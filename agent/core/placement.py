"""Which model goes to which shard of its parent, decided over the whole list at once.

What is listed stays where it is, then the oldest comes first; so the answer does not depend on the
order of the input, and a newcomer never takes the room of one that was there. A model moves only when
its shard is gone or too small; then both shards list it until the new one has it loaded.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agent.core.model import ModelName, ModelSpec
from agent.core.modelconfig import to_document
from agent.core.parents import Shard
from agent.core.quantity import Format, Quantity
from agent.core.reasons import Reason
from agent.core.trainedmodel import TrainedModel

MAX_CONFIG_BYTES = 1024 * 1024 - 4096
"""What a ConfigMap takes is 1 MiB of data; the rest is room for its keys."""

MEMORY_MESSAGE = "Inference Service does not have enough memory resources for Trained Model"
_NONE = Quantity(0, Format.BINARY_SI)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model is in no shard's list, or is listed beyond what its shard can hold."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Placement:
    """`homes` tells each model's shard; `lists` what each shard's ConfigMap holds, moving copies included.

    `lingering` tells the other shards that list a model on the move. `refused` are in no list. `over` are
    listed because they were before, though there is no room now.
    """

    homes: Mapping[str, int]
    lists: Mapping[int, Sequence[TrainedModel]]
    lingering: Mapping[str, Sequence[int]]
    refused: Mapping[str, Refusal]
    over: Mapping[str, Refusal]


def place(
    models: Sequence[TrainedModel],
    shards: Mapping[int, Shard],
    listed: Mapping[str, Collection[int]],
    loaded: Collection[tuple[str, int]],
) -> Placement:
    """Decide the lists of all shards. *listed* tells where a name is now, *loaded* where it is served.

    *loaded* needs to be right only for models that are listed twice.
    """
    rooms = {number: _Room(shard) for number, shard in sorted(shards.items())}
    ordered = sorted(models, key=lambda model: (str(model.metadata.get("creationTimestamp", "")), model.name))
    current = {model.name: sorted(set(listed.get(model.name, ())) & rooms.keys()) for model in ordered}
    homes: dict[str, int] = {}
    crowded = _keep([model for model in ordered if len(current[model.name]) == 1], current, rooms, homes)
    crowded += _keep([model for model in ordered if len(current[model.name]) > 1], current, rooms, homes)
    over = _move(crowded, current, rooms, homes)
    lingering: dict[str, list[int]] = {}
    for model in ordered:
        for number in current[model.name]:
            home = homes[model.name]
            if number != home and (model.name, home) not in loaded:
                rooms[number].add(model)
                lingering.setdefault(model.name, []).append(number)
    refused = _admit([model for model in ordered if not current[model.name]], rooms, homes)
    lists = {number: room.models for number, room in rooms.items()}
    return Placement(homes, lists, lingering, refused, over)


def _keep(
    models: Sequence[TrainedModel],
    current: Mapping[str, Sequence[int]],
    rooms: Mapping[int, "_Room"],
    homes: dict[str, int],
) -> list[TrainedModel]:
    """Give each model the first of its own shards that has room; return those for which none has."""
    crowded = []
    for model in models:
        home = next((number for number in current[model.name] if rooms[number].fits(model)), None)
        if home is None:
            crowded.append(model)
        else:
            homes[model.name] = home
            rooms[home].add(model)
    return crowded


def _move(
    crowded: Sequence[TrainedModel],
    current: Mapping[str, Sequence[int]],
    rooms: Mapping[int, "_Room"],
    homes: dict[str, int],
) -> dict[str, Refusal]:
    """Find another shard for what its own cannot hold; where there is none it stays, for it serves."""
    over = {}
    for model in crowded:
        home = _best_fit(model, rooms)
        if home is None:
            home = current[model.name][0]
            over[model.name] = _shortage(model, rooms, current[model.name])
        homes[model.name] = home
        rooms[home].add(model)
    return over


def _admit(
    newcomers: Sequence[TrainedModel], rooms: Mapping[int, "_Room"], homes: dict[str, int]
) -> dict[str, Refusal]:
    refused = {}
    for model in newcomers:
        home = _best_fit(model, rooms)
        if home is None:
            refused[model.name] = _shortage(model, rooms, rooms)
        else:
            homes[model.name] = home
            rooms[home].add(model)
    return refused


def entry(model: TrainedModel) -> ModelSpec:
    """Return what a ConfigMap says of a model; memory in the text that Kubernetes prints."""
    spec = model.spec.model
    return ModelSpec(spec.storage_uri, spec.framework, spec.memory.bytes_ceil(), spec.memory.canonical())


def document(models: Sequence[TrainedModel]) -> str:
    """Return the models.json of a shard, byte-identical for the same models."""
    return to_document({ModelName(model.name): entry(model) for model in models}).decode()


class _Room:
    """What one shard holds so far."""

    def __init__(self, shard: Shard) -> None:
        self.capacity = shard.memory
        self.used = _NONE
        self.bytes = len("[]")
        self.models: list[TrainedModel] = []

    def add(self, model: TrainedModel) -> None:
        self.used = self.used.add(model.spec.model.memory)
        self.bytes += _size(model)
        self.models.append(model)

    def fits_memory(self, model: TrainedModel) -> bool:
        return self.capacity is None or self.used.add(model.spec.model.memory) <= self.capacity

    def fits(self, model: TrainedModel) -> bool:
        return self.fits_memory(model) and self.bytes + _size(model) <= MAX_CONFIG_BYTES

    def left(self) -> float:
        return float("inf") if self.capacity is None else self.capacity.nanos - self.used.nanos


def _size(model: TrainedModel) -> int:
    return len(to_document({ModelName(model.name): entry(model)})) - len("[]") + len(",")


def _best_fit(model: TrainedModel, rooms: Mapping[int, _Room]) -> int | None:
    """Return the shard that is left with the least room, so that large models find some elsewhere."""
    fitting = [number for number, room in rooms.items() if room.fits(model)]
    return min(fitting, key=lambda number: (rooms[number].left(), number), default=None)


def _shortage(model: TrainedModel, rooms: Mapping[int, _Room], numbers: Collection[int]) -> Refusal:
    if any(rooms[number].fits_memory(model) for number in numbers):
        return Refusal(
            Reason.CONFIG_TOO_LARGE,
            f"the ConfigMap of every shard with enough memory is full ({MAX_CONFIG_BYTES} bytes); "
            "add a shard, or remove models",
        )
    told = [_told(number, rooms[number]) for number in sorted(numbers)]
    return Refusal(
        Reason.MEMORY_RESOURCE_NOT_AVAILABLE,
        f"{MEMORY_MESSAGE}: it needs {model.spec.model.memory}; {'; '.join(told) or 'there is no shard'}",
    )


def _told(number: int, room: _Room) -> str:
    """Say what a shard has and who holds it, the largest first."""
    held = sorted(room.models, key=lambda model: (-model.spec.model.memory.nanos, model.name))
    named = [f"{model.name} {model.spec.model.memory}" for model in held[:5]]
    more = [f"{len(held) - 5} more"] if len(held) > 5 else []
    holders = ", ".join(named + more) or "nobody"
    return f"shard {number} has {room.capacity or 0} and {room.used} of it is taken by {holders}"
