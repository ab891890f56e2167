"""The status port: /status, /metrics, /healthz, /readyz. Read only, and it never touches a model.

The answers are those of openapi.json beside this file; a test holds the two together.
"""

from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

from agent.core.model import ModelName
from agent.telemetry.board import Board
from agent.web.render import Renderer, encoded

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

    def application(self) -> web.Application:
        """Return a new application; GET and HEAD are all it knows."""
        application = web.Application(middlewares=[_plain_errors])
        application.router.add_get("/status", self.status)
        application.router.add_get("/status/{name}", self.model)
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/openapi.json", self.openapi)
        return application

    async def status(self, request: web.Request) -> web.Response:
        """Answer with everything; with `limit` one page, and `continue` names where the next begins."""
        names = self._renderer.names()
        limit = _limit(request)
        if limit is None:
            return _json(self._renderer.document(names))
        after = request.query.get("continue", "")
        page = [name for name in names if name > after]
        more = len(page) > limit
        following = {"continue": page[limit - 1] if more else None}
        return _json(self._renderer.document(page[:limit], following))

    async def model(self, request: web.Request) -> web.Response:
        """Answer with one model, its explanation and its history."""
        name = request.match_info["name"]
        status = self._board.models.get(ModelName(name))
        if status is None:
            return _error(404, "NotFound", f"no model named {name[:253]!r} is wanted or served")
        return _json(self._renderer.explained(status))

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with what Prometheus reads, as OpenMetrics where it is asked for."""
        body, content_type = self._scrape(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer 200 while the loop turns."""
        return _words(200, "ok") if self._alive() else _words(503, "the reconciler has not turned lately")

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer 200 once the first set was tried (design §8.5); `verbose` lists what is missing."""
        missing = self._board.missing()
        if not missing:
            return _words(200, "ok")
        listed = "\n".join(missing) if "verbose" in request.query else f"waits for {len(missing)} more"
        return _words(503, listed)

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
        if isinstance(error, web.HTTPMethodNotAllowed):
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, reason: str, message: str) -> web.Response:
    return _json(encoded({"reason": reason, "message": message}), status)


def _words(status: int, text: str) -> web.Response:
    return web.Response(text=text + "\n", status=status)
