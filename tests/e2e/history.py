"""What happened, by the clock, as JSON lines; and what must hold of it.

A witness stands between agent and server and notes each load and unload from its beginning to its end. The
checkers read the events alone, so that a file of them can be judged again.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

Event = dict[str, object]


class History:
    """Events in order, each with its second since the beginning; the file is the artefact of a run."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.events: list[Event] = []
        self._file = path.open("w")
        self._began = time.monotonic()

    def add(self, kind: str, **fields: object) -> None:
        event = {"t": round(time.monotonic() - self._began, 4), "kind": kind, **fields}
        self.events.append(event)
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Witness:
    """A relay in front of the model server; a server that does not answer is a broken connection here too."""

    def __init__(self, server_url: str, history: History) -> None:
        self._server_url, self._history = server_url, history
        self._numbers = iter(range(1_000_000))
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Witness"]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as self._session:
            runner = web.ServerRunner(web.Server(self._pass, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                yield self
            finally:
                await runner.cleanup()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.split("/")
        order = parts[-1] if parts[-1] in {"load", "unload"} else None
        number = next(self._numbers)
        if order:
            self._history.add("begin", order=order, model=parts[-2], number=number)
        status = 0
        try:
            async with self._session.request(
                request.method,
                self._server_url + request.raw_path,
                data=await request.read(),
                headers={"Content-Type": request.content_type},
            ) as answer:
                status, body = answer.status, await answer.read()
                return web.Response(status=status, body=body, content_type=answer.content_type)
        except (aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
        finally:
            if order:
                self._history.add("end", order=order, model=parts[-2], number=number, status=status)


@asynccontextmanager
async def sampled(served, history: History, every: float = 0.05) -> AsyncIterator[None]:
    """Note what is served, again and again; `served` returns names, None while the server does not answer."""

    async def look() -> None:
        while True:
            names = await served()
            history.add("served", models=None if names is None else sorted(names))
            await asyncio.sleep(every)

    task = asyncio.get_running_loop().create_task(look())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def overlaps(events: Iterable[Event]) -> list[str]:
    """Two orders for one model at once, by one agent; what a killed one had asked may still run."""
    running: dict[object, tuple[int, Event]] = {}
    found, agent = [], 0
    for event in events:
        match event["kind"]:
            case "agent":
                agent += 1
            case "begin":
                before = running.get(event["model"])
                if before is not None and before[0] == agent:
                    found.append(f"{before[1]} and {event}")
                running[event["model"]] = (agent, event)
            case "end":
                before = running.get(event["model"])
                if before is not None and before[1]["number"] == event["number"]:
                    del running[event["model"]]
    return found


def over_budget(events: Iterable[Event], models_in_budget: int) -> list[str]:
    """Models resident, on their way in and on their way out, all of one size, that are more than fit."""
    resident: set[object] = set()
    moving: dict[object, object] = {}
    found = []
    for event in events:
        match event["kind"]:
            case "server" | "forget":  # it ended, or lost some
                resident.clear()
                moving.clear()
            case "begin":
                moving[event["number"]] = event["model"] if event["order"] == "load" else None
            case "end":
                moving.pop(event["number"], None)
                if event["order"] == "load" and event["status"] == 200:
                    resident.add(event["model"])
                elif event["order"] == "unload" and event["status"] in {200, 404}:
                    resident.discard(event["model"])
        loading = [model for model in moving.values() if model is not None]
        if len(resident) + len(loading) > models_in_budget:
            found.append(f"{event}: {sorted(map(str, resident))} and {loading} on their way in")
    return found


def needless_ends(events: Iterable[Event]) -> list[str]:
    """Ends of the server that nobody caused from outside, by a life all through which the agent was there.

    An agent that was killed or stopped in mid-load can take nothing back before it is there again.
    """
    away = was_away = False
    found = []
    for event in events:
        match event["kind"]:
            case "away":
                away = was_away = True
            case "back":
                away = False
            case "ended":
                if event["code"] != -signal.SIGKILL and not was_away:
                    found.append(str(event))
                was_away = away
    return found


def lost(events: Sequence[Event], grace_seconds: float = 3.0) -> list[str]:
    """Models taken away that every document wanted for a while, and models gone that nobody took away."""
    return [*_taken(events, grace_seconds), *_gone(events, grace_seconds)]


def _taken(events: Sequence[Event], grace_seconds: float) -> list[str]:
    since: dict[object, float] = {}
    found = []
    for event in events:
        now = float(event["t"])
        match event["kind"]:
            case "want":
                since = {name: since.get(name, now) for name in event["models"]}
            case "begin" if event["order"] == "unload":
                wanted = since.get(event["model"], now)
                if now - wanted > grace_seconds:
                    found.append(f"{event}: wanted since {wanted}")
    return found


def _gone(events: Sequence[Event], grace_seconds: float) -> list[str]:
    """What no agent lived to see confirmed is taken back at the next start, and is no loss."""
    begun: dict[object, int] = {}
    confirmed: dict[object, float] = {}
    seen: set[object] = set()
    found, agent = [], 0
    for event in events:
        now = float(event["t"])
        match event["kind"], event.get("order"):
            case "agent", _:
                agent += 1
                confirmed = {name: at for name, at in confirmed.items() if now - at > grace_seconds}
            case "begin", "load":
                begun[event["number"]] = agent
            case "end", "load":
                if event["status"] == 200 and begun.get(event["number"]) == agent:
                    confirmed.setdefault(event["model"], now)
            case "begin" | "end", "unload":
                confirmed.pop(event["model"], None)
            case "server" | "forget", _:
                seen.clear()
            case "served", _:
                models = None if event["models"] is None else set(event["models"])
                if models is not None:
                    found += [f"{now}: {name} is gone" for name in sorted((seen & confirmed.keys()) - models)]
                seen = models or set()
    return found
