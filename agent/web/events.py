"""/events: what changes, as server-sent events (WHATWG HTML §9.2), resumable, and bounded a reader.

A reader that lags is told less often and never less; one that takes nothing for half a minute is let go.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from aiohttp import web

from agent.web.journal import Changes, Journal
from agent.web.render import Renderer, encoded
from agent.web.share import is_there

MOST_MODELS = 200  # of one message, so that a reader's buffer is small
BEAT_SECONDS = 0.1  # changes of so long are one message
PROGRESS_SECONDS = 1.0
THERE_SECONDS = 2.0  # between two looks whether a reader that hears nothing is still there
QUIET_SECONDS = 15.0  # a comment so often keeps proxies and readers sure of the line
_KEPT = 8  # messages that readers who stand at the same place share


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many may read at once, and how long a reader may take nothing."""

    readers: int = 100
    patience_seconds: float = 30.0


class EventStream:
    """Serves /events; `readers` counts who is there."""

    def __init__(self, journal: Journal, renderer: Renderer, bounds: Bounds | None = None) -> None:
        self.readers = 0
        self._bounds = bounds or Bounds()
        self._journal, self._renderer = journal, renderer
        self._made: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send events until the reader or the agent goes."""
        if self.readers >= self._bounds.readers:
            raise web.HTTPServiceUnavailable(
                text=f"{self.readers} readers follow already", headers={"Retry-After": "30"}
            )
        self.readers += 1
        try:
            return await self._follow(request)
        finally:
            self.readers -= 1

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
        await response.prepare(request)
        mark = request.headers.get("Last-Event-ID", "")
        try:
            await self._send(response, b"retry: 1000\n\n")
            position = self._journal.position_of(mark)
            if position is None:
                position = await self._anew(response)
            await self._tell(request, response, position)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()  # it takes nothing: what is buffered for it goes too
        return response

    async def _anew(self, response: web.StreamResponse) -> int:
        """Have the reader read all of /status; return where it goes on."""
        position = self._journal.position
        await self._send(response, _event("resync", self._journal.mark(position), b"{}"))
        return position

    async def _tell(self, request: web.Request, response: web.StreamResponse, position: int) -> None:
        clock, journal = asyncio.get_running_loop().time, self._journal
        progress_at, quiet_at = 0.0, clock() + QUIET_SECONDS
        while not journal.closed and is_there(request):
            changes = journal.since(position, MOST_MODELS)
            if changes is None:
                position = await self._anew(response)
            elif changes.upto > position:
                await self._send(response, self._message(position, changes))
                position = changes.upto
            if position < journal.position:
                continue
            if journal.moving and clock() >= progress_at:
                await self._send(response, self._progress())
                progress_at = clock() + PROGRESS_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            heard = await journal.beyond(position, PROGRESS_SECONDS if journal.moving else THERE_SECONDS)
            if heard or journal.moving:
                quiet_at = clock() + QUIET_SECONDS
            elif clock() >= quiet_at:
                await self._send(response, b": quiet\n\n")
                quiet_at = clock() + QUIET_SECONDS

    def _message(self, position: int, changes: Changes) -> bytes:
        key = (position, changes.upto)
        if changes.upto == self._journal.position and key in self._made:
            return self._made[key]
        body = self._renderer.changes(changes.names, head=changes.head, config=changes.config)
        made = self._made[key] = _event("changes", self._journal.mark(changes.upto), body)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return made

    def _progress(self) -> bytes:
        return _event("progress", None, encoded(self._renderer.progress(self._journal.moving)))

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._bounds.patience_seconds):
            await response.write(data)


def _event(kind: str, mark: str | None, data: bytes) -> bytes:
    line = f"id: {mark}\n".encode() if mark is not None else b""
    return b"event: " + kind.encode() + b"\n" + line + b"data: " + data + b"\n\n"
