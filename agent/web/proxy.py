"""The port that stands in for KServe's agent: probes are answered, all else goes to the model server.

Listens at once. Source of the probe protocol: contract §1.7. What begins with HTTP/2's preface (h2c, gRPC) is
passed on byte for byte: its headers need no change. So probes inside HTTP/2 reach the model server, requests
there get no X-Forwarded-For, and draining counts its connections, not its requests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from agent.web.proxy_client import LEAVING, PROBING, TUNNEL, Client
from agent.web.proxy_heads import Request, answer
from agent.web.proxy_upstream import KEPT_SECONDS, Upstream

log = logging.getLogger("agent.proxy")

BACKLOG = 1024
CONNECT_SECONDS = 5.0
SWEEP_SECONDS = 1.0
HEAD_SECONDS = 30.0
IDLE_SECONDS = 180.0
DRAIN_LOOK_SECONDS = 0.05
LINGER_SECONDS = 2.0
STALL_SECONDS = 120.0
"""How long a client may take in nothing of an answer that waits for it."""
MOST_CLIENTS, FOR_PROBES = 4096, 64
_PROBERS = (b"kube-probe/", b"Knative-Activator-Probe")


class Proxy:
    """A proxy to the component port of this machine.

    `ready` says whether a health probe is answered well. After `stop` probes are refused, requests still
    pass, and `serve` returns once none came for `quiet_seconds`, none is under way and every answer was
    taken in (contract §1.7). Of *most_clients* connections the idle make room for new ones; beyond that
    only probes are answered, on a few more.
    """

    def __init__(
        self,
        component_port: int,
        ready: Callable[[], Awaitable[bool]],
        *,
        quiet_seconds: float = 30.0,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        self._component_port = component_port
        self._ready = ready
        self._quiet_seconds = quiet_seconds
        self._stop = asyncio.Event()
        self._listening = asyncio.Event()
        self._last_request = 0.0
        self._loop = asyncio.get_running_loop()
        self._group: asyncio.TaskGroup | None = None
        self.draining = False
        self.linger_seconds, self.stall_seconds = LINGER_SECONDS, STALL_SECONDS
        self.most_clients = most_clients
        self.clients: set[Client] = set()
        self.port = 0

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    async def listening(self) -> None:
        """Wait until the port is open; `port` is it."""
        await self._listening.wait()

    async def serve(self, host: str | None, port: int, socket_name: str = "") -> None:
        """Serve until stopped and drained. *host* None: every address. Raises OSError for a port in use.

        *socket_name* also names an abstract unix socket; that it is taken is only said.
        """
        server = await self._loop.create_server(
            lambda: Client(self), host, port, backlog=BACKLOG, start_serving=False
        )
        local = await self._local(socket_name) if socket_name else None
        servers = [each for each in (server, local) if each is not None]
        self.port = server.sockets[0].getsockname()[1]
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for each in servers:
                    await each.start_serving()
                log.info(
                    "the proxy listens", extra={"port": self.port, "component_port": self._component_port}
                )
                self._listening.set()
                sweeping = group.create_task(self._sweep(), name="sweep")
                await self._stop.wait()
                self.draining = True
                self._last_request = self._loop.time()
                await self._drained()
                sweeping.cancel()
                self._end(servers)
        finally:
            self._end(servers)

    def _end(self, servers: Sequence[asyncio.Server]) -> None:
        for each in servers:
            each.close()
        for client in tuple(self.clients):
            client.abort()

    def join(self, client: Client) -> bool:
        """Take a connection in; false where there are so many that it may only ask for a probe."""
        there = len(self.clients)
        self.clients.add(client)
        if there < self.most_clients:
            return True
        if there >= self.most_clients + FOR_PROBES:
            client.abort()
            return False
        others = (each for each in self.clients if each.idle and each is not client)
        idle = min(others, key=lambda each: each.since, default=None)
        if idle is not None:
            idle.leave()
        return idle is not None

    def part(self, client: Client) -> None:
        """Forget a connection that ended."""
        self.clients.discard(client)

    def probe(self, request: Request) -> Awaitable[bytes] | None:
        """Return the answer to a probe, None for a request that is to be passed on."""
        noted = request.noted
        said = noted.get(b"k-network-probe")
        if b"k-kubelet-probe" in noted or noted.get(b"user-agent", b"").startswith(_PROBERS):
            return self._health(said or b"")
        if said == b"probe":
            return self._echo(noted.get(b"k-network-hash", b""))
        return None

    def connect(self, make: Callable[[], Upstream], failed: Callable[[], None]) -> None:
        """Open a connection to the model server in the background."""
        self._background().create_task(self._connect(make, failed))

    def in_background(self, work: Awaitable[bytes], then: Callable[[bytes], None]) -> None:
        """Call *then* with what *work* brings."""

        async def both() -> None:
            then(await work)

        self._background().create_task(both())

    def seen(self) -> None:
        """Note that a request came, now."""
        self._last_request = self._loop.time()

    def now(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def _background(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("the proxy does not serve")
        return self._group

    async def _connect(self, make: Callable[[], Upstream], failed: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(make, "127.0.0.1", self._component_port)
        except OSError:  # TimeoutError is one
            failed()

    async def _local(self, name: str) -> asyncio.Server | None:
        try:
            return await self._loop.create_unix_server(
                lambda: Client(self), "\0" + name.removeprefix("@"), backlog=BACKLOG, start_serving=False
            )
        except OSError as error:
            log.warning("the unix socket cannot be used", extra={"socket": name, "error": error.strerror})
            return None

    async def _health(self, said: bytes) -> bytes:
        if self.draining:
            return answer(503, "shutting down\n", close=True)
        if said != b"queue":
            return answer(400, "unexpected probe header value\n")
        if await self._ready():
            return answer(200, "queue")
        return answer(503, "not ready\n")

    async def _echo(self, token: bytes) -> bytes:
        if not token:
            return answer(400, 'a probe request must contain a non-empty "K-Network-Hash" header\n')
        return answer(200, "", b"K-Network-Hash: " + token)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._loop.time()
            for client in tuple(self.clients):
                client.sweep(now - KEPT_SECONDS, now - self.stall_seconds)
                if client.begun and client.since < now - HEAD_SECONDS:
                    client.refuse(408, "the request's head did not come in time")
                elif client.idle and client.since < now - IDLE_SECONDS:
                    client.leave()

    async def _drained(self) -> None:
        while True:
            now = self._loop.time()
            quiet = now - self._last_request >= self._quiet_seconds
            if quiet and not any(self._under_way(client, now) for client in self.clients):
                return
            await asyncio.sleep(DRAIN_LOOK_SECONDS)

    def _under_way(self, client: Client, now: float) -> bool:
        if client.state == TUNNEL and now - client.since >= self._quiet_seconds:
            return bool(client.unsent)
        return client.state == LEAVING or bool(client.unsent) or (client.busy and client.state != PROBING)
