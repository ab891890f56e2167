"""azure-storage-blob as we use it: credentials, listing, one blob. All of it blocks, on a daemon thread.

What reads a blob is a plain GET of somebody else, who adds Range as he likes. Azure's Shared Key signs that
header too, so an account key signs no request here: it makes a short-lived SAS token to read that container,
by the SDK's own function. The token is in the URL, which is therefore as secret as a header.
"""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from agent.core.errors import AgentError, TerminalError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all
from agent.storage.azure_errors import Standing, azure_error, no_token, translated
from agent.storage.azure_uri import Account
from agent.storage.dialling import judged
from agent.storage.proxies import Proxies, proxy_for
from agent.storage.sessions import library, session
from agent.telemetry.traces import outgoing

CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0
PAGE_SIZE = 1000
SCOPE = "https://storage.azure.com/.default"
SAS_SECONDS = 3600
RENEW_SECONDS = 600
"""A token, or a SAS token of ours, that lasts no longer than this is made anew."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One blob as Azure tells of it. `etag` has its quotes, `md5` is the hex of a whole blob's, or empty.

    `folder`: it is not one, but stands for a folder of a hierarchical namespace.
    """

    name: str
    size: int
    etag: str
    md5: str
    media_type: str | None
    folder: bool
    archived: bool


@dataclass(slots=True)
class _Sas:
    """A SAS token that was made of the account key."""

    query: str = field(repr=False)
    until: float


