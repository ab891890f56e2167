"""The wiring: the one file that knows every concrete class. It builds the sidecar and runs its services."""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from aiohttp import web

from agent.aio.door import Door
from agent.aio.leaving import stop_on_signals
from agent.aio.spare import Spare
from agent.aio.unixtime import UnixTime
from agent.aio.wakeup import Wakeup
from agent.aio.workers import start_workers
from agent.artifacts.claims import Claims
from agent.artifacts.engine.engine import Engine
from agent.artifacts.engine.settings import EngineSettings
from agent.artifacts.fetch import Fetcher
from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.errors import AgentError, TerminalError
from agent.core.plan import Rules
from agent.core.reach import Denied
from agent.core.reasons import Reason
from agent.reconcile.document import DocumentServices
from agent.reconcile.loop import Clock, Limits, Outlook, Reconciler
from agent.reconcile.once import report_once
from agent.reconcile.pod import Pod
from agent.reconcile.scrubbing import Scrubbing
from agent.reconcile.server_link import ServerLink
from agent.reconcile.traced import TracedWorld
from agent.reconcile.upkeep import Room, Upkeep
from agent.servers.base import ModelServer
from agent.servers.detect import connect, server_urls
from agent.servers.tether import Tether
from agent.servers.v2 import Patience
from agent.servers.wire import Access
from agent.settings import Settings
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.base import StorageProvider
from agent.telemetry.board import Board, ConfigWord, MemoryWord, RulesWord, ServerWord
from agent.telemetry.metrics import Metrics
from agent.telemetry.tracing import open_tracing
from agent.web.guard import guard
from agent.web.render import Renderer
from agent.web.server import StatusSite

log = logging.getLogger("agent")

STORE_RETRY_SECONDS = 2.0
ONCE_LOOK_SECONDS = 0.05
STALLED_SECONDS = 60.0
TRACES_SECONDS = 1.0  # for the last traces; SIGTERM has to be done within two
LET_GO_SECONDS = 1.4  # for all that is given up, the last traces included
ANSWERED_SECONDS = 0.3  # for what is still asked of the status port
MOST_HANGING = 8
"""With more threads in calls that nobody waits for any more, a new process is what helps (fault S21)."""


