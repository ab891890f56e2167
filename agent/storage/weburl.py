"""http URLs as pure values: what is requested, of whom, with which credentials, under which file name.

One parser for all of it, so that the host that is judged, the one that gets credentials and the one that
is connected to are the same (fault X11). Nothing of userinfo or query is in a name, a key or an identity.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from agent.core.errors import TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason

DEFAULT_PORTS = {"http": 80, "https": 443}
FALLBACK_NAME = "model"

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\]")
_SAFE = "/:?#[]@!$&'()*+,;=%~-._"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = {"range", "accept-encoding", "content-length", "transfer-encoding", "connection", "te", "upgrade"}
_OURS |= {"if-match", "if-none-match", "if-range", "if-modified-since", "if-unmodified-since"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, compared whole: credentials never leave the one they were given for."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"

    @property
    def hostname(self) -> str:
        """The host without the brackets of IPv6."""
        return self.host.strip("[]")


@dataclass(frozen=True, slots=True)
class WebUrl:
    """One http URL, ready to be sent. `path` and `query` are percent-encoded as they go on the wire."""

    origin: Origin
    path: str
    query: str = field(default="", repr=False)
    userinfo: str | None = field(default=None, repr=False)

    @property
    def request(self) -> str:
        """The URL to request, without userinfo; its query may be a secret."""
        return f"{self.origin}{self.path}{'?' if self.query else ''}{self.query}"

    @property
    def shown(self) -> str:
        """The URL without query: for messages."""
        return f"{self.origin}{self.path}"

    @property
    def key(self) -> str:
        """The URL with its query replaced by a digest: unequal for unequal URLs, and no secret in it."""
        digest = hashlib.sha256(self.query.encode()).hexdigest()[:32]
        return f"{self.shown}?sha256={digest}" if self.query else self.shown


def web_url(text: str) -> WebUrl:
    """Parse an http or https URL; raises TerminalError(InvalidStorageUri).

    What is percent-encoded stays as it is written, since it may be signed; what may not stand in a URL
    is encoded. The fragment is dropped.
    """
    if any(ord(char) < 33 and char != " " for char in text) or "\x7f" in text:
        raise TerminalError(Reason.INVALID_STORAGE_URI, "the URL has a control character")
    try:
        parts = urlsplit(text)
        origin = _origin(parts)
        path, query = _encoded(parts.path) or "/", _encoded(parts.query)
    except (ValueError, UnicodeError):
        raise _invalid("is no readable URL") from None
    userinfo = parts.netloc.rpartition("@")[0] or None
    return WebUrl(origin, path, query, userinfo)


def _origin(parts: SplitResult) -> Origin:
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid("is neither http:// nor https://")
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    if ":" in host:
        host = f"[{host}]"
    if not _HOST.fullmatch(host):
        raise _invalid("has no usable host")
    port = parts.port
    if port == 0:
        raise _invalid("has no usable port")
    return Origin(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])


def _invalid(problem: str) -> TerminalError:
    return TerminalError(Reason.INVALID_STORAGE_URI, f"the http storage URI {problem}")


def _encoded(text: str) -> str:
    return quote(text, safe=_SAFE, errors="surrogateescape").replace("#", "%23")


def redirected(url: WebUrl, location: str) -> WebUrl:
    """Return where a redirect leads. Userinfo in a Location is dropped: nobody here gave it.

    Raises TerminalError(RedirectRefused) for https to http, for another scheme and for an unreadable one.
    """
    try:
        target = web_url(urljoin(url.request, location))
    except (TerminalError, ValueError):
        raise TerminalError(
            Reason.REDIRECT_REFUSED, f"{url.shown} redirects to what is no http or https URL"
        ) from None
    if url.origin.scheme == "https" and target.origin.scheme == "http":
        raise TerminalError(
            Reason.REDIRECT_REFUSED, f"{url.shown} redirects from https to http, at {target.origin.host}"
        )
    return WebUrl(target.origin, target.path, target.query)


def file_name(url: WebUrl, disposition: str | None) -> str:
    """Return the one file's name: the path's last segment, percent-decoded.

    For a path that ends in a slash it is the safe file name of Content-Disposition, else `model`.
    Raises TerminalError(InvalidObjectKey) for a segment that no file may be named.
    """
    try:
        segment = unquote(url.path, errors="strict").rpartition("/")[2]
    except UnicodeDecodeError:
        raise TerminalError(
            Reason.INVALID_OBJECT_KEY, f"the last part of {url.shown} is not valid UTF-8"
        ) from None
    return relative_path(segment) if segment else _disposed_name(disposition)


def _disposed_name(disposition: str | None) -> str:
    message = Message()
    said = (disposition or "").encode(errors="replace").decode()  # a header's bytes need be no UTF-8
    message["content-disposition"] = re.sub(r"[\x00-\x1f\x7f]", "", said)
    name = message.get_filename()
    try:
        return relative_path(name) if name and "/" not in name else FALLBACK_NAME
    except TerminalError:
        return FALLBACK_NAME


def credentials(environ: Mapping[str, str], url: WebUrl) -> dict[str, str]:
    """Return the headers for the URL's own origin: basic authentication, then `<host>-headers` over it.

    Raises TerminalError(InvalidCredentials) naming the variable, never what is in it.
    """
    headers: dict[str, str] = {}
    if url.userinfo:
        user, _, password = url.userinfo.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    name = _variable(environ, url.origin.hostname)
    if name:
        custom = _custom_headers(name, environ[name])
        replaced = {key.lower() for key in custom}
        headers = {key: value for key, value in headers.items() if key.lower() not in replaced} | custom
    return headers


def _variable(environ: Mapping[str, str], host: str) -> str | None:
    wanted = f"{host}-headers"
    if wanted in environ:
        return wanted
    return next((name for name in sorted(environ) if name.lower() == wanted), None)


def _custom_headers(variable: str, text: str) -> dict[str, str]:
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad_headers(variable, "is not JSON") from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise _bad_headers(variable, "is no JSON object of texts")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _is_field_value(value):
            raise _bad_headers(variable, "has a name or a value that no http header can have")
        if name.lower() in _OURS:
            raise _bad_headers(variable, f"sets one of the headers that are the agent's: {sorted(_OURS)}")
    return headers


def _is_field_value(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return not any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value)


def _bad_headers(variable: str, problem: str) -> TerminalError:
    return TerminalError(
        Reason.INVALID_CREDENTIALS,
        f'the environment variable {variable} {problem}; it should be like {{"Authorization": "Bearer …"}}',
    )
