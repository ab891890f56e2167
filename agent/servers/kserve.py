"""KServe's Python ModelServer (port 8080), and servers that serve through its class.

The law here: its answers about one model come from `GET /v2/models/<name>/ready`, because it routes no
repository index and its health says nothing about models (kserve 0.21, protocol/rest/v2_endpoints.py).
A load runs on its event loop: nothing else is answered meanwhile.
"""

import asyncio
from collections.abc import Collection

from agent.core.errors import AgentError, TerminalError
from agent.core.model import ModelName
from agent.core.reasons import Reason
from agent.servers.base import ModelState, ServerReading, Traits
from agent.servers.v2 import Patience, V2Server
from agent.servers.wire import INDEX_LIMIT, Lost, Reply, Unreached, Wire

_QUESTIONS_AT_ONCE = 8


class KServeServer(V2Server):
    """A KServe ModelServer whose repository loads on request.

    An idle reading is one request, whatever the number of models: readiness is asked only of names that
    are new in the list or were not ready, health only until it was good.
    """

    traits = Traits(protocol="kserve", concurrent_loads=1, blocks_while_loading=True, framework_matters=False)
    title = "KServe's model server"

    def __init__(self, wire: Wire, patience: Patience | None = None) -> None:
        super().__init__(wire, patience)
        self._ready: set[str] = set()
        self._fit = False
        self._has_loaded = False

    async def load(self, name: ModelName) -> None:
        """Load and confirm; see the seam."""
        self._ready.discard(name)
        await super().load(name)
        self._ready.add(name)
        self._has_loaded = True

    async def _reading(self) -> ServerReading:
        try:
            names = await self._listed()
            self._fit = self._fit or await self._alive()
        except (Unreached, Lost):
            self._ready, self._fit = set(), False
            raise
        states = dict.fromkeys(names, ModelState.READY)
        states |= await self._ask(names - self._ready)
        self._ready = {name for name, state in states.items() if state is ModelState.READY}
        return ServerReading(self._fit, states)

    async def _listed(self) -> frozenset[str]:
        reply = await self._wire.get("/v2/models", seconds=self._patience.read, limit=INDEX_LIMIT)
        if reply.status != 200:
            raise Lost(f"its list of models answers {reply.status}: {reply.words()}")
        document = reply.json()
        names = document.get("models") if isinstance(document, dict) else None
        if not isinstance(names, list):
            raise Lost("its list of models is none" + (", or larger than 16 MiB" if reply.truncated else ""))
        return frozenset(name for name in names if isinstance(name, str))

    async def _ask(self, names: Collection[str]) -> dict[str, ModelState]:
        """Ask readiness of each name, a few at a time."""
        left = iter(names)
        found: dict[str, ModelState] = {}
        failures: list[Unreached | Lost] = []

        async def ask() -> None:
            for name in left:
                try:
                    ready = await self._is_ready(ModelName(name))
                except (Unreached, Lost) as error:
                    failures.append(error)
                    return
                found[name] = ModelState.READY if ready else ModelState.UNAVAILABLE

        async with asyncio.TaskGroup() as group:
            for number in range(min(_QUESTIONS_AT_ONCE, len(names))):
                group.create_task(ask(), name=f"readiness-{number}")
        if failures:
            raise failures[0]
        return found

    async def _alive(self) -> bool:
        return (await self._wire.get("/v2/health/ready", seconds=self._patience.read)).status == 200

    async def _refusal(self, name: ModelName, reply: Reply) -> AgentError:
        """Tell a bad model from a server not fit yet: both are 503, and health decides.

        A repository without a `load` of its own says "not ready" with no error and does not know the
        name afterwards; the same holds for one whose `load` only returned false, so a server that has
        loaded anything for us is taken at its word.
        """
        if not await self._healthy():
            self._fit = False
            return self._unavailable(f"is not ready ({reply.status}: {reply.words()})")
        if reply.status == 503 and not self._has_loaded and "Error type" not in reply.words():
            return TerminalError(
                Reason.LOAD_NOT_SUPPORTED,
                f"{self._at} loaded nothing under {name} ({reply.words()}): its ModelRepository has no load"
                " of its own, or that returned without a model; give the server a repository that loads",
            )
        return self._rejected(name, reply)
