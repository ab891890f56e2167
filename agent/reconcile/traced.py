"""The world with each action a part of its model's trace; only there while traces are on."""

from agent.core.actions import Action, Fetch
from agent.core.model import ObservedState
from agent.reconcile.world import World
from agent.telemetry.journeys import Journeys


class TracedWorld:
    """Passes everything on; see `World`."""

    def __init__(self, world: World, journeys: Journeys) -> None:
        self._world, self._journeys = world, journeys

    @property
    def restarts(self) -> int:
        """See `World`."""
        return self._world.restarts

    @property
    def server_slots(self) -> int:
        """See `World`."""
        return self._world.server_slots

    def observe(self) -> ObservedState:
        """See `World`."""
        return self._world.observe()

    def glance(self) -> ObservedState:
        """See `World`."""
        return self._world.glance()

    async def perform(self, action: Action) -> None:
        """Do what *action* says, within the trace of its model."""
        if isinstance(action, Fetch) and not self._journeys.under_way(action.name):
            await self._look_again(action)
        else:
            with self._journeys.within(action.name):
                await self._world.perform(action)

    async def _look_again(self, action: Fetch) -> None:
        """List the storage of a model that serves; only new bytes begin a way."""
        uri = action.spec.storage_uri
        before = self.glance().stored.get(uri)
        way = self._journeys.look_again(action.name, action.spec)
        try:
            with self._journeys.within(action.name):
                await self._world.perform(action)
        finally:
            after = self.glance().stored.get(uri)
            if before is not None and after is not None and before.revision == after.revision:
                self._journeys.nothing_new(action.name, way)
