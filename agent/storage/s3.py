"""`s3://bucket/key`: Amazon S3 and what speaks its protocol.

botocore lists, heads and finds credentials and endpoints, on daemon threads; reading an object is one
signed GET that the artifact layer makes itself, pinned to the ETag by If-Match.

An object's identity is endpoint, bucket, key, ETag and size. The version id is left out on purpose: a
listing does not tell it, and an object must have one identity however it was found.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import quote

from agent.aio.threads import Daemons
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.base import HttpSource, Listing, RemoteObject
from agent.storage.buckets import Location, Page, base_name, listed, location, path_below
from agent.storage.identities import identity_of, pins_of
from agent.storage.proxies import proxies_of
from agent.storage.s3_client import Address, Credentials, S3Client
from agent.storage.s3_errors import S3Answers
from agent.storage.s3_settings import S3Settings, s3_settings

RENEW_SECONDS = 60.0
"""Refused credentials are resolved anew, but no more often than this."""

_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_RANGED_BYTES = 1 << 20  # what is larger is read by ranges, so that its checksum has to be asked for
_MOST_TOLD = 4096
_CHECKSUMS = {
    "ChecksumCRC64NVME": ("crc64nvme", 8),
    "ChecksumCRC32C": ("crc32c", 4),
    "ChecksumSHA256": ("sha256", 32),
}

T = TypeVar("T")


class S3Provider:
    """Objects of S3, as *environ* says how to reach it (kserve-contract §1.5, §5).

    Settings and credentials are read at the first use; what is wrong with them is raised there.
    """

    def __init__(self, environ: Mapping[str, str], *, renew_seconds: float = RENEW_SECONDS) -> None:
        self._environ = dict(environ)
        self._renew_seconds = renew_seconds
        self._threads = Daemons("s3", limit=4)
        self._connecting = asyncio.Lock()
        self._client: S3Client | None = None
        self._client_since = 0.0
        self._addresses: dict[str, Address] = {}
        self._told: dict[str, Mapping[str, str]] = {}

    @property
    def hanging(self) -> int:
        """How many threads are in a call that nobody waits for any more."""
        return self._threads.hanging

    async def resolve(self, uri: str) -> Listing:
        """List the object or everything below the prefix; see `agent.storage.buckets` for which."""
        place = location(uri)
        client = await self._connected()

        async def page(token: str | None) -> Page:
            found = await self._blocking(client, client.page, place.bucket, place.prefix, token)
            objects = [_below(client.settings, place, entry) for entry in found.get("Contents", ())]
            return objects, found.get("NextContinuationToken") if found.get("IsTruncated") else None

        async def single() -> RemoteObject:
            head = await self._blocking(client, client.head, place.bucket, place.key)
            entry = {"Key": place.key, "Size": head["ContentLength"], **head}
            return _listed(client.settings, place, base_name(place.key), entry)

        listing = await listed("S3", place, page, single)
        self._addresses[place.bucket] = await self._blocking(client, client.address, place.bucket)
        return listing

    async def source(self, obj: RemoteObject) -> HttpSource:
        """Sign a GET; no request is made but for the checksums of a large object, once."""
        client = await self._connected()
        bucket, _, key = obj.key.partition("/")
        address = self._addresses.get(bucket)
        if address is None:
            address = await self._blocking(client, client.address, bucket)
            self._addresses[bucket] = address
        if client.refresh_due():
            credentials = await self._blocking(client, client.credentials)
        else:
            credentials = client.credentials()
        etag = pins_of(obj.identity).get("etag")
        headers = {"If-Match": etag} if etag else {}
        url = address.base + quote(key, safe="/~")
        return HttpSource(
            url=url,
            answers=S3Answers(
                f"s3://{obj.key}", client.renewable, client.mark_refused, await self._known(client, obj, etag)
            ),
            headers=signed(url, {**headers, "x-amz-checksum-mode": "ENABLED"}, credentials, address.region),
            expect={"etag": etag} if etag else {},
            ssl_context=address.ssl_context,
            proxy=address.proxy,
            judged=False,
        )

    async def close(self) -> None:
        """Give the threads back; one that hangs is left behind."""
        self._threads.close()

    async def _known(self, client: S3Client, obj: RemoteObject, etag: str | None) -> Mapping[str, str]:
        """Return the checksums of a large object: neither a list nor an answer to a range tells them."""
        if obj.checksums or (obj.size or 0) <= _RANGED_BYTES:
            return obj.checksums
        known = self._told.get(obj.identity)
        if known is None:
            bucket, _, key = obj.key.partition("/")
            try:
                head = await self._blocking(client, client.head, bucket, key)
            except TerminalError:
                head = {}  # the GET tells what is wrong, if anything is
            known = _checksums(head) if head.get("ETag") == etag else {}
            while len(self._told) >= _MOST_TOLD:
                self._told.pop(next(iter(self._told)))
            self._told[obj.identity] = known
        return known

    async def _connected(self) -> S3Client:
        loop = asyncio.get_running_loop()
        async with self._connecting:
            client = self._client
            stale = client is not None and client.refused
            if client is None or (stale and loop.time() - self._client_since >= self._renew_seconds):
                settings = s3_settings(self._environ)
                making = self._threads.run(S3Client, settings, proxies_of(self._environ))
                client = await _bounded(settings, making)
                self._client, self._client_since, self._addresses = client, loop.time(), {}
            return client

    async def _blocking(self, client: S3Client, work: Callable[..., T], *args: object) -> T:
        return await _bounded(client.settings, self._threads.run(work, *args))


async def _bounded(settings: S3Settings, work: Awaitable[T]) -> T:
    """Wait for a thread no longer than botocore's own time-outs can take, and a little more."""
    seconds = settings.attempts * (settings.connect_seconds + settings.read_seconds) + 60
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise RetryableError(
            Reason.STORAGE_TIMEOUT, f"S3 did not come back within {seconds:.0f} s; its thread is given up"
        ) from None


