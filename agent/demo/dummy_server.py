"""A V2 model server to try things on: it loads any folder, and does wrong what it is told to do wrong.

The law here: on the wire it behaves as the dialect's real server does, error codes and traps included,
so that what works against it works there. `/_faults`, `/_stats` and `/_forget` are its own.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from agent.demo.dummy_models import (
    BrokenModel,
    Counts,
    Dialect,
    Faults,
    Loaded,
    folders,
    matches,
    open_model,
    settings_name,
)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DummyServer:
    """One dummy model server over one model dir.

    `load_all` loads every folder at the start, hidden ones too, and refuses to start if one is bad, as
    KServe's servers do. `leave` is what a crash calls; tests in the same process give something milder.
    """

    def __init__(
        self,
        model_dir: Path,
        dialect: Dialect = Dialect.KSERVE,
        faults: Faults | None = None,
        *,
        load_all: bool = False,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.model_dir = model_dir
        self.dialect = dialect
        self.faults = faults or Faults()
        self.models: dict[str, Loaded] = {}
        self.counts = Counts()
        self._unloaded: dict[str, str] = {}
        self._load_all = load_all
        self._leave = leave
        self._loop_is_free = asyncio.Event()
        self._loop_is_free.set()

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._before_each])
        app.on_startup.append(self._start)
        one = "/v2/models/{name}"
        app.router.add_get("/v2", self._server)
        app.router.add_get("/v2/health/live", self._healthy)
        app.router.add_get("/v2/health/ready", self._healthy)
        app.router.add_get(one, self._metadata)
        app.router.add_get(f"{one}/ready", self._ready)
        app.router.add_post(f"{one}/infer", self._metadata)
        app.router.add_post("/v2/repository/models/{name}/load", self._load)
        app.router.add_post("/v2/repository/models/{name}/unload", self._unload)
        if self.dialect is Dialect.KSERVE:
            app.router.add_get("/v2/models", self._list)
        else:
            app.router.add_post("/v2/repository/index", self._index)
        app.router.add_get("/_faults", self._tell_faults)
        app.router.add_post("/_faults", self._set_faults)
        app.router.add_get("/_stats", self._stats)
        app.router.add_post("/_forget", self._forget)
        return app

    def forget(self, pattern: str = "*") -> None:
        """Lose models, as a server does that was restarted unseen."""
        for name in [name for name in self.models if matches(name, pattern)]:
            del self.models[name]

    async def _start(self, _app: web.Application) -> None:
        if self._load_all:
            for name in sorted(await asyncio.to_thread(folders, self.model_dir)):
                self.models[name] = await asyncio.to_thread(open_model, self.model_dir / name)

    @web.middleware
    async def _before_each(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Count, and be deaf or busy where that is wanted."""
        if request.path.startswith("/_"):
            return await handler(request)
        resource = request.match_info.route.resource
        route = f"{request.method} {resource.canonical if resource else request.path}"
        self.counts.requests[route] = self.counts.requests.get(route, 0) + 1
        if self.faults.deaf:
            await asyncio.Event().wait()
        while not self._loop_is_free.is_set():
            await self._loop_is_free.wait()
        return await handler(request)

    # what every dialect answers

    async def _server(self, _request: web.Request) -> web.Response:
        extensions = {
            Dialect.KSERVE: ["model_repository_extension"],
            Dialect.MLSERVER: [],
            Dialect.TRITON: ["classification", "sequence", "model_repository", "statistics"],
        }
        return web.json_response(
            {"name": str(self.dialect), "version": "dummy", "extensions": extensions[self.dialect]}
        )

    async def _healthy(self, _request: web.Request) -> web.Response:
        if self.dialect is Dialect.KSERVE:
            return web.json_response({"live": True, "ready": True})
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        model = self.models.get(name)
        if model is None or matches(name, self.faults.unready):
            return self._unknown(name, 400 if self.dialect is Dialect.TRITON else 404)
        files = {path: asdict(item) for path, item in model.files.items()}
        output = {"name": "sha256", "datatype": "BYTES", "shape": [1], "data": [model.sha256]}
        return web.json_response(
            {"name": name, "model_name": name, "sha256": model.sha256, "files": files, "outputs": [output]}
        )

    async def _ready(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.models:
            return self._unknown(name, 400 if self.dialect is Dialect.TRITON else 404)
        if matches(name, self.faults.unready):
            return _error(503 if self.dialect is Dialect.KSERVE else 400, f"Model {name} is not ready")
        return web.json_response({"name": name, "ready": True})

    def _unknown(self, name: str, status: int) -> web.Response:
        return _error(status, f"Model {name} is not known")

    async def _load(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        counts, faults = self.counts, self.faults
        counts.loads[name] = counts.loads.get(name, 0) + 1
        counts.loading_now += 1
        counts.max_concurrent_loads = max(counts.max_concurrent_loads, counts.loading_now)
        if faults.blocking:
            self._loop_is_free.clear()
        try:
            model = await self._opened(name)
        except (BrokenModel, OSError) as error:
            counts.failed_loads[name] = counts.failed_loads.get(name, 0) + 1
            return self._refused(name, error)
        finally:
            counts.loading_now -= 1
            self._loop_is_free.set()
        self.models[name] = model
        self._unloaded.pop(name, None)
        if faults.forgetful:
            asyncio.get_running_loop().call_later(faults.forgetful, self._lose, name, model)
        if matches(name, faults.drop):
            return _hang_up(request)
        if self.dialect is Dialect.KSERVE:
            return web.json_response({"name": name, "load": True})
        return web.Response()

    def _lose(self, name: str, model: Loaded) -> None:
        if self.models.get(name) is model:
            del self.models[name]

    async def _opened(self, name: str) -> Loaded:
        """Open a model's folder with all that may go wrong while it loads."""
        faults = self.faults
        if faults.load_seconds:
            await asyncio.sleep(faults.load_seconds)
        if matches(name, faults.hang):
            await asyncio.Event().wait()
        if matches(name, faults.crash):
            self._leave(137)
        if matches(name, faults.fail):
            raise BrokenModel("told to fail")
        folder = self.model_dir / name
        if name == ".." or folder.name != name:
            raise FileNotFoundError(name)
        if self.dialect is Dialect.MLSERVER and await asyncio.to_thread(settings_name, folder) != name:
            raise FileNotFoundError(name)
        model = await asyncio.to_thread(open_model, folder)
        if faults.seconds_per_mib:
            await asyncio.sleep(faults.seconds_per_mib * model.size / 2**20)
        return model

    def _refused(self, name: str, error: Exception) -> web.Response:
        absent = isinstance(error, FileNotFoundError)
        if self.dialect is Dialect.KSERVE:
            kind = f"Error type: {type(error)} error msg: {error}"
            return _error(503, f"Model with name {name} is not ready. {kind}")
        if self.dialect is Dialect.MLSERVER:
            return _error(404, f"Model {name} not found") if absent else _error(500, f"BrokenModel: {error}")
        if absent:
            return _error(500, f"failed to load '{name}', failed to poll from model repository")
        return _error(400, f"load failed for model '{name}': {error}")

    async def _unload(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.counts.unloads[name] = self.counts.unloads.get(name, 0) + 1
        known = self.models.pop(name, None) is not None
        if self.dialect is Dialect.TRITON:
            if known:
                self._unloaded[name] = "UNLOADING"
                asyncio.get_running_loop().call_later(self.faults.unload_seconds, self._settle, name)
            return web.Response()
        if not known:
            return self._unknown(name, 404)
        body = {"name": name, "unload": True} if self.dialect is Dialect.KSERVE else None
        return web.json_response(body) if body else web.Response()

    def _settle(self, name: str) -> None:
        if name in self._unloaded:
            self._unloaded[name] = "UNAVAILABLE"

    # how the models are listed

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"models": list(self.models)})

    async def _index(self, request: web.Request) -> web.Response:
        """List what lies on disk, and what is loaded but for MLServer, which wants a body too."""
        if self.dialect is Dialect.MLSERVER and not request.can_read_body:
            return web.json_response({"detail": "Field required"}, status=422)
        there = await asyncio.to_thread(self._on_disk)
        lingering = {name for name, state in self._unloaded.items() if state == "UNLOADING"}
        loaded = set() if self.dialect is Dialect.MLSERVER else self.models.keys()
        names = sorted(loaded | there | lingering)
        return web.json_response([self._entry(name) for name in names])

    def _entry(self, name: str) -> dict[str, str]:
        if name in self.models:
            state, reason = "UNAVAILABLE" if matches(name, self.faults.unready) else "READY", ""
        elif self.dialect is Dialect.MLSERVER:
            state, reason = "UNAVAILABLE", ""
        elif name in self._unloaded:
            state = self._unloaded[name]
            reason = "unloaded" if state == "UNAVAILABLE" else ""
        else:
            return {"name": name}
        return {"name": name, "version": "1", "state": state, "reason": reason}

    def _on_disk(self) -> set[str]:
        names = folders(self.model_dir)
        if self.dialect is Dialect.MLSERVER:
            return {name for name in names if settings_name(self.model_dir / name) == name}
        return names

    # its own routes

    async def _tell_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(self.faults))

    async def _set_faults(self, request: web.Request) -> web.Response:
        """Replace the faults that are named and keep the others."""
        try:
            document = await request.json()
            self.faults = self.faults.changed(document)
        except (ValueError, AttributeError) as error:
            return _error(400, str(error))
        return web.json_response(asdict(self.faults))

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response({**asdict(self.counts), "models": sorted(self.models)})

    async def _forget(self, request: web.Request) -> web.Response:
        """Lose the models that match `{"models": "<pattern>"}`, all without a body."""
        document = await request.json() if request.can_read_body else {}
        self.forget(str(document.get("models", "*")))
        return web.json_response({"models": sorted(self.models)})


def build_app(
    model_dir: Path,
    dialect: Dialect = Dialect.KSERVE,
    faults: Faults | None = None,
    *,
    load_all: bool = False,
) -> web.Application:
    """Return a dummy server as an aiohttp application."""
    return DummyServer(model_dir, dialect, faults, load_all=load_all).app()


async def run(server: DummyServer, *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve until cancelled, and say the URL on the first line of standard output."""
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        print(f"http://{host}:{runner.addresses[0][1]}", flush=True)  # noqa: T201 - a command's output
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _hang_up(request: web.Request) -> web.Response:
    """Break the connection instead of answering."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
