"""HTTP to one model server: bounded in time and in bytes, and exact about what is known afterwards.

The one law here: a call ends in a Reply, in Unreached (the server never saw the request) or in Lost
(it may have acted on it). Who gets Lost has to look up what happened.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from agent.core.words import printable
from agent.telemetry.traces import outgoing

BODY_LIMIT = 64 * 1024
INDEX_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, at most so many bytes of body as were asked for, and whether more followed."""

    status: int
    body: bytes
    truncated: bool = False
    retry_after_seconds: float | None = None

    def json(self) -> object:
        """Return the body as JSON, None where it is none (also for a body cut at the limit)."""
        if self.truncated:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            return None

    @property
    def route_missing(self) -> bool:
        """Tell a route that the server does not have from a model that it does not know.

        FastAPI servers (KServe, MLServer) put their own errors under `error`, the framework's under `detail`.
        """
        document = self.json()
        return self.status == 404 and not (isinstance(document, dict) and "error" in document)

    def words(self) -> str:
        """Return the server's own words on one printable line of at most 1 KiB.

        Of a Python traceback only what was raised, which stands after its last indented line.
        """
        document = self.json()
        text = None
        if isinstance(document, dict):
            text = document.get("error") or document.get("detail") or document.get("message")
        if not isinstance(text, str):
            text = self.body.decode("utf-8", "replace")
        if text.startswith("Traceback (most recent call last)"):
            lines = text.rstrip().splitlines()
            last = max((at for at, line in enumerate(lines) if line.startswith(" ")), default=-1)
            text = "\n".join(lines[last + 1 :]) or text
        return printable(text)


class Unreached(Exception):  # noqa: N818 - it names what happened to the request
    """The request never got to the server: refused, no such socket, no such name, no connection in time.

    `refused` tells the first two, where nobody listens any more, from the others.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Lost(Exception):  # noqa: N818 - it names what happened to the request
    """The request was sent and no answer is known.

    `timed_out` tells silence from a broken connection. `stale`: the connection had been used before, so
    it may have been at its end already, and the request may not have arrived at all (fault M11).
    """

    def __init__(self, message: str, *, timed_out: bool = False, stale: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.stale = stale


Print = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """How the server knows us and we know it: a bearer token, a client certificate, CA certificates.

    The token is read from its file for each request, the others when a file has changed, so that what was
    rotated counts at once. The key may be in the certificate's file.
    """

    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Return the header to send. Raises OSError where the token cannot be read. Blocks."""
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}

    def print(self) -> Print:
        """Return what changes with the certificate files. Raises OSError where one is gone. Blocks."""
        files = (self.ca_file, self.cert_file, self.key_file)
        stats = [file.stat() for file in files if file is not None]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def context(self) -> ssl.SSLContext | bool:
        """Return how certificates are shown and verified. Raises OSError where a file is no use. Blocks."""
        if self.ca_file is None and self.cert_file is None:
            return True
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        if self.cert_file is not None:
            # An encrypted key is refused: asking the terminal for its password would stop the agent.
            context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
        return context


