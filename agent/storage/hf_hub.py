"""The Hugging Face Hub as we use it: which commit, which files in it, and where a file's bytes are.

Plain GETs and HEADs, the very ones that huggingface_hub makes (real-counterparts §2.5), so that neither its
package nor a thread is needed, and what is connected to is judged like any other. The endpoint is the
operator's own choice (HF_ENDPOINT) and is not judged; where it leads to is, and gets no token.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy
from agent.storage.answers import retry_after_seconds, status_error
from agent.storage.buckets import MAX_OBJECTS
from agent.storage.hf_uri import Place
from agent.storage.trust import Trust
from agent.storage.web import REDIRECTS, Answer, WebClient, follow
from agent.storage.weburl import WebUrl, web_url

HUB = "https://huggingface.co"
MAX_BODY = 1 << 26  # what the Hub tells of one repository: all its files' names
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_NEXT = re.compile(r"<([^<>]*)>\s*;\s*rel=\"?next\"?")
_WORD = re.compile(r"[A-Za-z]{1,40}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as the Hub lists it: `oid` of git, and the sha256 where it is kept outside of git."""

    path: str
    size: int
    oid: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a file's bytes are: `url` may be signed, `headers` are for it.

    `elsewhere`: it is not the Hub's own origin. `etag` is the validator that the bytes themselves bear;
    `linked` and `commit` are what the Hub said on the way of their content and their commit.
    """

    url: WebUrl
    headers: Mapping[str, str] = field(repr=False)
    elsewhere: bool
    etag: str | None
    linked: str | None
    commit: str | None


class Hub:
    """One Hub, as *environ* says."""

    def __init__(self, environ: Mapping[str, str], trust: Trust, policy: AddressPolicy) -> None:
        self._environ = environ
        endpoint = (environ.get("HF_ENDPOINT") or HUB).strip().rstrip("/")
        try:
            self.endpoint = web_url(endpoint)
        except TerminalError as error:
            raise TerminalError(error.reason, "HF_ENDPOINT is no http or https URL; correct it") from None
        self.web = WebClient(environ, trust)
        self._away = WebClient(environ, trust, policy=policy)

    async def close(self) -> None:
        """Close the connections."""
        await self.web.close()
        await self._away.close()

    async def commit(self, place: Place) -> tuple[Place, str]:
        """Return the commit that the revision is now, and the place under the repository's present name."""
        answer = await self._get(f"{place.api}/revision/{quote(place.revision, safe='')}", str(place))
        match await _parsed(answer, str(place)):
            case {"sha": str(commit), **rest} if _COMMIT.fullmatch(commit):
                name = rest.get("id")
                if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                    place = replace(place, repository=name)
                return place, commit
            case _:
                raise _odd(place)

    async def files(self, place: Place, commit: str, folder: str, *, deep: bool) -> list[Entry]:
        """Return the files below *folder*, all pages of them; *deep*: of its folders too."""
        path = f"{place.api}/tree/{commit}/{quote(folder, safe='/~')}".rstrip("/")
        query = f"recursive={'true' if deep else 'false'}&expand=false"
        found: list[Entry] = []
        seen = {query}
        count = 0
        while True:
            answer = await self._get(f"{path}?{query}", str(place))
            listed = await _parsed(answer, str(place))
            if not isinstance(listed, list):
                raise _odd(place)
            found += [entry for each in listed if (entry := _entry(each, place)) is not None]
            count += len(listed) + 1  # an empty page counts too, or it never ends
            if count > MAX_OBJECTS:
                raise TerminalError(
                    Reason.STORAGE_ERROR,
                    f"{place} holds more than {MAX_OBJECTS:,} files; name a folder of it",
                )
            following = _NEXT.search(answer.headers.get("link", ""))
            if following is None:
                return found
            query = urlsplit(following[1]).query  # only that: a mirror's link may lead past the mirror
            if query in seen:
                raise RetryableError(Reason.STORAGE_ERROR, f"{place} is listed the same page again and again")
            seen.add(query)

    async def land(self, place: Place, commit: str, path: str, *, chase: bool) -> Landing:
        """Say where a file's bytes are, without reading any.

        What the Hub redirects to is taken as it is: a signed URL, which may be for GET alone. *chase* asks
        there too, and goes on along further redirects.
        """
        where = f"{place}/{path}"
        first = self._url(place.file(commit, path))
        stop: Callable[[Answer, WebUrl], bool] = lambda _, target: not chase and self._is_away(target)  # noqa: E731 - one expression
        told: dict[str, str] = {}
        answer = await follow(first, await self._authorization(), partial(self._look, told), stop)
        if answer.status not in {200, 206, *REDIRECTS}:
            raise hub_error(answer.status, answer.headers, where, listed=True)
        return Landing(
            answer.url,
            answer.sent,
            elsewhere=self._is_away(answer.url),
            etag=answer.headers.get("etag") if answer.status not in REDIRECTS else None,
            linked=told.get("x-linked-etag"),
            commit=told.get("x-repo-commit"),
        )

    def _is_away(self, url: WebUrl) -> bool:
        return url.origin != self.endpoint.origin

    def _url(self, path: str) -> WebUrl:
        return web_url(self.endpoint.request.rstrip("/") + path)

    async def _look(self, told: dict[str, str], url: WebUrl, headers: Mapping[str, str]) -> Answer:
        """Ask one hop by HEAD; what it says of itself joins what was *told* before."""
        web = self._away if self._is_away(url) else self.web
        answer = await web.ask("HEAD", url, headers)
        told.update(answer.headers)
        if answer.status in {400, 403, 405, 501} and self._is_away(url):  # signed for GET alone
            return await web.ask("GET", url, {**headers, "Range": "bytes=0-0"})
        return answer

    async def _get(self, path: str, where: str) -> Answer:
        async def look(url: WebUrl, headers: Mapping[str, str]) -> Answer:
            web = self._away if self._is_away(url) else self.web
            return await web.ask("GET", url, headers, most=MAX_BODY)

        answer = await follow(self._url(path), await self._authorization(), look)
        if answer.status != 200:
            raise hub_error(answer.status, answer.headers, where)
        return answer

    async def _authorization(self) -> dict[str, str]:
        token = await asyncio.to_thread(token_of, self._environ)
        return {"Authorization": f"Bearer {token}"} if token else {}


