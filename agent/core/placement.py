"""Which model goes to which shard of its parent, decided over the whole list at once.

What is listed stays where it is, then the oldest comes first; so the answer does not depend on the
order of the input, and a newcomer never takes the room of one that was there. A model moves only when
its shard is gone or too small; then both shards list it until the new one has it loaded.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from agent.core.model import ModelName, ModelSpec
from agent.core.modelconfig import to_document
from agent.core.parents import Shard
from agent.core.quantity import Format, Quantity
from agent.core.reasons import Reason
from agent.core.trainedmodel import TrainedModel, total_requested_memory

MAX_CONFIG_BYTES = 1024 * 1024 - 4096
"""What a ConfigMap takes is 1 MiB of data; the rest is room for its keys."""

MEMORY_MESSAGE = "Inference Service does not have enough memory resources for Trained Model"
_NONE = Quantity(0, Format.BINARY_SI)
_NOTHING: Mapping[str, TrainedModel] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model is in no shard's list, or is listed beyond what its shard can hold."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Placement:
    """`homes` tells each model's shard; `lists` what each shard's ConfigMap holds, moving copies included.

    `lingering` tells the other shards that list a model on the move. `refused` are in no list. `over` are
    listed because they were before, though there is no room now; `stale` of them with their former entry.
    """

    homes: Mapping[str, int]
    lists: Mapping[int, Sequence[TrainedModel]]
    lingering: Mapping[str, Sequence[int]]
    refused: Mapping[str, Refusal]
    over: Mapping[str, Refusal]
    stale: Collection[str] = ()


def place(
    models: Sequence[TrainedModel],
    shards: Mapping[int, Shard],
    listed: Mapping[str, Collection[int]],
    loaded: Collection[tuple[str, int]],
    former: Mapping[str, TrainedModel] = _NOTHING,
) -> Placement:
    """Decide the lists of all shards. *listed* tells where a name is now, *loaded* where it is served.

    *loaded* needs to be right only for models that are listed twice. *former* is what the lists say of
    those that now want something else; where that has no room, the former entry stays.
    """
    size = _measure()
    rooms = {number: _Room(shard, size) for number, shard in sorted(shards.items())}
    ordered = sorted(models, key=lambda model: (str(model.metadata.get("creationTimestamp", "")), model.name))
    current = {model.name: sorted(set(listed.get(model.name, ())) & rooms.keys()) for model in ordered}
    for model in ordered:
        for number in current[model.name]:
            rooms[number].reserve(former.get(model.name, model))
    homes: dict[str, int] = {}
    crowded = []
    for rank in range(3):  # those listed once, those on the move, those that want more than they had
        ranked = [model for model in ordered if _rank(model, current[model.name], former) == rank]
        crowded += _keep(ranked, current, rooms, homes, former)
    over = _move(crowded, current, rooms, homes, former)
    lingering: dict[str, list[int]] = {}
    for model in ordered:
        for number in current[model.name]:
            home = homes[model.name]
            if number == home:
                continue
            if (model.name, home) in loaded:
                rooms[number].release(model)
                continue
            rooms[number].add(_staying(model, rooms[number], former))
            lingering.setdefault(model.name, []).append(number)
    refused = _admit([model for model in ordered if not current[model.name]], rooms, homes)
    lists = {number: room.models for number, room in rooms.items()}
    stale = {model.name for held in lists.values() for model in held if former.get(model.name) is model}
    return Placement(homes, lists, lingering, refused, over, stale)


def _rank(model: TrainedModel, numbers: Sequence[int], former: Mapping[str, TrainedModel]) -> int | None:
    if not numbers:
        return None
    return 2 if _has_grown(model, former) else min(len(numbers) - 1, 1)


def _has_grown(model: TrainedModel, former: Mapping[str, TrainedModel]) -> bool:
    """Tell whether a model wants more memory than is listed: then it is another object of the same name."""
    return former.get(model.name, model).spec.model.memory < model.spec.model.memory


def _staying(model: TrainedModel, room: "_Room", former: Mapping[str, TrainedModel]) -> TrainedModel:
    """Return what a list that holds the model goes on to say of it where there is no room for more."""
    return (
        model if room.fits_bytes(model) and not _has_grown(model, former) else former.get(model.name, model)
    )


def _keep(
    models: Sequence[TrainedModel],
    current: Mapping[str, Sequence[int]],
    rooms: Mapping[int, "_Room"],
    homes: dict[str, int],
    former: Mapping[str, TrainedModel],
) -> list[TrainedModel]:
    """Give each model the first of its own shards that has room; return those for which none has."""
    crowded = []
    for model in models:
        grown = _has_grown(model, former)  # then it takes no room that others stay in, fitting or not
        fits = [
            number
            for number in current[model.name]
            if (rooms[number].takes_in(model) if grown else rooms[number].fits(model))
        ]
        home = fits[0] if fits else None
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
    former: Mapping[str, TrainedModel],
) -> dict[str, Refusal]:
    """Find another shard for what its own cannot hold; where there is none it stays, for it serves."""
    over = {}
    for model in crowded:
        home = _best_fit(model, rooms)
        if home is not None:
            homes[model.name] = home
            rooms[home].add(model)
            continue
        home = homes[model.name] = current[model.name][0]
        over[model.name] = _shortage(model, rooms, current[model.name])
        rooms[home].add(_staying(model, rooms[home], former))
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
    """What one shard holds so far. What it lists already is reserved until it is decided."""

    def __init__(self, shard: Shard, size: Callable[[TrainedModel], int]) -> None:
        self._size = size
        self.capacity = shard.memory
        self.used = _NONE
        self.bytes = len("[]")
        self.models: list[TrainedModel] = []
        self._reserved: dict[str, TrainedModel] = {}

    def reserve(self, model: TrainedModel) -> None:
        self._reserved[model.name] = model
        self.bytes += self._size(model)

    def release(self, model: TrainedModel) -> None:
        reserved = self._reserved.pop(model.name, None)
        self.bytes -= self._size(reserved) if reserved is not None else 0

    def add(self, model: TrainedModel) -> None:
        self.release(model)
        self.used = self.used.add(model.spec.model.memory)
        self.bytes += self._size(model)
        self.models.append(model)

    def fits_memory(self, model: TrainedModel) -> bool:
        return self.capacity is None or self.used.add(model.spec.model.memory) <= self.capacity

    def fits(self, model: TrainedModel) -> bool:
        return self.fits_memory(model) and self.fits_bytes(model)

    def fits_bytes(self, model: TrainedModel) -> bool:
        reserved = self._reserved.get(model.name)
        others = self.bytes - (self._size(reserved) if reserved is not None else 0)
        return others + self._size(model) <= MAX_CONFIG_BYTES

    def takes_in(self, model: TrainedModel) -> bool:
        """Tell whether there is room beside all that is listed here and may have to stay."""
        if self.capacity is None:
            return self.fits_bytes(model)
        held = total_requested_memory(each for name, each in self._reserved.items() if name != model.name)
        return self.used.add(held).add(model.spec.model.memory) <= self.capacity and self.fits_bytes(model)

    def left(self) -> float:
        return float("inf") if self.capacity is None else self.capacity.nanos - self.used.nanos


def _measure() -> Callable[[TrainedModel], int]:
    """Return what tells a model's bytes in a list, and works each out once."""
    known: dict[int, tuple[TrainedModel, int]] = {}

    def size(model: TrainedModel) -> int:
        if id(model) not in known:
            known[id(model)] = (model, _size(model))
        return known[id(model)][1]

    return size


def _size(model: TrainedModel) -> int:
    return len(to_document({ModelName(model.name): entry(model)})) - len("[]") + len(",")


def _best_fit(model: TrainedModel, rooms: Mapping[int, _Room]) -> int | None:
    """Return the shard that is left with the least room, so that large models find some elsewhere."""
    fitting = [number for number, room in rooms.items() if room.takes_in(model)]
    return min(fitting, key=lambda number: (rooms[number].left(), number), default=None)


def _shortage(model: TrainedModel, rooms: Mapping[int, _Room], numbers: Collection[int]) -> Refusal:
    if any(rooms[number].fits_memory(model) for number in numbers):
        return Refusal(
            Reason.CONFIG_TOO_LARGE,
            f"the ConfigMap of every shard with enough memory is full ({MAX_CONFIG_BYTES} bytes); "
            "what was listed before stays; add a shard, or remove models",
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
