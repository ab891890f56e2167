"""Which dialect a server speaks, and a server whose address and dialect are found out when it is up.

The law here: a dialect is chosen by what a server answers, never by a port; and a server that cannot be
told from another is an error that names the flag, not a guess.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from agent.core.errors import RetryableError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.servers.base import ModelServer, ServerReading, Traits
from agent.servers.kserve import KServeServer
from agent.servers.mlserver import MLServerServer
from agent.servers.triton import TritonServer
from agent.servers.v2 import Patience, V2Server
from agent.servers.wire import Access, Lost, Unreached, Wire

PROTOCOLS: Mapping[str, type[V2Server]] = {
    "kserve": KServeServer,
    "mlserver": MLServerServer,
    "triton": TritonServer,
}
AUTO = "auto"

_KSERVE_PORT = 8080
_UNKNOWN = Traits(protocol=AUTO, concurrent_loads=1, blocks_while_loading=True, framework_matters=True)


def server_urls(server_url: str | None, component_port: int) -> tuple[str, ...]:
    """Return the addresses to try, best first (design §8.12): the given one, or 8080 and the component's."""
    if server_url:
        return (server_url,)
    ports = dict.fromkeys((_KSERVE_PORT, component_port))
    return tuple(f"http://127.0.0.1:{port}" for port in ports)


def connect(
    urls: Sequence[str],
    protocol: str = AUTO,
    patience: Patience | None = None,
    *,
    found: Callable[[str, str], None] = lambda _url, _protocol: None,
    access: Access | None = None,
) -> ModelServer:
    """Return the server at the first of *urls* that answers the repository extension; connects lazily.

    Raises ValueError for a URL or a protocol that is none. `found` is called once with the URL (without
    userinfo) and the protocol. One URL and a named protocol need no finding.
    """
    if protocol != AUTO and protocol not in PROTOCOLS:
        raise ValueError(
            f"no server protocol is called {protocol!r}; there are {AUTO}, {', '.join(PROTOCOLS)}"
        )
    if protocol != AUTO and len(urls) == 1:
        wire = Wire(urls[0], access=access)
        found(wire.where, protocol)
        return PROTOCOLS[protocol](wire, patience)
    return FoundServer([Wire(url, access=access) for url in urls], protocol, patience, found)


async def detect(wire: Wire, *, seconds: float = 5.0) -> str | None:
    """Return the dialect spoken there, None where something answers that speaks none.

    The extensions that `GET /v2` lists tell KServe from Triton even where the name was changed; what is
    left is told by the routes. Raises Unreached and Lost.
    """
    metadata = await wire.get("/v2", seconds=seconds)
    document = metadata.json() if metadata.status == 200 else None
    if isinstance(document, dict):
        extensions = document.get("extensions")
        listed = extensions if isinstance(extensions, list) else []
        if "model_repository_extension" in listed:
            return "kserve"
        if "model_repository" in listed:
            return "triton"
        if document.get("name") == "mlserver":
            return "mlserver"
    return await _by_routes(wire, seconds)


async def _by_routes(wire: Wire, seconds: float) -> str | None:
    """Tell by the index: KServe routes none, and MLServer wants a body where Triton needs none."""
    index = await wire.post("/v2/repository/index", b"", seconds=seconds)
    if index.status == 422:
        return "mlserver"
    if index.status == 200:
        return "triton" if index.truncated or isinstance(index.json(), list) else None
    listed = await wire.get("/v2/models", seconds=seconds)
    document = listed.json()
    known = listed.status == 200 and isinstance(document, dict) and "models" in document
    return "kserve" if known else None


class FoundServer:
    """A model server that is looked for at each call until it was found, and then stays the same.

    Until then its traits are the most careful ones, and every call raises RetryableError(ServerUnavailable)
    where nothing answers.
    """

    def __init__(
        self,
        wires: Sequence[Wire],
        protocol: str,
        patience: Patience | None,
        found: Callable[[str, str], None],
    ) -> None:
        self._wires = list(wires)
        self._protocol = protocol
        self._patience = patience
        self._found = found
        self._server: V2Server | None = None
        self._doubts: set[ModelName] = set()

    @property
    def traits(self) -> Traits:
        """What the reconciler has to know, once the server was found."""
        return self._server.traits if self._server is not None else _UNKNOWN

    async def read(self) -> ServerReading:
        """Find the server if need be, then read it."""
        return await (await self._the_server()).read()

    def doubt(self, names: Collection[ModelName]) -> None:
        """Have readings tell of *names*; see the seam."""
        self._doubts.update(names)
        if self._server is not None:
            self._server.doubt(names)

    async def load(self, name: ModelName) -> None:
        """Find the server if need be, then load."""
        await (await self._the_server()).load(name)

    async def unload(self, name: ModelName) -> None:
        """Find the server if need be, then unload."""
        await (await self._the_server()).unload(name)

    def layout(
        self, name: ModelName, spec: ModelSpec, paths: Collection[str], read: Callable[[str], bytes]
    ) -> Mapping[str, str | bytes]:
        """Lay out for the server that was found; raises RetryableError before that."""
        if self._server is None:
            raise RetryableError(
                Reason.SERVER_UNAVAILABLE, f"no model server was found yet at {self._places()}"
            )
        return self._server.layout(name, spec, paths, read)

    async def close(self) -> None:
        """Give back connections."""
        if self._server is not None:
            await self._server.close()
        for wire in self._wires:
            await wire.close()

    async def _the_server(self) -> V2Server:
        if self._server is not None:
            return self._server
        seen: list[str] = []
        for wire in self._wires:
            try:
                spoken = await detect(wire)
            except (Unreached, Lost) as error:
                seen.append(f"{wire.where}: {error}")
                continue
            if spoken is None:
                seen.append(f"{wire.where}: answers, but takes no models on request")
                continue
            protocol = spoken if self._protocol == AUTO else self._protocol
            self._server = PROTOCOLS[protocol](wire, self._patience)
            self._server.doubt(self._doubts)
            self._found(wire.where, protocol)
            return self._server
        raise RetryableError(
            Reason.SERVER_UNAVAILABLE,
            f"no model server was found ({'; '.join(seen)}); give --server-url if it is elsewhere",
        )

    def _places(self) -> str:
        return ", ".join(wire.where for wire in self._wires)
