"""A storage provider over a `FaultyOrigin`: lists what the origin holds, reads it by plain requests."""

import ssl
from collections.abc import Callable, Mapping
from urllib.parse import quote

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource, Listing, RemoteObject, Source
from tests.fakes.faulty_origin import FaultyOrigin


class OriginAnswers:
    """Reads the fake origin's answers; X-Checksum-<algorithm> headers carry checksums."""

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> AgentError:
        match status:
            case 404:
                return TerminalError(Reason.NOT_FOUND, "the origin has no such object")
            case 412:
                return RetryableError(Reason.SNAPSHOT_CHANGED, "the origin has another version")
            case 429 | 503:
                wait = headers.get("retry-after")
                return RetryableError(
                    Reason.STORAGE_THROTTLED, "slow down", retry_after_seconds=float(wait) if wait else None
                )
        return RetryableError(Reason.STORAGE_ERROR, f"status {status}")

    def checksums(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        prefix = "x-checksum-"
        return {name.removeprefix(prefix): v for name, v in headers.items() if name.startswith(prefix)}


class OriginProvider:
    """Lists `<url>/<prefix>/` as a folder and `<url>/<key>` as one object."""

    def __init__(
        self,
        origin: FaultyOrigin,
        *,
        pinned: bool = True,
        sizes: bool = True,
        checksums: Callable[[bytes], Mapping[str, str]] = lambda _: {},
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        self.origin = origin
        self.pinned, self.sizes, self.checksums = pinned, sizes, checksums
        self.ssl_context, self.proxy = ssl_context, proxy
        self.listings = 0
        self.answers = OriginAnswers()

    async def resolve(self, uri: str) -> Listing:
        self.listings += 1
        key = uri.removeprefix(self.origin.url)
        folder = key.endswith("/")
        found = [path for path in self.origin.objects if (path.startswith(key) if folder else path == key)]
        if not found:
            raise TerminalError(Reason.NOT_FOUND, f"nothing at {key}")
        objects = sorted((self._object(path, key, folder=folder) for path in found), key=lambda o: o.path)
        return Listing(tuple(objects), single=not folder)

    def _object(self, path: str, key: str, *, folder: bool) -> RemoteObject:
        content = self.origin.objects[path]
        etag = self.origin.etag(path) if self.pinned else "none"
        return RemoteObject(
            path=path.removeprefix(key) if folder else path.rpartition("/")[2],
            key=path,
            size=len(content) if self.sizes else None,
            identity=f"{self.origin.url}{path} {etag}",
            pinned=self.pinned,
            checksums=self.checksums(content),
        )

    async def source(self, obj: RemoteObject) -> Source:
        etag = obj.identity.rpartition(" ")[2]
        return HttpSource(
            url=self.origin.url + quote(obj.key),
            answers=self.answers,
            headers={"If-Match": etag} if self.pinned else {},
            expect={"etag": etag} if self.pinned else {},
            ssl_context=self.ssl_context,
            proxy=self.proxy,
        )

    async def close(self) -> None:
        return
