"""Asking http servers for headers and small bodies; shared by the providers that speak http themselves.

Redirects are followed here, never by whoever reads: at most five, never from https to http, and what was
given for the first origin goes to no other (design §8.13, faults S12, X11).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from agent.core.errors import RetryableError, TerminalError
from agent.core.reach import host_allowed
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.connection import network_error
from agent.storage.connector import connector
from agent.storage.proxies import proxies_of, proxy_for
from agent.storage.trust import Trust
from agent.storage.weburl import WebUrl, redirected
from agent.telemetry.traces import outgoing

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_ALWAYS = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "model-agent"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The headers of an answer, by lower-case name, and what of its body was asked for.

    `sent` are the headers that its URL may be given. `status` is that of a redirect where `url` is the
    target of one that was not followed.
    """

    url: WebUrl
    status: int
    headers: Mapping[str, str]
    sent: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


Look = Callable[[WebUrl, Mapping[str, str]], Awaitable[Answer]]


class WebClient:
    """Makes single requests under the environment's proxies and an address policy. Needs a running loop.

    *allowed_hosts* names the only hosts to ask, where it names any.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        trust: Trust,
        *,
        policy: AddressPolicy = permit_all,
        allowed_hosts: Sequence[str] = (),
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._environ, self._trust = environ, trust
        self._policy, self._allowed_hosts, self._resolver = policy, allowed_hosts, resolver
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        url: WebUrl,
        headers: Mapping[str, str],
        *,
        most: int = 0,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer's headers, whatever it says, and at most *most* bytes of its body.

        *form* is what a POST brings.
        Raises RetryableError(StorageError) for a longer body, where any of it was asked for.
        """
        if not host_allowed(url.origin.hostname, self._allowed_hosts):
            message = f"{url.shown}: --allow-host does not name its host; ask for it to be added"
            raise TerminalError(Reason.FORBIDDEN_ADDRESS, message)
        secure = url.origin.scheme == "https"
        context = await self._trust.context() if secure else True
        try:
            async with self._opened().request(
                method,
                URL(url.request, encoded=True),
                headers=complete(headers),
                data=form,
                allow_redirects=False,
                ssl=context,
                proxy=self.proxy(url),
            ) as response:
                found = {name.lower(): value for name, value in response.headers.items()}
                body = await _body(response, most, url) if most else b""
                if method == "GET" and not most:
                    response.close()
                return Answer(url, response.status, found, headers, body)
        except (aiohttp.ClientError, OSError) as error:
            raise network_error(error, url.shown) from None

    def proxy(self, url: WebUrl) -> str | None:
        """Return the proxy that leads to *url*, None where it is asked straight."""
        origin = url.origin
        return proxy_for(proxies_of(self._environ), origin.scheme, origin.hostname, origin.port)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(self._policy, resolver=self._resolver),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=CONNECT_SECONDS,
                    sock_connect=CONNECT_SECONDS,
                    sock_read=ANSWER_SECONDS,
                ),
                max_line_size=32768,
                max_field_size=32768,
            )
        return self._session


async def _body(response: aiohttp.ClientResponse, most: int, url: WebUrl) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            response.close()
            raise RetryableError(Reason.STORAGE_ERROR, f"{url.shown} answers with more than {most:,} bytes")
    return bytes(body)


async def follow(
    first: WebUrl,
    headers: Mapping[str, str],
    look: Look,
    stop: Callable[[Answer, WebUrl], bool] = lambda redirect, target: False,  # noqa: ARG005 - the plain rule
) -> Answer:
    """Return what *look* finds at the end of the redirects from *first*; *headers* are for its origin only.

    Where *stop* says so of a redirect and its target, that target is not asked: the redirect's status and
    headers are returned under it. Raises TerminalError(RedirectRefused) for a circle and for too many.
    """
    url, seen = first, {first.request}
    for _ in range(MAX_REDIRECTS + 1):
        answer = await look(url, headers)
        if answer.status not in REDIRECTS:
            return answer
        url = redirected(url, answer.headers.get("location", "mailto:nobody"))
        if url.request in seen:
            raise TerminalError(
                Reason.REDIRECT_REFUSED, f"{first.shown} redirects in a circle, by {url.shown}"
            )
        seen.add(url.request)
        if url.origin != first.origin:
            headers = {}
        if stop(answer, url):
            return Answer(url, answer.status, answer.headers, headers)
    raise TerminalError(Reason.REDIRECT_REFUSED, f"{first.shown} redirects more than {MAX_REDIRECTS} times")


def complete(headers: Mapping[str, str]) -> dict[str, str]:
    """Add what every request says, unless it was given."""
    given = {name.lower() for name in headers}
    always = {**_ALWAYS, **outgoing()}
    return {**{name: value for name, value in always.items() if name.lower() not in given}, **headers}