def _below(settings: S3Settings, place: Location, entry: Mapping[str, Any]) -> RemoteObject | None:
    path = path_below(place.prefix, entry["Key"])
    return None if path is None else _listed(settings, place, path, entry)


def _listed(settings: S3Settings, place: Location, path: str, entry: Mapping[str, Any]) -> RemoteObject:
    key, size = entry["Key"], int(entry["Size"])
    restored = entry.get("Restore", "") or (entry.get("RestoreStatus") or {}).get("RestoreExpiryDate")
    if entry.get("StorageClass") in _ARCHIVED and (not restored or 'ongoing-request="true"' in str(restored)):
        raise TerminalError(
            Reason.OBJECT_ARCHIVED,
            f"s3://{place.bucket}/{key} is in storage class {entry['StorageClass']}; restore it to read it",
        )
    etag = entry.get("ETag") or ""
    pin = {"etag": etag} if etag else {"modified": f"{entry['LastModified'].timestamp():.3f}"}
    name = f"{place.bucket}/{quote(key, safe='/~')}"
    return RemoteObject(
        path=path,
        key=f"{place.bucket}/{key}",
        size=size,
        identity=identity_of(f"s3://{settings.host}/{name}", pin, size),
        pinned=bool(etag),
        checksums=_checksums(entry),
        media_type=entry.get("ContentType"),
    )


def _checksums(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the whole object's checksums; a composite one is of its parts and proves nothing to us."""
    found: dict[str, str] = {}
    if entry.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        for field, (name, length) in _CHECKSUMS.items():
            try:
                digest = base64.b64decode(entry.get(field, ""), validate=True)
            except (binascii.Error, ValueError):
                continue
            if len(digest) == length:
                found[name] = digest.hex()
    return found


def signed(
    url: str, headers: Mapping[str, str], credentials: Credentials | None, region: str
) -> dict[str, str]:
    """Return *headers* with what SigV4 adds for a GET of *url*; as they are where nothing is signed.

    Neither Range nor Accept-Encoding is signed: whoever sends the request may add them.
    """
    if credentials is None:
        return dict(headers)
    from botocore.auth import S3SigV4Auth  # noqa: PLC0415 - optional, only for s3://
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - optional, only for s3://

    request = AWSRequest(method="GET", url=url, headers=dict(headers))
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(cast("Any", credentials), "s3", region).add_auth(request)
    return dict(request.headers.items())
