"""`abfs://container/name`: Azure Blob Storage, and what Data Lake keeps in it.

azure-storage-blob finds credentials and lists, on daemon threads; reading a blob is one GET that the artifact
layer makes itself, pinned to the ETag.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from agent.aio.threads import Daemons
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.azure_client import (
    CONNECT_SECONDS,
    PAGE_SIZE,
    READ_SECONDS,
    AzureClient,
    Entry,
    pod_identity,
)
from agent.storage.azure_errors import AzureAnswers
from agent.storage.azure_uri import Account, Place, account_of, place_of
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.buckets import Page, base_name, choose, listed, path_below, sole
from agent.storage.identities import identity_of, pins_of
from agent.storage.proxies import proxies_of
from agent.storage.trust import trust_of

MAX_ACCOUNTS = 16  # sessions kept, one an account
LOOK_AGAIN_SECONDS = 60.0
"""Refused credentials are looked into anew, but no more often than this."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Open:
    """A client and when it was made."""

    client: AzureClient
    since: float


class AzureProvider:
    """Blobs of Azure, as *environ* says who vouches for us.

    *policy* is asked of an account's addresses where the URI names the account. *identity* finds the pod's
    own credentials where the environment has none; it may block.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        policy: AddressPolicy = permit_all,
        identity: Callable[[Account], Any] = pod_identity,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._environ = dict(environ)
        self._page_size = page_size
        self._policy, self._identity = policy, identity
        self._threads = Daemons("azure", limit=4)
        self._trust = trust_of(self._environ)
        self._connecting = asyncio.Lock()
        self._refreshing = asyncio.Lock()
        self._opened: OrderedDict[Account, _Open] = OrderedDict()

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more."""
        return self._threads.hanging

    async def resolve(self, uri: str) -> Listing:
        """List the blob or everything below the prefix; see `agent.storage.buckets` for which."""
        place = place_of(uri)
        client = await self._connected(place)

        async def page(token: str | None) -> Page:
            entries, token = await self._blocking(client.page, place.container, place.location.prefix, token)
            return [_below(client.endpoint, place, entry) for entry in entries], token

        async def single() -> RemoteObject:
            entry = await self._blocking(client.blob, place.container, place.key, place.version)
            return _listed(client.endpoint, place, base_name(place.key), entry)

        if place.version is None:
            return await listed("Azure", place.location, page, single)
        alone, refusal = await sole(place.location, single)
        if alone is None and refusal is not None:
            raise refusal
        return choose(place.location, alone, ())

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Say how to GET; no request is made unless a token is about to end."""
        place = place_of(f"abfs://{obj.key}")
        client = await self._connected(place)
        async with self._refreshing:
            if client.token_due:
                await self._blocking(client.refresh)
        pins = pins_of(obj.identity)
        etag = pins["etag"]
        url, headers = client.request(place.container, place.key, pins.get("version"))
        return HttpSource(
            url=url,
            answers=AzureAnswers(f"abfs://{obj.key}", client.standing),
            headers={**headers, "If-Match": etag},
            expect={"etag": etag},
            ssl_context=await self._trust.context() if url.startswith("https:") else None,
            proxy=client.proxy,
            judged=client.judged,
        )

    async def close(self) -> None:
        """Give connections and threads back; a thread that hangs is left behind."""
        self._threads.close()
        for each in self._opened.values():
            each.client.close()
        self._opened.clear()

    async def _connected(self, place: Place) -> AzureClient:
        loop = asyncio.get_running_loop()
        account = account_of(self._environ, place)
        async with self._connecting:
            found = self._opened.get(account)
            refused = found is not None and found.client.standing.refused
            if found is None or (refused and loop.time() - found.since >= LOOK_AGAIN_SECONDS):
                context = None if account.plain else await self._trust.context()
                proxies = proxies_of(self._environ)
                client = await self._blocking(
                    AzureClient, account, context, proxies, self._policy, self._identity, self._page_size
                )
                found = _Open(client, loop.time())
                self._opened[account] = found
                if len(self._opened) > MAX_ACCOUNTS:
                    self._opened.popitem(last=False)  # not closed: a thread may list by it
            self._opened.move_to_end(account)
            return found.client

    async def _blocking(self, work: Callable[..., T], *args: object) -> T:
        seconds = 3 * (CONNECT_SECONDS + READ_SECONDS) + 60  # two retries, and a token
        try:
            async with asyncio.timeout(seconds):
                return await self._threads.run(work, *args)
        except TimeoutError:
            raise RetryableError(
                Reason.STORAGE_TIMEOUT,
                f"Azure did not come back within {seconds:.0f} s; its thread is given up",
            ) from None


def _below(endpoint: str, place: Place, entry: Entry) -> RemoteObject | None:
    path = None if entry.folder else path_below(place.location.prefix, entry.name)
    return None if path is None else _listed(endpoint, place, path, entry)


def _listed(endpoint: str, place: Place, path: str, entry: Entry) -> RemoteObject:
    host = endpoint.partition("://")[2]
    if entry.archived:
        raise TerminalError(
            Reason.OBJECT_ARCHIVED,
            f"abfs://{place.name}/{entry.name} is in the archive tier; rehydrate it to read it",
        )
    if not entry.etag:
        raise RetryableError(
            Reason.STORAGE_ERROR, f"abfs://{place.name}/{entry.name} was listed with no ETag"
        )
    version = {"version": place.version} if place.version else {}
    return RemoteObject(
        path=path,
        key=f"{place.name}/{entry.name}",
        size=entry.size,
        identity=identity_of(
            f"abfs://{host}/{place.container}/{quote(entry.name, safe='/~')}",
            {"etag": entry.etag, **version},
            entry.size,
        ),
        checksums={"md5": entry.md5} if entry.md5 else {},
        media_type=entry.media_type,
    )