class AzureClient:
    """One account's blob service, our credentials for it, and how they stand; *identity* finds the pod's."""

    def __init__(
        self,
        account: Account,
        context: ssl.SSLContext | None,
        proxies: Proxies,
        policy: AddressPolicy,
        identity: Callable[[Account], Any],
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._page_size = page_size
        self.standing = Standing(anonymous=account.anonymous)
        self._sas: dict[str, _Sas] = {}
        self._token: Any = None
        self._credential: Any = None
        with translated("abfs://", self.standing):
            self._module = library("azure.storage.blob")
            self._session = session(context)
            self._session.trust_env = False  # we read the proxies ourselves, and nobody reads a .netrc
            self._session.auth = _traced
            self._service = self._opened(account, identity)
            parts = urlsplit(self._service.url)
            self.endpoint = f"{parts.scheme}://{self._service.primary_hostname}"
            self.judged = account.judged
            self._given_sas: str = parts.query
            port = parts.port or (443 if parts.scheme == "https" else 80)
            self.proxy = proxy_for(proxies, parts.scheme, parts.hostname or "", port)
            self._session.proxies = {parts.scheme: self.proxy} if self.proxy else {}
            self._policy = policy if self.judged and not self.proxy else permit_all
            self._key = getattr(self._service.credential, "account_key", None)
            self._version = str(self._service.api_version)

    def _opened(self, account: Account, identity: Callable[[Account], Any]) -> Any:
        transport = library("azure.core.pipeline.transport").RequestsTransport(
            session=self._session, session_owner=False
        )
        options = {
            "transport": transport,
            "retry_total": 0,  # the session does
            "connection_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
        }
        try:
            if account.connection:
                return self._module.BlobServiceClient.from_connection_string(account.connection, **options)
            given = account.key or account.sas
            if not given and (account.principal or not account.anonymous):
                self._credential = Unjudged(identity(account))
            return self._module.BlobServiceClient(
                account.url, credential=given or self._credential, **options
            )
        except (ValueError, TypeError, KeyError) as error:
            raise TerminalError(
                Reason.INVALID_CREDENTIALS,
                f"abfs:// cannot be set up from the URI and the environment ({type(error).__name__}); check "
                "AZURE_STORAGE_CONNECTION_STRING, or the account's name, key and SAS token",
            ) from None

    @contextmanager
    def _asking(self, where: str) -> Iterator[None]:
        """Judge what the SDK connects to for the listing of *where*, and translate what it raises."""
        failed = library("azure.core.exceptions").AzureError
        with translated(where, self.standing), judged(self._policy) as call:
            try:
                yield
            except failed:
                if call.refused is not None:
                    raise TerminalError(Reason.FORBIDDEN_ADDRESS, f"{where}: {call.refused}") from None
                raise

    def page(self, container: str, prefix: str, token: str | None) -> tuple[list[Entry], str | None]:
        """Return one page of the blobs whose name begins with *prefix*, and the token of the next."""
        with self._asking(f"abfs://{container}/{prefix}"):
            pages = (
                self._service.get_container_client(container)
                .list_blobs(
                    name_starts_with=prefix or None, include=["metadata"], results_per_page=self._page_size
                )
                .by_page(continuation_token=token)
            )
            found = [_entry(blob) for blob in next(pages, ())]
            return found, pages.continuation_token or None

    def blob(self, container: str, name: str, version: str | None) -> Entry:
        """Return the blob of this very name. Raises TerminalError(NotFound)."""
        where = f"abfs://{container}/{name}"
        with self._asking(where):
            client = self._service.get_blob_client(container, name, version_id=version)
            entry = _entry(client.get_blob_properties())
        if entry.folder:
            raise azure_error(404, {}, where, self.standing)
        return entry

    @property
    def token_due(self) -> bool:
        """Whether `refresh` has to run before the next request."""
        if self._credential is None:
            return False
        return self._token is None or self._token.expires_on - time.time() < RENEW_SECONDS

    def refresh(self) -> None:
        """Fetch a new token; a failure does not matter while the old one lasts."""
        core = library("azure.core.exceptions")
        try:
            with translated("abfs://", self.standing):
                try:
                    self._token = self._credential.get_token(SCOPE)
                except core.ClientAuthenticationError as error:
                    raise no_token(error, "abfs://", self.standing) from None
        except AgentError:
            if self._token is None or self._token.expires_on <= time.time():
                raise

    def request(self, container: str, name: str, version: str | None) -> tuple[str, Mapping[str, str]]:
        """Return the URL and the headers of a GET; both may hold secrets. No request is made."""
        headers = {"x-ms-version": self._version}
        if self._credential is not None:
            headers["Authorization"] = f"Bearer {self._token.token}"
        query = [f"versionid={quote(version, safe=':')}"] if version else []
        if sas := self._signed(container):
            query.append(sas)
        url = f"{self.endpoint}/{quote(container, safe='$')}/{quote(name, safe='/~')}"
        return f"{url}?{'&'.join(query)}" if query else url, headers

    def _signed(self, container: str) -> str:
        if self._key is None:
            return self._given_sas
        now = time.time()
        made = self._sas.get(container)
        if made is None or made.until - now < RENEW_SECONDS:
            query = self._module.generate_container_sas(
                self._service.account_name,
                container,
                account_key=self._key,
                permission=self._module.ContainerSasPermissions(read=True),
                expiry=datetime.now(UTC) + timedelta(seconds=SAS_SECONDS),
            )
            made = self._sas[container] = _Sas(str(query), now + SAS_SECONDS)
        return made.query

    def close(self) -> None:
        """Close the idle connections."""
        self._service.close()
        self._session.close()


class Unjudged:
    """Credentials of the pod, whose token often comes from the metadata service: no URI leads there."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Return a token, wherever it is to be had."""
        with judged(permit_all):
            return self._inner.get_token(*scopes, **options)


def _traced(request: Any) -> Any:
    request.headers.update(outgoing())
    return request


def pod_identity(account: Account) -> Any:
    """Return azure-identity's credentials: a service principal where one is named whole, else any found."""
    identity = library("azure.identity")
    if account.principal:
        return identity.ClientSecretCredential(account.tenant, account.client, account.secret)
    return identity.DefaultAzureCredential()


def _entry(blob: Any) -> Entry:
    settings = blob.content_settings
    metadata = {str(name).lower(): str(value).lower() for name, value in (blob.metadata or {}).items()}
    digest = bytes(settings.content_md5 or b"")
    return Entry(
        name=str(blob.name),
        size=int(blob.size or 0),
        etag='"{}"'.format(str(blob.etag or "").strip('"')) if blob.etag else "",
        md5=digest.hex() if len(digest) == 16 else "",
        media_type=settings.content_type,
        folder=metadata.get("hdi_isfolder") == "true",
        archived=str(blob.blob_tier or "") == "Archive",
    )
