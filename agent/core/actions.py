"""What the planner may ask the shell to do. At most one action a model runs at any time."""

from dataclasses import dataclass

from agent.core.model import ModelName, ModelSpec, Revision
from agent.core.reasons import Reason


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

    `uri` names the manifest (with `revision`); `spec` carries framework and memory. `replaces_bytes` is
    what the server holds under this name already: both count until the outcome is known (law 5).
    """

    name: ModelName
    spec: ModelSpec
    revision: Revision
    uri: str
    replaces_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the server confirm that the name is gone, then remove its directory.

    With `aside` the model only steps aside for its own next revision: what was told is remembered, so
    that its room is kept and it comes back if the next revision fails.
    """

    name: ModelName
    memory_bytes: int
    aside: bool = False


Action = Fetch | Load | Unload


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The action did all it says."""

    action: Action


@dataclass(frozen=True, slots=True)
class Failed:
    """The action changed nothing that serves. `terminal`: no use to repeat it with nothing changed."""

    action: Action
    reason: Reason
    message: str
    terminal: bool = False
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The action was stopped because nobody wanted it any more."""

    action: Action


Outcome = Succeeded | Failed | Cancelled
