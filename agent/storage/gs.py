"""`gs://bucket/name`: Google Cloud Storage.

google-cloud-storage finds credentials and lists, on daemon threads; reading an object is one GET that
the artifact layer makes itself, pinned to the generation. Objects stored with
`Content-Encoding: gzip` are asked for as they are stored: bytes on disk are the bytes listed.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

from agent.aio.threads import Daemons
from agent.core.errors import RetryableError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.buckets import Location, Page, base_name, listed, location, path_below
from agent.storage.gs_client import (
    CONNECT_SECONDS,
    GOOGLE,
    READ_SECONDS,
    DefaultCredentials,
    Entry,
    GsClient,
    default_credentials,
    endpoint_of,
    file_credentials,
)
from agent.storage.gs_errors import GsAnswers
from agent.storage.identities import identity_of, pins_of
from agent.storage.proxies import proxies_of, proxy_for
from agent.storage.trust import trust_of

SEARCH_SECONDS = 3.0
"""How long the machine may be searched for credentials; a metadata server that is there answers at once."""

RENEW_SECONDS = 60.0
"""Refused credentials, or the lack of any, are looked into anew, but no more often than this."""

T = TypeVar("T")


class GsProvider:
    """Objects of GCS, as *environ* says how to reach it.

    Credentials: GOOGLE_APPLICATION_CREDENTIALS, else what the machine or pod has (application default,
    workload identity), else none. *default* finds the second kind; it may block.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        default: DefaultCredentials = default_credentials,
        search_seconds: float = SEARCH_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._environ = dict(environ)
        self._search_seconds = search_seconds
        self._renew_seconds = renew_seconds
        self._default = default
        self._threads = Daemons("gs", limit=4)
        self._trust = trust_of(self._environ)
        self._connecting = asyncio.Lock()
        self._refreshing = asyncio.Lock()
        self._client: GsClient | None = None
        self._client_since = 0.0

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more."""
        return self._threads.hanging

    async def resolve(self, uri: str) -> Listing:
        """List the object or everything below the prefix; see `agent.storage.buckets` for which."""
        place = location(uri)
        client = await self._connected()

        async def page(token: str | None) -> Page:
            entries, token = await self._blocking(client.page, place.bucket, place.prefix, token)
            return [_below(client.endpoint, place, entry) for entry in entries], token

        async def single() -> RemoteObject:
            entry = await self._blocking(client.object, place.bucket, place.key)
            return _listed(client.endpoint, place, base_name(place.key), entry)

        return await listed("GCS", place, page, single)

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Say how to GET; no request is made unless the token is about to end."""
        client = await self._connected()
        async with self._refreshing:
            if client.token_due:
                await self._blocking(client.refresh)
        bucket, _, name = obj.key.partition("/")
        generation = pins_of(obj.identity)["generation"]
        query = urlencode({"alt": "media", "generation": generation})
        parts = urlsplit(client.endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return HttpSource(
            url=f"{client.endpoint}/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?{query}",
            answers=GsAnswers(f"gs://{obj.key}", client.standing),
            headers={**client.authorization(), "Accept-Encoding": "gzip"},
            expect={"x-goog-generation": generation},
            ssl_context=await self._trust.context() if parts.scheme == "https" else None,
            proxy=proxy_for(proxies_of(self._environ), parts.scheme, parts.hostname or "", port),
            judged=False,
        )

    async def close(self) -> None:
        """Give connections and threads back; a thread that hangs is left behind."""
        self._threads.close()
        if self._client is not None:
            self._client.close()

    async def _connected(self) -> GsClient:
        loop = asyncio.get_running_loop()
        async with self._connecting:
            client = self._client
            stale = client is not None and client.standing.refused
            if client is None or (stale and loop.time() - self._client_since >= self._renew_seconds):
                endpoint = endpoint_of(self._environ)
                credentials = await self._credentials(endpoint)
                context = await self._trust.context() if endpoint.startswith("https:") else None
                client = await self._blocking(GsClient, endpoint, credentials, context)
                self._client, self._client_since = client, loop.time()
            return client

    async def _credentials(self, endpoint: str) -> object:
        if path := self._environ.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip():
            return await self._blocking(file_credentials, path)
        if endpoint != GOOGLE:
            return None  # an emulator wants none
        try:
            async with asyncio.timeout(self._search_seconds):
                return await self._threads.run(self._default)
        except TimeoutError:
            return None

    async def _blocking(self, work: Callable[..., T], *args: object) -> T:
        seconds = 3 * (CONNECT_SECONDS + READ_SECONDS) + 60  # two retries, and a token
        try:
            async with asyncio.timeout(seconds):
                return await self._threads.run(work, *args)
        except TimeoutError:
            raise RetryableError(
                Reason.STORAGE_TIMEOUT,
                f"GCS did not come back within {seconds:.0f} s; its thread is given up",
            ) from None


def _below(endpoint: str, place: Location, entry: Entry) -> RemoteObject | None:
    path = path_below(place.prefix, entry.name)
    return None if path is None else _listed(endpoint, place, path, entry)


def _listed(endpoint: str, place: Location, path: str, entry: Entry) -> RemoteObject:
    host = urlsplit(endpoint).netloc
    told = {"crc32c": (entry.crc32c, 4), "md5": (entry.md5, 16)}
    return RemoteObject(
        path=path,
        key=f"{place.bucket}/{entry.name}",
        size=entry.size,
        identity=identity_of(
            f"gs://{host}/{place.bucket}/{quote(entry.name, safe='/~')}",
            {"generation": entry.generation},
            entry.size,
        ),
        checksums={name: digest for name, (text, size) in told.items() if (digest := _hex(text, size))},
        media_type=entry.media_type,
    )


def _hex(text: str, size: int) -> str | None:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == size else None
