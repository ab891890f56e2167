"""The status port: /status, /events, /metrics, /healthz, /readyz. Read only, and it never touches a model.

The answers are those of openapi.json beside this file; a test holds the two together.
"""

import time
from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

from agent.core.model import ModelName
from agent.telemetry.board import Board
from agent.web.answers import Tagged, tagged_by_content
from agent.web.events import EventStream
from agent.web.journal import Journal
from agent.web.pages import Pages
from agent.web.render import Renderer, encoded
from agent.web.share import Share, is_there
from agent.web.waiting import Waiting, asked

MAX_PAGE = 10_000
Scrape = Callable[[str], tuple[bytes, str]]
"""From an Accept header to metrics and their content type."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StatusSite:
    """The application behind the status port.

    *alive* says whether the agent's own services turn; the process itself answering is the rest.
    """

    def __init__(self, board: Board, renderer: Renderer, alive: Callable[[], bool], scrape: Scrape) -> None:
        self._board, self._renderer, self._alive, self._scrape = board, renderer, alive, scrape
        self._journal = Journal(board)
        self._events = EventStream(self._journal, renderer)
        self._waiting = Waiting(board, self._journal)
        self._share = Share()
        self._tagged = Tagged(self._share)
        self._pages = Pages()

    def application(self) -> web.Application:
        """Return a new application; GET and HEAD are all it knows."""
        application = web.Application(middlewares=[_plain_errors])
        application.router.add_get("/", self._pages.index)
        application.router.add_get("/page/{name}", self._pages.file)
        application.router.add_get("/favicon.ico", self._pages.icon)
        application.router.add_get("/status", self.status)
        application.router.add_get("/status/{name}", self.model)
        application.router.add_get("/events", self._events.serve, allow_head=False)
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/openapi.json", self.openapi)
        application.on_shutdown.append(self._let_go)
        return application

    async def status(self, request: web.Request) -> web.Response:
        """Answer with everything; with `limit` one page, and `continue` names where the next begins.

        With `wait` and `timeout` it answers once that document was dealt with, see `agent.web.waiting`.
        """
        limit, wanted = _limit(request), asked(request)
        extra: dict[str, object] = {}
        if wanted is not None:
            extra["waited"] = await self._waiting.wait(*wanted, lambda: is_there(request))
        after = request.query.get("continue", "")
        return await self._tagged.answer(
            request, lambda: self._tag(extra), lambda: self._document(limit, after, extra)
        )

    def _document(self, limit: int | None, after: str, extra: dict[str, object]) -> bytes:
        names = self._renderer.names()
        if limit is None and not after:
            return self._renderer.document(names, extra)
        limit = limit or MAX_PAGE
        page = [name for name in names if name > after]
        following = page[limit - 1] if len(page) > limit else None
        return self._renderer.document(page[:limit], {"continue": following} | extra)

    def _tag(self, extra: dict[str, object]) -> str:
        """Name what would be answered: it changes with the board, and each second while bytes move."""
        journal = self._journal
        second = f"-{int(time.time())}" if journal.moving else ""
        return f"{journal.mark(journal.position)}{second}{'-waited' if extra.get('waited') else ''}"

    async def model(self, request: web.Request) -> web.Response:
        """Answer with one model, its explanation and its history."""
        name = request.match_info["name"]
        status = self._board.models.get(ModelName(name))
        if status is not None:
            return tagged_by_content(request, self._renderer.explained(status))
        refusal = self._board.refusal_of(name)
        if refusal is None or refusal.whole:
            return _json(self._renderer.unknown(name), 404)
        return tagged_by_content(request, self._renderer.refused(name, refusal))

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with what Prometheus reads, as OpenMetrics where it is asked for."""
        async with self._share.turn():
            if not is_there(request):
                return web.Response(status=499)
            await self._share.rested()
            with self._share.making():
                body, content_type = self._scrape(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer 200 while the loop turns and few threads are lost to libraries that hang."""
        if self._alive():
            return _words(200, "ok")
        return _words(503, "the reconciler has not turned lately, or calls into libraries never came back")

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer 200 once the first set was tried (design §8.5); `verbose` lists what is missing."""
        missing = self._board.missing()
        if not missing:
            return _words(200, "ok")
        listed = "\n".join(missing) if "verbose" in request.query else f"waits for {len(missing)} more"
        return _words(503, listed)

    async def _let_go(self, _: web.Application) -> None:
        self._journal.close()
        self._waiting.let_go()

    async def openapi(self, _: web.Request) -> web.Response:
        """Answer with the description of this interface."""
        return _json(resources.files("agent.web").joinpath("openapi.json").read_bytes())


def _limit(request: web.Request) -> int | None:
    text = request.query.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_PAGE):
        raise web.HTTPBadRequest(text=f"limit must be a whole number from 1 to {MAX_PAGE}")
    return int(text)


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give errors of the router and of parameters the shape of all others."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        reason = error.reason.title().replace(" ", "")
        answer = _error(error.status, reason, error.text or error.reason)
        for name in ("Allow", "Retry-After"):
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, reason: str, message: str) -> web.Response:
    return _json(encoded({"reason": reason, "message": message}), status)


def _words(status: int, text: str) -> web.Response:
    return web.Response(text=text + "\n", status=status)
