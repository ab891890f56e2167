"""The seam between the reconciler and everything outside: read it, act on it."""

from typing import Protocol

from agent.core.actions import Action
from agent.core.model import ObservedState


class World(Protocol):
    """Disk and model server. `perform` raises nothing but AgentError and what cancels a task."""

    @property
    def restarts(self) -> int:
        """How often the server was found to have restarted."""
        ...

    @property
    def server_slots(self) -> int:
        """How many loads and unloads the server takes at once."""
        ...

    def observe(self) -> ObservedState:
        """Return the last confirmed observation; what an action confirmed is in it at once."""
        ...

    def glance(self) -> ObservedState:
        """Return the same at no cost, to look single names up in at once: it may change meanwhile."""
        ...

    async def perform(self, action: Action) -> None:
        """Do all that the action's docstring says, and return once it is confirmed.

        Raises RetryableError or TerminalError; then whatever served before still does (law 2).
        """
        ...
