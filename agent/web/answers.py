"""Bodies on their way out: ETag and If-None-Match (RFC 9110 §8.8.3, §13.1.2), gzip where it is taken."""

import asyncio
import hashlib
import re
import zlib
from collections.abc import Callable

from aiohttp import web

from agent.web.share import Share, is_there

SMALL_BYTES = 1024
INLINE_BYTES = 64 * 1024  # more than this is compressed on a thread
_GZIP = 16 + zlib.MAX_WBITS
_REFUSED = re.compile(r"gzip\s*;\s*q=0(?:\.0{0,3})?\s*(?:,|$)")


class Tagged:
    """Answers with a JSON body that *make* gives, made and compressed once for each value of *tag*.

    The last body is kept, and its compressed form. However many ask at once, each is made once; `packs`
    counts how often bytes were compressed.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self.packs = 0
        self._key = ("", "")
        self._body, self._packed = b"", b""

    async def answer(
        self, request: web.Request, tag: Callable[[], str], make: Callable[[], bytes]
    ) -> web.Response:
        """Return 304 where the reader has it already, else the body."""
        now = tag()
        if knows(request.headers.get("If-None-Match", ""), _etag(now)):
            return web.Response(status=304, headers=_headers(now))
        zipped = takes_gzip(request.headers.get("Accept-Encoding", ""))
        async with self._share.turn():
            if not is_there(request):
                return web.Response(status=499)
            if self._key != (tag(), request.path_qs):
                await self._share.rested()
                self._make(tag(), request.path_qs, make)
            headers, body = _headers(self._key[0]), self._body
            if zipped and len(body) > SMALL_BYTES:
                headers["Content-Encoding"] = "gzip"
                body = await self._pack()
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _make(self, tag: str, path: str, make: Callable[[], bytes]) -> None:
        with self._share.making():
            self._key, self._body, self._packed = (tag, path), make(), b""

    async def _pack(self) -> bytes:
        if not self._packed:
            self.packs += 1
            with self._share.making():
                large = len(self._body) > INLINE_BYTES
                self._packed = await asyncio.to_thread(pack, self._body) if large else pack(self._body)
        return self._packed


def tagged_by_content(request: web.Request, body: bytes) -> web.Response:
    """Return 304 where the reader has this very body already, else the body."""
    tag = hashlib.sha256(body).hexdigest()[:16]
    if knows(request.headers.get("If-None-Match", ""), _etag(tag)):
        return web.Response(status=304, headers=_headers(tag))
    return web.Response(body=body, content_type="application/json", headers=_headers(tag))


def _etag(tag: str) -> str:
    return f'W/"{tag}"'


def _headers(tag: str) -> dict[str, str]:
    return {"ETag": _etag(tag), "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}


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
