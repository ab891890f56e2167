"""A small http server for the demo's models: ranges, ETags, and slow enough for a person to watch."""

import asyncio
import hashlib
from collections.abc import Mapping

from aiohttp import web

PIECE = 256 * 1024


class ArtifactServer:
    """Serves *files* (path to bytes) at about *bytes_per_second* a connection; `requests` counts."""

    def __init__(self, files: Mapping[str, bytes], bytes_per_second: float) -> None:
        self.files = dict(files)
        self.requests = 0
        self._pause = PIECE / bytes_per_second

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application()
        app.router.add_get("/{path:.+}", self._get)
        return app

    async def _get(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.match_info["path"])
        if content is None:
            return web.Response(status=404)
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if request.headers.get("If-Match", etag) not in {etag, "*"}:
            return web.Response(status=412)
        try:
            wanted = range(len(content))[request.http_range]
        except ValueError:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        answer = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        answer.headers["ETag"] = etag
        answer.headers["Accept-Ranges"] = "bytes"
        answer.content_length = len(wanted)
        if answer.status == 206:
            answer.headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{len(content)}"
        await answer.prepare(request)
        if request.method == "GET":
            self.requests += 1
            for start in range(wanted.start, wanted.stop, PIECE):
                await answer.write(content[start : min(start + PIECE, wanted.stop)])
                await asyncio.sleep(self._pause)
        await answer.write_eof()
        return answer