def token_of(environ: Mapping[str, str]) -> str | None:
    """Return the token: HF_TOKEN, else the file that `hf auth login` wrote, read anew; None where neither is.

    Raises TerminalError(InvalidCredentials) for one that no header can hold.
    """
    token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
    source = "HF_TOKEN"
    hidden = environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in {"1", "on", "yes", "true"}
    if not token and not hidden:
        cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = environ.get("HF_HOME") or f"{cache}/huggingface"
        file = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token")
        try:
            token, source = file.expanduser().read_text(), str(file)
        except (OSError, ValueError, RuntimeError):  # the last: nobody's home
            return None
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise TerminalError(Reason.INVALID_CREDENTIALS, f"{source} holds no token of the Hub; correct it")
    return token or None


def hub_error(status: int, headers: Mapping[str, str], where: str, *, listed: bool = False) -> AgentError:
    """Translate a refusal of the Hub; *listed*: the file was there a moment ago."""
    match = _WORD.fullmatch(headers.get("x-error-code", ""))
    code = match[0] if match else ""
    said = f"({status} {code})" if code else f"(status {status})"
    if code == "GatedRepo":
        return TerminalError(
            Reason.ACCESS_DENIED,
            f"{where} is gated {said}: ask for access on its page, and set HF_TOKEN to a token that has it",
        )
    if code == "RepoNotFound" and status in {401, 403, 404}:
        return TerminalError(
            Reason.NOT_FOUND,
            f"{where} does not exist, or is private and needs an HF_TOKEN that may read it {said}",
        )
    if status == 404 and listed:
        return RetryableError(Reason.SNAPSHOT_CHANGED, f"{where} was listed and is gone {said}")
    if status == 429:
        return RetryableError(
            Reason.STORAGE_THROTTLED,
            f"the Hub asks to slow down at {where} {said}",
            retry_after_seconds=_asked_wait(headers),
        )
    return status_error(status, headers, f"{where} {said}" if code else where)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return what Retry-After asks for, else when the Hub's own `RateLimit` window is over (`…;t=172`)."""
    told = retry_after_seconds(headers)
    if told is None and (match := re.search(r";\s*t=([0-9]{1,4})\b", headers.get("ratelimit", ""))):
        return float(match[1])
    return told


def _entry(each: Any, place: Place) -> Entry | None:
    """Read one line of a listing; None for a folder."""
    match each:
        case {"type": "directory"}:
            return None
        case {"type": "file", "path": str(path), "size": int(size), "oid": str(oid), **rest} if size >= 0:
            match rest.get("lfs"):
                case {"oid": str(digest), "size": int(large)} if re.fullmatch(r"[0-9a-f]{64}", digest):
                    return Entry(path, large, oid, digest)
                case _:
                    return Entry(path, size, oid, None)
        case _:
            raise _odd(place)


async def _parsed(answer: Answer, where: str) -> Any:
    try:
        if len(answer.body) < 1 << 18:
            return json.loads(answer.body)
        return await asyncio.to_thread(json.loads, answer.body)
    except (ValueError, RecursionError):
        raise RetryableError(Reason.STORAGE_ERROR, f"{where}: the answer is not one of the Hub") from None


def _odd(place: Place) -> AgentError:
    return RetryableError(Reason.STORAGE_ERROR, f"{place}: the answer is not one of the Hub")
