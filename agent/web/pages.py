"""The page at `/`: files of the package as they are, with a policy that lets in nothing from outside."""

import hashlib
from importlib import resources

from aiohttp import web

from agent.web.answers import knows

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "parts.js": "text/javascript",
    "detail.js": "text/javascript",
    "going.js": "text/javascript",
    "head.js": "text/javascript",
    "line.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """The files of the page, read once."""

    def __init__(self) -> None:
        folder = resources.files("agent.web").joinpath("page")
        self._files = {name: folder.joinpath(name).read_bytes() for name in TYPES}
        self._tags = {
            name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in self._files.items()
        }

    async def index(self, request: web.Request) -> web.Response:
        """Answer with the page."""
        return self._answer(request, "index.html")

    async def file(self, request: web.Request) -> web.Response:
        """Answer with one of the files that the page names."""
        return self._answer(request, request.match_info["name"])

    async def icon(self, request: web.Request) -> web.Response:
        """Answer to browsers that ask for /favicon.ico whatever a page says."""
        return self._answer(request, "icon.svg")

    def _answer(self, request: web.Request, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound(text=f"the page has no file {name[:100]!r}")
        headers = {**_HEADERS, "ETag": self._tags[name]}
        if knows(request.headers.get("If-None-Match", ""), self._tags[name]):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=self._files[name], content_type=TYPES[name], charset="utf-8", headers=headers
        )