class Sidecar:
    """The agent of one pod. `run` returns the exit code: 0 after SIGTERM; with `once`, 1 for models left."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        open_store: Callable[[Path, Path | None], Store] = Store.open,
    ) -> None:
        self._settings, self._environ, self._open = settings, environ, open_store
        self._stop = asyncio.Event()
        self._code = 0
        loop = asyncio.get_running_loop()
        self._clock = Clock(now=loop.time, wall=time.time, draw=random.random)
        self.board = Board(
            ConfigWord(str(settings.config_dir / "models.json")),
            ServerWord(settings.server_url or f"http://127.0.0.1:{settings.component_port}"),
            MemoryWord(settings.budget_bytes),
        )
        self.board.rules = RulesWord(
            settings.update_policy, settings.default_model_memory, settings.max_removal
        )
        self.metrics = Metrics(self.board, self._clock.now)
        self.address: tuple[str, int] | None = None
        self._resync: Callable[[], None] = partial(log.info, "SIGHUP: nothing was read yet")
        self._hanging: Callable[[], int] = lambda: 0

    def stop(self) -> None:
        """End soon: nothing is unloaded, nothing is lost."""
        self._stop.set()

    async def run(self) -> int:
        """Serve until stopped."""
        start_workers(asyncio.get_running_loop())
        application = self._site().application()
        spare = Spare()
        application.middlewares.append(
            guard(self._settings.status_allow_host, self._settings.status_token_file, spare)
        )
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=ANSWERED_SECONDS
        )
        await runner.setup()
        listeners: Sequence[asyncio.Server] = ()
        try:
            listeners = await self._listen(runner, spare)
            stop_on_signals(self._stop)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._resync())  # noqa: PLW0108 - another one later
            await self._unless_stopped(self._work())
        finally:
            for each in listeners:
                each.close()
            await runner.cleanup()
        return self._code

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Run *work*; once stopped, give it a moment to let go, and leave behind what hangs (R10)."""
        task = asyncio.ensure_future(work)  # in no group: a group would wait for what hangs
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            task.cancel()
        await asyncio.wait((task,), timeout=LET_GO_SECONDS)
        if task.done() and not task.cancelled():
            task.result()

    async def _work(self) -> None:
        store = await self._open_store()
        if store is not None:
            await self._serve(store)

    def _site(self) -> StatusSite:
        renderer = Renderer(self.board, UnixTime(self._clock.now, self._clock.wall))
        self.board.turned_at = self._clock.now()
        patience = STALLED_SECONDS + 2 * self._settings.resync_interval
        self.metrics.alive = lambda: (
            self._clock.now() - self.board.turned_at < patience and self._hanging() <= MOST_HANGING
        )
        return StatusSite(self.board, renderer, self.metrics.alive, self.metrics.scrape)

    async def _listen(self, runner: web.AppRunner, spare: Spare) -> Sequence[asyncio.Server]:
        settings = self._settings
        assert runner.server is not None  # noqa: S101 - it was set up
        listeners = await Door(runner.server).listen(settings.status_host, settings.status_port, spare)
        self.address = listeners[0].sockets[0].getsockname()[:2]
        log.info("status is served", extra={"url": f"http://{self.address[0]}:{self.address[1]}/status"})
        return listeners

    async def _open_store(self) -> Store | None:
        """Open the store; while it cannot be, say why on /readyz and try again."""
        settings = self._settings
        said = None
        while True:
            try:
                return await asyncio.to_thread(self._open, settings.model_dir, settings.store_dir)
            except AgentError as error:
                if isinstance(error, TerminalError) or settings.once:
                    fields = {"reason": error.reason, "message_": error.message}
                    log.error("the store cannot be used", extra=fields)  # noqa: TRY400 - told in words
                    self._code = 1
                    return None
                if said != error.message:
                    said = error.message
                    log.warning(
                        "the store cannot be used yet", extra={"reason": error.reason, "message_": said}
                    )
                self.board.missing = partial(_missing_store, error)
                self.board.turned_at = self._clock.now()
            await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _serve(self, store: Store) -> None:
        settings = self._settings
        denied = Denied(settings.deny_address)
        providers = Providers(
            self._environ,
            settings.allowed_roots,
            denied if denied.networks else permit_all,
            settings.allow_host,
            settings.shared_root,
        )
        policy = DiskPolicy(budget_bytes=settings.disk_budget)
        room = Room(store, lambda: reconciler.wanted_uris(), policy)  # noqa: PLW0108 - made below
        engine = Engine(
            EngineSettings(
                max_connections=settings.max_connections,
                bandwidth_limit=settings.bandwidth_limit,
                min_rate=settings.min_rate,
            ),
            policy=denied,
        )
        fetcher = Fetcher(
            providers,
            store,
            engine,
            claims=Claims(store, settings.disk_budget, room.make),
            allowed_uris=settings.allow_uri,
            signing_key=settings.signing_key_file,
        )
        self._hanging = lambda: engine.hanging + providers.hanging
        wakeup = Wakeup()
        link = ServerLink(self._server(), lambda: self._server_changed(link, wakeup))
        pod = Pod(store, fetcher, link, self._clock.now, self.metrics.moved)
        await pod.take_back_open_intents()
        tracing = await asyncio.to_thread(open_tracing, self._environ, self._clock.now)
        if tracing is not None:
            self.board.trace = tracing.journeys.follow
        reconciler = Reconciler(
            pod if tracing is None else TracedWorld(pod, tracing.journeys),
            self.board,
            Rules(settings.budget_bytes, step_aside=settings.update_policy == "resource"),
            Limits(settings.max_concurrent_downloads, settings.resync_interval, settings.refresh_interval),
            self._clock,
            wakeup,
            self.metrics,
        )
        self.board.progress = pod.progress
        config = DocumentServices(settings, store, self.board, reconciler)
        self.metrics.watch_mode = config.watch_mode
        self.metrics.observation_age = partial(_age, link, self._clock.now)
        services: dict[str, Callable[[], Awaitable[None]]] = {
            "reconciler": reconciler.run,
            "server": link.watch,
            "tether": Tether(self._found_server, link.look).run,
            "config": config.follow,
            "watch": config.watch,
            "upkeep": Upkeep(pod, room, self.board, settings.resync_interval).run,
        }
        if settings.scrub_interval:
            rate = settings.scrub_rate
            services["scrub"] = Scrubbing(store, settings.scrub_interval, rate, wakeup.ring).run
        if tracing is not None:
            services["traces"] = tracing.journeys.keep_short
        if settings.events:
            from agent.reconcile.events import PodEvents  # noqa: PLC0415 - brings the API server's client

            services["events"] = PodEvents(self.board, self._environ, self._clock).run
        if settings.once:
            services["once"] = partial(self._once, reconciler)
        self._resync = config.resync
        try:
            await self._run_services(services)
        finally:
            # The store stays open: a thread that was left behind may still work by its descriptors, and the
            # kernel gives up lock and descriptors with the process, which ends next.
            await fetcher.close()
            await link.close()
            await providers.close()
            if tracing is not None:
                tracing.journeys.close()
                await asyncio.to_thread(tracing.tracer.close, TRACES_SECONDS)

    @staticmethod
    async def _run_services(services: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        async with asyncio.TaskGroup() as group:
            for name, run in services.items():
                group.create_task(_for_ever(name, run), name=name)

    def _server(self) -> ModelServer:
        settings = self._settings
        urls = server_urls(settings.server_url, settings.component_port)

        def found(url: str, protocol: str) -> None:
            self.board.say(server=ServerWord(url, protocol))
            log.info("the model server is found", extra={"url": url, "protocol": protocol})

        access = Access(
            settings.server_token_file,
            settings.server_ca_file,
            settings.server_cert_file,
            settings.server_key_file,
        )
        patience = Patience(load=settings.load_timeout)
        return connect(urls, settings.server_protocol, patience, found=found, access=access)

    def _found_server(self) -> str | None:
        """Return the server's URL, None before it is found."""
        return self.board.server.url if self.board.server.protocol is not None else None

    def _server_changed(self, link: ServerLink, wakeup: Wakeup) -> None:
        self.board.say(server=replace(self.board.server, ready=link.presence.up))
        wakeup.ring()

    async def _once(self, reconciler: Reconciler) -> None:
        """Stop when all is done, when nothing more can be, or when the time is over."""
        deadline = self._clock.now() + self._settings.timeout
        while self._clock.now() < deadline:
            outlook, error = reconciler.outlook(), self.board.config.error
            refused = error is not None and error[0] is not Reason.CONFIG_MISSING
            if outlook is not Outlook.WORKING or refused:
                break
            await asyncio.sleep(ONCE_LOOK_SECONDS)
        self._code = report_once(self.board)
        self.stop()
        await asyncio.Event().wait()


FAMILIES = {
    "s3": "s3", "gs": "gs", "http": "http", "https": "http", "file": "file", "pvc": "file", "hf": "hf",
    "abfs": "azure", "abfss": "azure", "az": "azure", "oci": "oci",
}  # fmt: skip


class Providers:
    """The storage providers by scheme, each made when it is first asked for."""

    def __init__(
        self,
        environ: Mapping[str, str],
        allowed_roots: Sequence[Path],
        policy: AddressPolicy = permit_all,
        allowed_hosts: Sequence[str] = (),
        shared_roots: Sequence[Path] = (),
    ) -> None:
        self._environ, self._allowed_roots, self._shared_roots = environ, allowed_roots, shared_roots
        self._policy, self._allowed_hosts = policy, allowed_hosts
        self._made: dict[str, StorageProvider] = {}

    def __call__(self, scheme: str) -> StorageProvider:
        """Return the provider of *scheme*. Raises TerminalError(UnsupportedScheme or MissingDependency)."""
        family = FAMILIES.get(scheme, "other")
        if family not in self._made:
            self._made[family] = self._make(family)
        return self._made[family]

    @property
    def hanging(self) -> int:
        """How many threads are in calls that nobody waits for any more."""
        return sum(provider.hanging for provider in self._made.values())

    async def close(self) -> None:
        """Close all that were made."""
        for provider in self._made.values():
            await provider.close()

    def _make(self, family: str) -> StorageProvider:
        # Imported when needed: an SDK costs up to a second and 40 MiB, and most pods use one scheme.
        match family:
            case "http":
                from agent.storage.http import HttpProvider  # noqa: PLC0415

                return HttpProvider(self._environ, policy=self._policy, allowed_hosts=self._allowed_hosts)
            case "s3":
                from agent.storage.s3 import S3Provider  # noqa: PLC0415

                return S3Provider(self._environ)
            case "gs":
                from agent.storage.gs import GsProvider  # noqa: PLC0415

                return GsProvider(self._environ)
            case "file":
                from agent.storage.file import FileProvider  # noqa: PLC0415

                return FileProvider(self._allowed_roots, shared_roots=self._shared_roots)
            case "hf":
                from agent.storage.hf import HfProvider  # noqa: PLC0415

                return HfProvider(self._environ, policy=self._policy)
            case "azure":
                from agent.storage.azure import AzureProvider  # noqa: PLC0415

                return AzureProvider(self._environ, policy=self._policy)
            case "oci":
                from agent.storage.oci import OciProvider  # noqa: PLC0415

                return OciProvider(self._environ, policy=self._policy, allowed_hosts=self._allowed_hosts)
            case _:
                from agent.storage.fsspec_provider import FsspecProvider  # noqa: PLC0415

                return FsspecProvider(policy=self._policy)


def _missing_store(error: AgentError) -> tuple[str, ...]:
    return (f"{error.reason}: {error.message}",)


def _age(link: ServerLink, now: Callable[[], float]) -> float | None:
    return None if link.read_at is None else now() - link.read_at


async def _for_ever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a service; one that returns is a fault."""
    await run()
    raise RuntimeError(f"the service {name} ended by itself")
