"""Google Cloud Storage's JSON API and google-auth: credentials, listing, one object. All of it blocks.

Everything here runs on a daemon thread.
"""

import importlib
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from agent.core.errors import AgentError, TerminalError
from agent.core.reasons import Reason
from agent.storage.gs_errors import Standing, gs_error, reason_of, translated

GOOGLE = "https://storage.googleapis.com"
SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0
PAGE_SIZE = 1000
MAX_ANSWER_BYTES = 1 << 25  # a page of 1,000 names of 1 KiB with all we ask for stays far below
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
        exceptions = _library("google.auth.exceptions")
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
            module = _library("google.oauth2.service_account")
            return module.Credentials.from_service_account_info(info, scopes=scopes)
        case {"type": "authorized_user"}:
            module = _library("google.oauth2.credentials")
            return module.Credentials.from_authorized_user_info(info, scopes=scopes)
        case {"type": "external_account", "credential_source": {"environment_id": _}}:
            return _library("google.auth.aws").Credentials.from_info(info, scopes=scopes)
        case {"type": "external_account", "credential_source": {"executable": _}}:
            raise ValueError("runs a program")
        case {"type": "external_account"}:
            return _library("google.auth.identity_pool").Credentials.from_info(info, scopes=scopes)
        case {"type": "impersonated_service_account"}:
            module = _library("google.auth.impersonated_credentials")
            return module.Credentials.from_impersonated_service_account_info(info, scopes=scopes)
        case _:
            raise ValueError("is of no known type")


def default_credentials() -> Any:
    """Find the credentials of this machine or pod, None where there are none."""
    with translated("the credentials of gs://", Standing()):
        auth, exceptions = _library("google.auth"), _library("google.auth.exceptions")
        try:
            credentials, _ = auth.default(scopes=SCOPES)
        except exceptions.DefaultCredentialsError:
            return None
    return credentials


class GsClient:
    """One session with the JSON API, its credentials, and how they stand.

    google-cloud-storage is not used for it: beside each listing its client asks for the bucket's metadata
    and for account boundaries, in threads of its own and with permissions that reading does not need.
    """

    def __init__(self, endpoint: str, credentials: Any, context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self.standing = Standing(anonymous=credentials is None)
        self._credentials = credentials
        with translated("gs://", self.standing):
            self._session = _session(context)
            self._request = _library("google.auth.transport.requests").Request(self._session)

    def page(self, bucket: str, prefix: str, token: str | None) -> tuple[list[Entry], str | None]:
        """Return one page of the objects whose name begins with *prefix*, and the token of the next."""
        query = {"prefix": prefix, "maxResults": str(PAGE_SIZE), "fields": f"items({_FIELDS}),nextPageToken"}
        if token:
            query["pageToken"] = token
        where = f"gs://{bucket}/{prefix}"
        with translated(where, self.standing):
            answer = self._get(f"/storage/v1/b/{bucket}/o", query, where)
            following = answer.get("nextPageToken")
            return [_entry(item) for item in answer.get("items", ())], str(following) if following else None

    def object(self, bucket: str, name: str) -> Entry:
        """Return the object of this very name. Raises TerminalError(NotFound)."""
        where = f"gs://{bucket}/{name}"
        with translated(where, self.standing):
            path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
            return _entry(self._get(path, {"fields": _FIELDS}, where))

    @property
    def token_due(self) -> bool:
        """Whether `refresh` has to run before the next request."""
        if self._credentials is None:
            return False
        fresh = _library("google.auth.credentials").TokenState.FRESH
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
        self._session.close()

    def _get(self, path: str, query: Mapping[str, str], where: str) -> Mapping[str, Any]:
        if self.token_due:
            self.refresh()
        with self._session.get(
            f"{self.endpoint}{path}?{urlencode(query)}",
            headers=self.authorization(),
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,
            stream=True,
        ) as answer:
            body = bytearray()
            for piece in answer.iter_content(1 << 16):
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError("an answer without end")
            if answer.status_code != 200:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                raise gs_error(answer.status_code, headers, reason_of(body), where, self.standing)
            parsed = json.loads(body)
            if not isinstance(parsed, Mapping):
                raise TypeError("no JSON object")
            return parsed


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(
        name=str(item["name"]),
        generation=int(item["generation"]),
        size=int(item.get("size", 0)),
        crc32c=str(item.get("crc32c", "")),
        md5=str(item.get("md5Hash", "")),
        media_type=str(item["contentType"]) if "contentType" in item else None,
    )


def _session(context: ssl.SSLContext | None) -> Any:
    """Return a session that makes two quick retries (design §8.8) and trusts what *context* does too."""
    adapters, retry = _library("requests.adapters"), _library("urllib3.util.retry")

    class Adapter(adapters.HTTPAdapter):  # type: ignore[name-defined,misc]  # imported late
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

    retries = retry.Retry(
        total=2,
        backoff_factor=0.2,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    session = _library("requests").Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=retries))
    return session


def _library(name: str) -> Any:
    """Import a module of the optional libraries, which are untyped in part."""
    return importlib.import_module(name)
