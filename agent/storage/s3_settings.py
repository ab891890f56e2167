"""What the environment says about S3, in KServe's own spelling (kserve-contract §1.5, §1.8, §5).

A bad value refuses the models that need S3, never the agent: so it is raised when S3 is first asked.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.storage.trust import ClientCertificate, client_certificate_of

_NO = frozenset({"0", "false", "f", "no", "n", "off"})
_YES = frozenset({"1", "true", "t", "yes", "y", "on"})


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """Keys that the environment gives outright."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """The environment's answers. `endpoint` is a URL with its scheme, None for Amazon's own.

    `virtual_hosts` is what was asked for; `addressing` says what a bucket gets.
    """

    endpoint: str | None = None
    region: str | None = None
    virtual_hosts: bool = True
    accelerate: bool = False
    anonymous: bool = False
    verify: bool = True
    ca_bundle: str | None = None
    client_certificate: ClientCertificate | None = None
    connect_seconds: float = 15
    read_seconds: float = 30
    attempts: int = 3
    keys: StaticKeys | None = None
    profile: str | None = None
    config_file: str | None = None
    credentials_file: str | None = None

    @property
    def host(self) -> str:
        """The origin that identities name: one for all regions of Amazon, whose bucket names are unique."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2] if self.endpoint else "s3.amazonaws.com"

    def addressing(self, bucket: str) -> str:
        """Return `virtual` or `path`: the latter also where a virtual host could not resolve or verify."""
        host = urlsplit(self.endpoint).hostname or "" if self.endpoint else ""
        if not self.virtual_hosts or "." in bucket or host == "localhost" or _is_address(host):
            return "path"
        return "virtual"


def s3_settings(environ: Mapping[str, str]) -> S3Settings:
    """Read every S3 variable; empty ones count as absent. Raises TerminalError for a value it cannot read."""

    def text(*names: str) -> str | None:
        return next((environ[name].strip() for name in names if environ.get(name, "").strip()), None)

    def switch(name: str, *, default: bool) -> bool:
        value = (text(name) or str(default)).lower()
        if value not in _YES | _NO:
            raise _bad(name, "is neither true nor false")
        return value in _YES

    verify = switch("S3_VERIFY_SSL", default=True)
    return S3Settings(
        endpoint=_endpoint(text, secure=switch("S3_USE_HTTPS", default=True)),
        region=text("AWS_DEFAULT_REGION", "AWS_REGION"),
        virtual_hosts=switch("S3_USER_VIRTUAL_BUCKET", default=True),
        accelerate=switch("S3_USE_ACCELERATE", default=False),
        anonymous=(text("awsAnonymousCredential") or "").lower() == "true",
        verify=verify,
        ca_bundle=ca_bundle(environ) if verify else None,
        client_certificate=client_certificate_of(environ),
        connect_seconds=_number(text("S3_CONNECT_TIMEOUT"), "S3_CONNECT_TIMEOUT", 15),
        read_seconds=_number(text("S3_READ_TIMEOUT"), "S3_READ_TIMEOUT", 30),
        attempts=max(1, int(_number(text("S3_MAX_ATTEMPTS"), "S3_MAX_ATTEMPTS", 3))),
        keys=_keys(text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY"), text("AWS_SESSION_TOKEN")),
        profile=text("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
        config_file=text("AWS_CONFIG_FILE"),
        credentials_file=text("AWS_SHARED_CREDENTIALS_FILE"),
    )


def ca_bundle(environ: Mapping[str, str]) -> str | None:
    """Return the path of the CA bundle asked for: AWS_CA_BUNDLE, else KServe's ConfigMap mount."""
    if path := environ.get("AWS_CA_BUNDLE", "").strip():
        return path
    mount = environ.get("CA_BUNDLE_VOLUME_MOUNT_POINT", "").strip()
    if environ.get("CA_BUNDLE_CONFIGMAP_NAME", "").strip() and mount:
        return str(PurePosixPath(mount) / "cabundle.crt")
    return None


def _endpoint(text: Callable[..., str | None], *, secure: bool) -> str | None:
    name = "AWS_ENDPOINT_URL" if text("AWS_ENDPOINT_URL") else "S3_ENDPOINT"
    value = text(name)
    if value is None:
        return None
    if "://" not in value:
        value = f"{'https' if secure else 'http'}://{value}"
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port)
        )
    except ValueError:
        good = False
    if not good:
        raise _bad(name, "is no URL like https://storage.example:9000")
    if parts.username is not None or parts.query or parts.fragment:
        raise _bad(name, "must hold no user, query or fragment")
    return value.rstrip("/")


def _keys(access: str | None, secret: str | None, token: str | None) -> StaticKeys | None:
    if access and secret:
        return StaticKeys(access, secret, token)
    if access or secret:
        missing = "AWS_SECRET_ACCESS_KEY" if access else "AWS_ACCESS_KEY_ID"
        raise TerminalError(
            Reason.INVALID_CREDENTIALS, f"only one half of the S3 keys is set: {missing} is missing"
        )
    return None


def _number(value: str | None, name: str, default: float) -> float:
    try:
        number = float(value) if value is not None else default
    except ValueError:
        number = 0
    if not 0 < number < 86_400:
        raise _bad(name, "is not a number above 0")
    return number


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bad(name: str, problem: str) -> TerminalError:
    return TerminalError(Reason.STORAGE_ERROR, f"the environment variable {name} {problem}")