class Wire:
    """The connections to one server, under `http(s)://host:port[/prefix]` or `unix:///path`.

    No environment proxy, no cookie, no redirect, no compressed answer. `where` is the address as it may
    be shown: without userinfo and query. Connections are kept for the next request unless *keep* is false.
    """

    def __init__(
        self, url: str, *, connect_seconds: float = 3.0, keep: bool = True, access: Access | None = None
    ) -> None:
        self.where, self._base, self._socket_path = _address(url)
        self._url = url
        self._connect_seconds = connect_seconds
        self._keep = keep
        self._access = access or Access()
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._tls: tuple[Print, ssl.SSLContext | bool] = ((), True)

    def unkept(self) -> "Wire":
        """Return a wire to the same server that makes a connection for each request."""
        return Wire(self._url, connect_seconds=self._connect_seconds, keep=False, access=self._access)

    async def get(self, path: str, *, seconds: float, limit: int = BODY_LIMIT) -> Reply:
        """GET *path* (quoted already) within *seconds*, the body included."""
        return await self._ask("GET", path, None, seconds, limit)

    async def post(self, path: str, body: bytes, *, seconds: float, limit: int = BODY_LIMIT) -> Reply:
        """POST JSON to *path*, to ask and not to change: it may be sent twice."""
        return await self._ask("POST", path, body, seconds, limit)

    async def order(self, path: str, body: bytes, *, seconds: float, fresh: bool = False) -> Reply:
        """POST JSON to *path* to have something done: sent once.

        With *fresh* on a connection made for it, so that a break is the server's doing and never `stale`.
        """
        return await self._once("POST", path, body, seconds, BODY_LIMIT, kept=not fresh)

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def _ask(self, method: str, path: str, body: bytes | None, seconds: float, limit: int) -> Reply:
        """Ask, and again where the connection may be to blame.

        A kept one may have died unnoticed; a fresh one may have been put behind somebody's long request
        (see TritonServer), so that another connection is answered at once.
        """
        if self._keep:
            try:
                return await self._once(method, path, body, seconds, limit, kept=True)
            except Lost as lost:
                if not lost.stale:
                    raise
            return await self._once(method, path, body, seconds, limit, kept=False)
        for part in (0.1, 0.3):
            try:
                return await self._once(method, path, body, seconds * part, limit, kept=False)
            except Lost as lost:
                if not lost.timed_out:
                    raise
        return await self._once(method, path, body, seconds * 0.6, limit, kept=False)

    async def _once(
        self, method: str, path: str, body: bytes | None, seconds: float, limit: int, *, kept: bool
    ) -> Reply:
        trace = SimpleNamespace(reused=False)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=None, sock_connect=self._connect_seconds)
        try:
            headers, tls = await self._credentials()
        except (OSError, ValueError) as error:
            raise Unreached(_unusable(error)) from error
        try:
            async with self._session(kept=kept).request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers={**outgoing(), **headers},
                timeout=timeout,
                allow_redirects=False,
                ssl=tls,
                trace_request_ctx=trace,
            ) as response:
                return await _bounded(response, limit)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreached(_cause(error), refused=_refused(error)) from error
        except TimeoutError as error:
            raise Lost(f"no answer within {seconds:g} s", timed_out=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Lost(_cause(error), stale=trace.reused) from error

    async def _credentials(self) -> tuple[dict[str, str], ssl.SSLContext | bool]:
        """Return the headers to send and how to speak TLS; another context makes other connections."""
        return ({}, True) if self._access == Access() else await asyncio.to_thread(self._read_access)

    def _read_access(self) -> tuple[dict[str, str], ssl.SSLContext | bool]:
        now = self._access.print()
        if now != self._tls[0]:
            self._tls = (now, self._access.context())
        return self._access.headers(), self._tls[1]

    def _session(self, *, kept: bool) -> aiohttp.ClientSession:
        """Return the session that keeps connections, or the one that does not.

        Each is made at its first call, since it belongs to the running loop.
        """
        kept = kept and self._keep
        if kept not in self._sessions:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._sessions[kept] = aiohttp.ClientSession(
                connector=self._connector(kept=kept),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                trace_configs=[trace],
            )
        return self._sessions[kept]

    def _connector(self, *, kept: bool) -> aiohttp.BaseConnector:
        if self._socket_path is not None:
            return aiohttp.UnixConnector(path=self._socket_path, force_close=not kept)
        return aiohttp.TCPConnector(limit=32, force_close=not kept)


def quoted(name: str) -> str:
    """Return a name as one segment of a path; `.` and `..` cannot climb, `/` cannot split.

    A server may list any name, half of a surrogate pair too: a JSON text can hold it, UTF-8 cannot.
    """
    segment = quote(name, safe="", errors="surrogatepass")
    return segment.replace(".", "%2E") if set(name) == {"."} else segment


def _address(url: str) -> tuple[str, str, str | None]:
    """Return the address as shown, the base of request URLs, and a socket's path."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if not path.startswith("/") or parts.netloc:
            raise ValueError(f"a socket is written unix:///path, not {printable(url)}")
        return f"unix://{path}", "http://localhost", path
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a model server is addressed as http://host:port, https://host:port or unix:///path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port is not None else ""
    prefix = parts.path.rstrip("/")
    return f"{parts.scheme}://{host}{port}{prefix}", f"{parts.scheme}://{parts.netloc}{prefix}", None


async def _note_reuse(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.reused = True


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> Reply:
    """Read at most *limit* bytes; what follows is not read, and its connection is given up."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            break
    return Reply(response.status, bytes(body[:limit]), len(body) > limit, _retry_after(response.headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After where it is a number of seconds; its date form is not used by model servers."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _unusable(error: OSError | ValueError) -> str:
    why = error.strerror if isinstance(error, OSError) else None
    return f"a file with its token or certificates cannot be used ({why or type(error).__name__})"


def _refused(error: Exception) -> bool:
    why = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    return isinstance(why, ConnectionRefusedError | FileNotFoundError)


def _cause(error: BaseException) -> str:
    """Name an error shortly; aiohttp's own texts repeat the address, which may hold userinfo."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name cannot be resolved"
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror, 200).lower()
    return printable(type(error).__name__, 200)
