"""What the planner may ask the shell to do. At most one action a model runs at any time."""

from dataclasses import dataclass

from agent.core.model import ModelName, ModelSpec, Revision


@dataclass(frozen=True, slots=True)
class Fetch:
    """List the storage, bring what is missing to disk, verify it, and write the manifest last.

    With `relist` the storage is asked even though a manifest of this URI is there.
    """

    name: ModelName
    spec: ModelSpec
    relist: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Publish a stored revision and have the server confirm it, replacing any other one.

    `uri` names the manifest (with `revision`); `spec` carries framework and memory.
    """

    name: ModelName
    spec: ModelSpec
    revision: Revision
    uri: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the server confirm that the name is gone, then remove its directory."""

    name: ModelName
    memory_bytes: int


Action = Fetch | Load | Unload
