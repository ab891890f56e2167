"""google-cloud-storage as we use it: credentials, listing, one object. All of it blocks.

Everything here runs on a daemon thread. Two habits of the library are kept off, since reading needs neither
and an account that may only read is refused both:

* for its traces it asks for the bucket's own metadata in a thread beside each listing, traces or not. It does
  so only through a cache that the client may be without, so ours is without (the same switch as the variable
  DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA, which would hold for the whole process);
* google-auth's own session looks up the account's access boundary in another thread. The client is given a
  plain session that vouches for each request by itself.
"""

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.core.errors import AgentError, TerminalError
from agent.core.reasons import Reason
from agent.storage.gs_errors import Standing, gs_error, translated
from agent.storage.sessions import library, session
from agent.telemetry.traces import outgoing

GOOGLE = "https://storage.googleapis.com"
SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0
PAGE_SIZE = 1000
_FIELDS = "name,generation,size,crc32c,md5Hash,contentType"

DefaultCredentials = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as GCS lists it; the checksums are base64, as it writes them, or empty."""

    name: str
    generation: int
    size: int
    crc32c: str
    md5: str
    media_type: str | None


def endpoint_of(environ: Mapping[str, str]) -> str:
    """Return the URL of the service: Google's own, or STORAGE_EMULATOR_HOST."""
    emulator = environ.get("STORAGE_EMULATOR_HOST", "").strip().rstrip("/")
    if not emulator:
        return GOOGLE
    url = emulator if "://" in emulator else f"http://{emulator}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise TerminalError(
            Reason.STORAGE_ERROR, "STORAGE_EMULATOR_HOST is no URL like http://127.0.0.1:9023"
        )
    return url


def file_credentials(path: str) -> Any:
    """Read a credentials file: a service account's key, a workload identity federation, a user's login."""
    with translated("the credentials of gs://", Standing()):
        exceptions = library("google.auth.exceptions")
        try:
            return _credentials_of(json.loads(Path(path).read_bytes()))
        except (exceptions.GoogleAuthError, OSError, ValueError, KeyError, TypeError) as error:
            raise TerminalError(
                Reason.INVALID_CREDENTIALS,
                f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which is no readable credentials file"
                f" ({type(error).__name__}); check the mounted secret",
            ) from None


def _credentials_of(info: Any) -> Any:
    """Make the credentials of a file by its type: kinds that run programs are not taken."""
    scopes = list(SCOPES)
    match info:
        case {"type": "service_account"}:
            module = library("google.oauth2.service_account")
            return module.Credentials.from_service_account_info(info, scopes=scopes)
        case {"type": "authorized_user"}:
            module = library("google.oauth2.credentials")
            return module.Credentials.from_authorized_user_info(info, scopes=scopes)
        case {"type": "external_account", "credential_source": {"environment_id": _}}:
            return library("google.auth.aws").Credentials.from_info(info, scopes=scopes)
        case {"type": "external_account", "credential_source": {"executable": _}}:
            raise ValueError("runs a program")
        case {"type": "external_account"}:
            return library("google.auth.identity_pool").Credentials.from_info(info, scopes=scopes)
        case {"type": "impersonated_service_account"}:
            module = library("google.auth.impersonated_credentials")
            return module.Credentials.from_impersonated_service_account_info(info, scopes=scopes)
        case _:
            raise ValueError("is of no known type")


def default_credentials() -> Any:
    """Find the credentials of this machine or pod, None where there are none."""
    with translated("the credentials of gs://", Standing()):
        auth, exceptions = library("google.auth"), library("google.auth.exceptions")
        try:
            credentials, _ = auth.default(scopes=SCOPES)
        except exceptions.DefaultCredentialsError:
            return None
    return credentials


class GsClient:
    """One client of the service, its credentials, and how they stand."""

    def __init__(self, endpoint: str, credentials: Any, context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self.standing = Standing(anonymous=credentials is None)
        self._credentials = credentials
        with translated("gs://", self.standing):
            self._tokens = session(context)
            self._request = library("google.auth.transport.requests").Request(self._tokens)
            self._session = session(context)
            self._session.auth = self._vouch
            self._client = library("google.cloud.storage").Client(
                project="none",  # only to create buckets
                credentials=credentials or library("google.auth.credentials").AnonymousCredentials(),
                client_options={"api_endpoint": endpoint},
                _http=self._session,
            )
            self._client._bucket_metadata_cache = None  # noqa: SLF001 - see the top of this file

    def page(self, bucket: str, prefix: str, token: str | None) -> tuple[list[Entry], str | None]:
        """Return one page of the objects whose name begins with *prefix*, and the token of the next."""
        with translated(f"gs://{bucket}/{prefix}", self.standing):
            listing = self._client.list_blobs(
                _named(bucket),
                prefix=prefix,
                page_token=token,
                page_size=PAGE_SIZE,
                projection="noAcl",
                fields=f"items({_FIELDS}),nextPageToken",
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                retry=None,  # the session does
            )
            entries = [_entry(blob) for blob in next(listing.pages, ())]
            return entries, listing.next_page_token or None

    def object(self, bucket: str, name: str) -> Entry:
        """Return the object of this very name. Raises TerminalError(NotFound)."""
        where = f"gs://{bucket}/{name}"
        with translated(where, self.standing):
            blob = self._client.bucket(_named(bucket)).get_blob(
                name, timeout=(CONNECT_SECONDS, READ_SECONDS), retry=None
            )
            if blob is None:
                raise gs_error(404, {}, "notFound", where, self.standing)
            return _entry(blob)

    @property
    def token_due(self) -> bool:
        """Whether `refresh` has to run before the next request."""
        if self._credentials is None:
            return False
        fresh = library("google.auth.credentials").TokenState.FRESH
        return bool(self._credentials.token_state is not fresh)

    def refresh(self) -> None:
        """Fetch a new token; a failure does not matter while the old one lasts."""
        try:
            with translated("gs://", self.standing):
                self._credentials.refresh(self._request)
        except AgentError:
            if not self._credentials.valid:
                raise

    def authorization(self) -> dict[str, str]:
        """Return the headers that vouch for us; none where nobody does."""
        headers: dict[str, str] = {}
        if self._credentials is not None:
            self._credentials.apply(headers)
        return {name.title(): value for name, value in headers.items()}

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()
        self._tokens.close()

    def _vouch(self, request: Any) -> Any:
        if self.token_due:
            self.refresh()
        request.headers.update({**outgoing(), **self.authorization()})
        return request


def _named(bucket: str) -> str:
    """Refuse what the library refuses without saying so in our words."""
    if not (bucket[:1].isalnum() and bucket[-1:].isalnum()):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI,
            f"gs://{bucket}: a bucket's name begins and ends with a letter or digit",
        )
    return bucket


def _entry(blob: Any) -> Entry:
    return Entry(
        name=str(blob.name),
        generation=int(blob.generation),
        size=int(blob.size or 0),
        crc32c=str(blob.crc32c or ""),
        md5=str(blob.md5_hash or ""),
        media_type=blob.content_type,
    )
