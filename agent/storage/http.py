"""`https://` and `http://`: one object a URI.

Redirects are followed when it is listed, by the rules of `agent.storage.web`, never by whoever reads.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from aiohttp.abc import AbstractResolver

from agent.core.errors import AgentError, RetryableError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.answers import checksums, http_date, status_error
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.trust import trust_of
from agent.storage.web import REDIRECTS, Answer, WebClient, complete, follow
from agent.storage.weburl import WebUrl, credentials, file_name, web_url

MAX_REMEMBERED = 4096  # resolved URLs with their redirects, about 2 KiB each
MAX_AT_ONCE = 32  # listings in flight
FRESH_SECONDS = 10.0  # a target refused sooner than this after its redirect did not expire

_HEAD_REFUSED = {400, 403, 404, 405, 501}


@dataclass(slots=True)
class _Resolved:
    """What is remembered of one URI, so that reading it needs no other request."""

    first: WebUrl
    final: WebUrl
    headers: Mapping[str, str] = field(repr=False)
    expect: Mapping[str, str]
    identity: str
    resolved_at: float
    expired: bool = False
    only_get_redirects: bool = False


@dataclass(frozen=True, slots=True)
class _Answers:
    """Reads answers of one remembered URI; a redirect's target that refuses is asked for anew."""

    where: str
    expire: Callable[[], bool] = field(repr=False)
    redirects: Callable[[], None] = field(repr=False)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        """Translate by status; a redirect's target that refuses may be one whose signature expired."""
        del body
        if status in REDIRECTS:
            self.redirects()
            return RetryableError(
                Reason.SNAPSHOT_CHANGED,
                f"{self.where} redirects whoever asks for its bytes, though not who asks for its headers; it "
                "is looked at anew",
            )
        if status in {400, 401, 403, 410} and self.expire():
            return RetryableError(
                Reason.ACCESS_DENIED,
                f"what {self.where} redirected to is refused by now (status {status}); it is asked for anew",
            )
        return status_error(status, headers, self.where)

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the declared checksums of the whole object."""
        return checksums(headers)


class HttpProvider:
    """One object of an http server: whole or by range, pinned to its ETag or its date.

    *environ* holds `<host>-headers`, the proxies and the CA bundles. Without an ETag and a date the
    object is not pinned. *policy* is asked of each address before it is connected to, and *allowed_hosts*
    names the only hosts to ask, where it names any; both hold for each redirect.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        policy: AddressPolicy = permit_all,
        allowed_hosts: Sequence[str] = (),
        resolver: AbstractResolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        remember: int = MAX_REMEMBERED,
    ) -> None:
        self._environ = environ
        self._clock = clock
        self._remember_at_most = remember
        self._trust = trust_of(environ)
        self._web = WebClient(
            environ, self._trust, policy=policy, allowed_hosts=allowed_hosts, resolver=resolver
        )
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._remembered: OrderedDict[str, _Resolved] = OrderedDict()

    @property
    def hanging(self) -> int:
        """None: it has no thread that a library could keep."""
        return 0

    async def resolve(self, uri: str) -> Listing:
        """Ask for the object's headers; the listing has this one object."""
        first = web_url(uri)
        known = self._remembered.get(first.key)
        answer = await self._ask(first, get=known is not None and known.only_get_redirects)
        obj = self._object(first, answer)
        self._remember(obj.key, first, answer, obj.identity)
        return Listing((obj,), single=True)

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Say what to request; makes no request itself unless a redirect's target has expired."""
        found = self._remembered.get(obj.key)
        if found is None or found.expired:
            found = await self._again(obj, found)
        final = found.final
        secure = final.origin.scheme == "https"
        return HttpSource(
            url=final.request,
            answers=_Answers(
                found.first.shown, lambda: self._expire(found), lambda: self._only_get_redirects(found)
            ),
            headers=complete(found.headers),
            expect=found.expect,
            ssl_context=await self._trust.context() if secure else None,
            proxy=self._web.proxy(final),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()

    def _object(self, first: WebUrl, answer: Answer) -> RemoteObject:
        headers = answer.headers
        size = _size(answer)
        validator = _validator(headers)
        told = validator or ("unknown", "")
        return RemoteObject(
            path=file_name(first, headers.get("content-disposition")),
            key=first.key,
            size=size,
            identity=f"{first.key}#{told[0]}={told[1]};size={'?' if size is None else size}",
            pinned=told[0] == "etag" or (told[0] == "last-modified" and not _just_changed(headers)),
            checksums=checksums(headers),
            media_type=headers.get("content-type", "").partition(";")[0].strip().lower() or None,
        )

    def _remember(self, key: str, first: WebUrl, answer: Answer, identity: str) -> _Resolved:
        validator = _validator(answer.headers)
        resolved = _Resolved(
            first=first,
            final=answer.url,
            headers=answer.sent,
            expect=dict([validator]) if validator else {},
            identity=identity,
            resolved_at=self._clock(),
            only_get_redirects=key in self._remembered and self._remembered[key].only_get_redirects,
        )
        self._remembered[key] = resolved
        self._remembered.move_to_end(key)
        if len(self._remembered) > self._remember_at_most:
            self._remembered.popitem(last=False)
        return resolved

    def _expire(self, resolved: _Resolved) -> bool:
        """Note that a redirect's target refuses; False where asking for it anew would not help."""
        if resolved.final == resolved.first or self._clock() - resolved.resolved_at < FRESH_SECONDS:
            return False
        resolved.expired = True
        return True

    def _only_get_redirects(self, resolved: _Resolved) -> None:
        """Note that HEAD does not tell where the bytes are."""
        resolved.expired = resolved.only_get_redirects = True

    async def _again(self, obj: RemoteObject, found: _Resolved | None) -> _Resolved:
        if found is None and "?" in obj.key:
            raise RetryableError(
                Reason.SNAPSHOT_CHANGED, f"{obj.key.partition('?')[0]} was listed too long ago; list it again"
            )
        first = found.first if found else web_url(obj.key)
        answer = await self._ask(first, get=found is not None and found.only_get_redirects)
        now = self._object(first, answer)
        if now.identity != obj.identity:
            raise RetryableError(Reason.SNAPSHOT_CHANGED, f"{first.shown} is not what was listed any more")
        return self._remember(obj.key, first, answer, now.identity)

    async def _ask(self, first: WebUrl, *, get: bool) -> Answer:
        """Follow the redirects to the object's own headers; raises for any other end."""
        async with self._slots:
            return await follow(first, credentials(self._environ, first), partial(self._look, get=get))

    async def _look(self, url: WebUrl, headers: Mapping[str, str], *, get: bool) -> Answer:
        """Ask by HEAD, and by *get* for the first byte, as where HEAD is refused or tells no size."""
        answer = None if get else await self._web.ask("HEAD", url, headers)
        if answer is not None:
            sized = answer.headers.get("content-length", "0") != "0"
            if answer.status in REDIRECTS or (answer.status == 200 and sized):
                return answer
        if answer is None or answer.status == 200 or answer.status in _HEAD_REFUSED:
            answer = await self._web.ask("GET", url, {**headers, "Range": "bytes=0-0"})
            if answer.status == 416:  # no byte 0: it is empty
                answer = await self._web.ask("GET", url, headers)
            if answer.status in {200, 206, *REDIRECTS}:
                return Answer(url, answer.status, answer.headers, headers)
        raise status_error(answer.status, answer.headers, url.shown)


def _size(answer: Answer) -> int | None:
    """The object's size: of a partial answer the total, of a whole one its length, None if chunked."""
    headers = answer.headers
    if answer.status == 200:
        text = headers.get("content-length", "")
    else:
        text = headers.get("content-range", "").rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() else None


def _validator(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The header that proves a version, with its value: the ETag, a weak one too, else the date.

    One beyond ASCII does not count: clients read its bytes as different texts.
    """
    for name in ("etag", "last-modified"):
        if headers.get(name) and headers[name].isascii():
            return name, headers[name]
    return None


def _just_changed(headers: Mapping[str, str]) -> bool:
    """Tell whether the date is of this very second: a second change in it would go unseen."""
    changed, now = http_date(headers.get("last-modified", "")), http_date(headers.get("date", ""))
    return changed is not None and now is not None and now - changed < 1
