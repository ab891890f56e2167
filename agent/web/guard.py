"""Who may read the status port: no web page by way of its reader's browser, and with a token who has it.

A page can point a name of its own at this pod and have a browser ask (DNS rebinding); the Host it sends
then is that name. Addresses, single labels and names of the cluster cannot be such a name (fault X5).
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from agent.aio.spare import Spare
from agent.core.reach import host_allowed
from agent.web.render import encoded

PROBES = frozenset({"/healthz", "/readyz"})
"""What the kubelet asks; it has no token."""

PAGE = frozenset({"/", "/page/{name}", "/favicon.ico"})
"""The page's own files, which say nothing of the pod: the page itself asks its reader for the token."""

MAX_TOKEN_BYTES = 64 * 1024
_INSIDE = ("*.svc", "*.local", "*.localhost")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(
    hosts: Sequence[str] = (), token_file: Path | None = None, spare: Spare | None = None
) -> Middleware:
    """Return a middleware that lets in by Host, also by *hosts*, and by the token in *token_file*.

    The file is read for each request, by one of *spare* if need be, so that a rotated token counts at
    once; while it cannot be read nobody is let in but the probes.
    """
    kept = spare or Spare(0)

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not host_is_safe(request.headers.get("Host", ""), hosts):
            return _refusal(
                421, "MisdirectedRequest", "this Host is not served; name it by --status-allow-host"
            )
        if token_file is not None and not _free(request):
            known = await asyncio.to_thread(token_of, token_file, kept)
            kept.take_back()
            given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if known is None or not hmac.compare_digest(given.encode(), known.encode()):
                answer = _refusal(401, "Unauthorized", "this agent asks for its bearer token")
                answer.headers["WWW-Authenticate"] = "Bearer"
                return answer
        return await handler(request)

    return keep


def _free(request: web.Request) -> bool:
    """Tell whether a request needs no token."""
    resource = request.match_info.route.resource
    if resource is not None and resource.canonical in PAGE:
        return True
    return request.path in PROBES and not request.query_string


def host_is_safe(header: str, hosts: Sequence[str] = ()) -> bool:
    """Tell whether a Host is none that a stranger could have a browser send; none at all is no browser's."""
    host = header.strip().lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if not host or "." not in host.rstrip("."):
        return True
    try:
        ip_address(host)
    except ValueError:
        return host_allowed(host, (*_INSIDE, *hosts))
    return True


def token_of(file: Path, spare: Spare) -> str | None:
    """Return the token in *file*, None where there is none to be read. Blocks."""
    try:
        with spare.used_for(lambda: file.open("rb")) as opened:
            text = opened.read(MAX_TOKEN_BYTES).decode()
    except (OSError, ValueError):
        return None
    return text.strip() or None


def _refusal(status: int, reason: str, message: str) -> web.Response:
    body = encoded({"reason": reason, "message": message})
    return web.Response(body=body, status=status, content_type="application/json")
