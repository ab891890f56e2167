"""How a registry asks who is there, and what docker's config.json answers. Pure.

Sources: RFC 9110 §11, the distribution project's token authentication, Docker's config.json. Nothing that is
raised here holds a password or a token.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import RetryableError, TerminalError
from agent.core.oci import DOCKER_HUB, Reference
from agent.core.reasons import Reason

DEFAULT_SECONDS = 60.0
"""How long a token is good that does not say it, as the token specification has it."""
LONGEST_SECONDS = 86400.0
MAX_TOKEN = 32 << 10

_SCHEME = re.compile(r"\s*([A-Za-z]+)(?:\s+|$|(?=,))")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password; `identity_token` stands in the password's place where there is one."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for: a token of `realm`, or a name and a password where that is None."""

    realm: str | None = None
    service: str | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """What goes into the Authorization header, and how many seconds it is good for."""

    value: str = field(repr=False)
    seconds: float


def challenge_of(header: str) -> Challenge | None:
    """Read WWW-Authenticate: its first challenge that is Bearer or Basic, None where there is none."""
    rest = header[:8192]
    while match := _SCHEME.match(rest):
        kind, rest = match[1].lower(), rest[match.end() :]
        found: dict[str, str] = {}
        while pair := _PARAMETER.match(rest):
            value = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
            found.setdefault(pair[1].lower(), value)
            rest = rest[pair.end() :]
        if kind == "bearer" and found.get("realm"):
            return Challenge(found["realm"], found.get("service"), found.get("scope"))
        if kind == "basic":
            return Challenge()
        rest = rest.lstrip(" ,") if found else rest.partition(",")[2]
    return None


def token_of(raw: bytes, where: str) -> Token:
    """Read a token server's answer. Raises RetryableError(StorageError) for what is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        token = document.get("token") or document.get("access_token")
        if isinstance(token, str) and len(token) <= MAX_TOKEN and token.isascii() and token.isprintable():
            seconds = document.get("expires_in")
            if isinstance(seconds, int | float) and seconds > 0:
                return Token(token, min(seconds, LONGEST_SECONDS))
            return Token(token, DEFAULT_SECONDS)
    raise RetryableError(Reason.STORAGE_ERROR, f"{where} answers with no token")


def login_of(config: str, reference: Reference, source: str) -> Login | None:
    """Return what docker's config.json has for a registry, None where it has nothing.

    *source* names the file. Raises TerminalError(InvalidCredentials), without what is in it.
    """
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _bad(source, "is no JSON object; it should be docker's config.json")
    if any(_fits(key, reference) is not None for key in _mapping(document.get("credHelpers"))):
        raise _bad(source, f"has a credential helper for {reference.registry}: {_NO_HELPERS}")
    auths = _mapping(document.get("auths"))
    fitting = [(length, key) for key in auths if (length := _fits(key, reference)) is not None]
    if not fitting:
        return None
    entry = _mapping(auths[max(fitting)[1]])
    login = _login(entry, f"{source}, at {reference.registry},")
    if login is None and document.get("credsStore"):
        raise _bad(source, f"keeps the credentials of {reference.registry} in a store: {_NO_HELPERS}")
    return login


_NO_HELPERS = "no helper is run here; write its name and password into `auths`"


def _login(entry: Mapping[str, Any], where: str) -> Login | None:
    username, password = entry.get("username"), entry.get("password")
    if isinstance(encoded := entry.get("auth"), str) and encoded:
        try:
            pair = base64.b64decode(encoded, validate=True).decode().rstrip("\0")
        except (binascii.Error, ValueError):
            raise _bad(where, "has an `auth` that is no base64 of name:password") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise _bad(where, "has an `auth` that is no base64 of name:password")
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Login(username if isinstance(username, str) else "", "", token)
    if isinstance(username, str) and isinstance(password, str) and username:
        return Login(username, password)
    return None


def _fits(key: str, reference: Reference) -> int | None:
    """Tell how much of a name a key of config.json covers, None where it is another one's.

    Keys are a registry, maybe with a scheme and an API version, or as Kubernetes has it with a path.
    """
    host, _, path = key.lower().partition("://")[2 if "://" in key else 0].partition("/")
    hub = host in DOCKER_HUB and reference.registry in DOCKER_HUB
    if host != reference.registry and not hub:
        return None
    path = path.strip("/")
    if path in {"", "v1", "v2"}:
        return 0
    return len(path) if f"{reference.repository}/".startswith(f"{path}/") else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _bad(source: str, problem: str) -> TerminalError:
    return TerminalError(Reason.INVALID_CREDENTIALS, f"{source} {problem}")
