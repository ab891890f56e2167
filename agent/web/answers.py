"""Bodies on their way out: ETag and If-None-Match (RFC 9110 §8.8.3, §13.1.2), gzip where it is taken."""

import asyncio
import re
import zlib
from collections.abc import Callable

from aiohttp import web

SMALL_BYTES = 1024
INLINE_BYTES = 64 * 1024  # more than this is compressed on a thread
_GZIP = 16 + zlib.MAX_WBITS
_REFUSED = re.compile(r"gzip\s*;\s*q=0(?:\.0{0,3})?\s*(?:,|$)")


class Tagged:
    """Answers with a JSON body that *make* gives, made and compressed once a *tag*.

    The last body is kept, and the last compressed one.
    """

    def __init__(self) -> None:
        self._body: tuple[object, bytes] = (None, b"")
        self._packed: tuple[object, bytes] = (None, b"")

    async def answer(self, request: web.Request, tag: str, make: Callable[[], bytes]) -> web.Response:
        """Return 304 where the reader has it already, else the body."""
        etag = f'W/"{tag}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if knows(request.headers.get("If-None-Match", ""), etag):
            return web.Response(status=304, headers=headers)
        key = (tag, request.path_qs)
        if self._body[0] != key:
            self._body = (key, make())
        body = self._body[1]
        if len(body) > SMALL_BYTES and takes_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            body = await self._pack(key, body)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _pack(self, key: object, body: bytes) -> bytes:
        if self._packed[0] != key:
            large = len(body) > INLINE_BYTES
            packed = await asyncio.to_thread(pack, body) if large else pack(body)
            self._packed = (key, packed)
            return packed
        return self._packed[1]


def pack(body: bytes) -> bytes:
    """Return *body* as gzip, quickly rather than small."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()


def takes_gzip(accept: str) -> bool:
    """Tell whether an Accept-Encoding asks for gzip."""
    accept = accept.lower()
    return "gzip" in accept and _REFUSED.search(accept) is None


def knows(if_none_match: str, etag: str) -> bool:
    """Tell whether an If-None-Match names *etag*, compared weakly."""
    known = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return "*" in known or etag.removeprefix("W/") in known
