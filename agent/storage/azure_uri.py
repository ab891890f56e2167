"""`abfs://` URIs, and what the environment says of the account, as pure values.

    abfs://container/path                              the account is the environment's
    abfs://container@account.dfs.core.windows.net/path as Hadoop writes it; `.blob.` too, zones too
    abfs://account.dfs.core.windows.net/container/path
    …/path?versionid=…                                 one version of one blob

`abfss://` and `az://` are the same. An account of the environment goes before the URI's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.core.uri import redacted
from agent.storage.buckets import Location

_CONTAINER = re.compile(r"\$?[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_HOST = re.compile(
    r"([a-z0-9]{3,24}(?:-secondary)?(?:\.z[0-9]{1,3})?)\.(?:dfs|blob)\.(core\.windows\.net|storage\.azure\.net)"
)
_VERSION = re.compile(r"(.*)\?versionid=([0-9A-Za-z:.-]{1,64})")
_ANY = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]{1,63}){0,3}/?")


@dataclass(frozen=True, slots=True)
class Place:
    """A container with a key in it; `host` is the account's blob service where the URI names one."""

    container: str
    host: str | None
    key: str
    version: str | None = None

    @property
    def location(self) -> Location:
        """As the bucket schemes have it; its text names the account too."""
        return Location("abfs", self.name, self.key)

    @property
    def name(self) -> str:
        """The container as the URI names it."""
        return f"{self.container}@{self.host}" if self.host else self.container


def place_of(uri: str) -> Place:
    """Parse a URI. Nothing in a key is decoded. Raises TerminalError(InvalidStorageUri)."""
    authority, _, key = uri.partition("://")[2].partition("/")
    container, at, named = authority.partition("@")
    if not at and _HOST.fullmatch(authority.lower()):
        named = authority
        container, _, key = key.partition("/")
    host = _HOST.fullmatch(named.lower()) if named else None
    if not _CONTAINER.fullmatch(container) or (named and host is None) or _unprintable(key):
        raise TerminalError(
            Reason.INVALID_STORAGE_URI,
            f"{redacted(uri)[:300]} names no blob container: write abfs://container/path or "
            "abfs://container@account.dfs.core.windows.net/path",
        )
    version = None
    if match := _VERSION.fullmatch(key):
        key, version = match[1], match[2]
    return Place(container, f"{host[1]}.blob.{host[2]}" if host else None, key, version)


def _unprintable(key: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in key)


@dataclass(frozen=True, slots=True)
class Account:
    """How to reach an account's blob service, and who vouches for us there.

    One of these: `connection` (a connection string, which says both); `key`; a service principal; `sas`;
    `anonymous`; where there is none of them, what azure-identity finds in this pod. `judged`: the URI chose
    the host, not the operator.
    """

    url: str
    judged: bool
    connection: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    tenant: str | None = None
    client: str | None = None
    secret: str | None = field(default=None, repr=False)
    anonymous: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is surely not asked by TLS, as an emulator is not."""
        return "blobendpoint=http://" in (self.connection or "").lower()

    @property
    def principal(self) -> bool:
        """Whether a service principal is named whole; else the id is a workload's or a machine's."""
        return bool(self.client and self.secret and self.tenant)


def account_of(environ: Mapping[str, str], place: Place) -> Account:
    """Return the account that the environment and the URI name, by KServe's, Azure's and adlfs' variables.

    Raises TerminalError(InvalidCredentials) where neither names one.
    """

    def first(*names: str) -> str | None:
        return next((environ[name] for name in names if environ.get(name)), None)

    if connection := first("AZURE_STORAGE_CONNECTION_STRING"):
        return Account("", judged=False, connection=connection)
    name = first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME")
    host = first("AZURE_STORAGE_ACCOUNT_HOST") or (f"{name}.blob.core.windows.net" if name else None)
    if host is None and place.host is None:
        raise TerminalError(
            Reason.INVALID_CREDENTIALS,
            f"abfs://{place.container} names no account, nor does the environment: set "
            "AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or name it in the URI",
        )
    if host is not None and not _ANY.fullmatch(host):
        raise TerminalError(
            Reason.INVALID_CREDENTIALS,
            "AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_ACCOUNT_HOST is no name of an account or a host",
        )
    sas = first("AZURE_STORAGE_SAS_TOKEN")
    return Account(
        f"https://{host or place.host}",
        judged=host is None,
        key=first("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        sas=sas.lstrip("?") if sas else None,
        tenant=first("AZURE_TENANT_ID", "AZ_TENANT_ID", "AZURE_STORAGE_TENANT_ID"),
        client=first("AZURE_CLIENT_ID", "AZ_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID"),
        secret=first("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"),
        anonymous=environ.get("AZURE_STORAGE_ANON", "false").lower() not in {"false", "0", "f", ""},
    )
