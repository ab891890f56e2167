"""The seam to model servers: what is loaded, load this, unload that, each confirmed by the server itself.

A folder `<model-dir>/<name>` holds the model when `load` is called and is gone after `unload` returned.
An adapter raises RetryableError or TerminalError and nothing else on purpose. It never trusts a status
code alone: every operation is confirmed by the server's own index or readiness (law 4).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from agent.core.errors import RetryableError
from agent.core.model import ModelName, ModelSpec


class ServerGoneError(RetryableError):
    """Nobody listens at its address (any more): whoever answers there next is another process."""


class ModelState(StrEnum):
    """The state of one model as the server tells it."""

    READY = "Ready"
    LOADING = "Loading"
    UNLOADING = "Unloading"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class Traits:
    """What the reconciler has to know of a protocol.

    `concurrent_loads`   how many loads and unloads the server takes at once.
    `blocks_while_loading` health and index do not answer during a load: do not read, do not judge.
    `framework_matters`  the layout depends on the spec's framework, so its change means a new load.
    """

    protocol: str
    concurrent_loads: int
    blocks_while_loading: bool
    framework_matters: bool


@dataclass(frozen=True, slots=True)
class ServerReading:
    """One reading of a server that answered: is it ready for work, and what does it hold."""

    ready: bool
    models: Mapping[str, ModelState] = field(default_factory=dict)


class ModelServer(Protocol):
    """One model server, addressed by its URL."""

    @property
    def traits(self) -> Traits:
        """What the reconciler has to know of this protocol."""
        ...

    async def read(self) -> ServerReading:
        """Ask health and the list of models.

        Raises RetryableError(ServerUnavailable) where nothing answers, within a few seconds; as a
        ServerGoneError where nobody listens.
        """
        ...

    def doubt(self, names: Collection[ModelName]) -> None:
        """Have each reading say of *names* whether they are held, listed or not, until they are asked for.

        An agent before this one may have had them loaded and taken their folders away; an index that is
        made from folders lists them no more, and they take their memory all the same.
        """
        ...

    async def load(self, name: ModelName) -> None:
        """Load the folder of that name, replacing an older load; return once the server says READY.

        TerminalError(LoadRejected): the server is alive and refuses these bytes; its words are in the
        message, at most 1 KiB, made printable. TerminalError(LoadNotSupported): it takes no loads at all.
        RetryableError(ServerUnavailable): the request did not reach it. RetryableError(ServerCrashed): it
        died meanwhile. RetryableError(LoadTimeout): asked again and again, it did not become ready.
        An outcome that is not known (reset, time-out, 5xx) is looked up before any of these is raised.
        """
        ...

    async def unload(self, name: ModelName) -> None:
        """Unload; return once the server says it is gone and its memory is free. Absent is success."""
        ...

    def layout(
        self, name: ModelName, spec: ModelSpec, paths: Collection[str], read: Callable[[str], bytes]
    ) -> Mapping[str, str | bytes]:
        """Return the folder that this protocol wants to find under the model's name.

        Maps each published path to the path of the revision's file that stands there (`str`, hard-linked)
        or to a file's new content (`bytes`: a model-settings.json that was absent, one with the right name).
        Most protocols return every path unchanged. Pure; `read` gives the content of one of *paths*.
        Raises TerminalError(LoadRejected) where the protocol cannot serve these files at all, saying what
        is missing and how to give it.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
