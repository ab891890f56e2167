"""From a source to a connected wire: names, addresses, proxies, TLS. Blocks; runs on a thread of its own.

Addresses of both families are tried in turn a quarter of a second apart, so that a dead one costs little
(RFC 8305).
"""

import base64
import errno
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from agent.artifacts.engine.hosts import Lookup, ask_system
from agent.artifacts.engine.http1 import MAX_HEAD_BYTES, Head, ProtocolError, parse_head, request
from agent.artifacts.engine.wire import PlainWire, TlsWire, Wire
from agent.artifacts.neterrors import network_error
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.addresses import AddressPolicy, permit_all, refusal
from agent.storage.base import HttpSource

CONNECT_SECONDS = 10.0
_STAGGER_SECONDS = 0.25
_PORTS = {"http": 80, "https": 443}
_PLAIN_URL = re.compile(r'(https?)://(([A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?)(/[!"$-~]*)?')


class Route(NamedTuple):
    """How a host is reached. Equal routes share connections; `context` counts by which object it is."""

    secure: bool
    host: str
    port: int
    proxy: str | None
    context: ssl.SSLContext | None
    judged: bool = True

    def __repr__(self) -> str:  # a proxy's address may hold its password
        return f"Route({self.place})"

    @property
    def place(self) -> str:
        """What may be said of it."""
        return f"{self.host}:{self.port}"


class UrlParts(NamedTuple):
    """What a URL says: where to connect, what to call it there, and what to ask for."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str


@lru_cache(maxsize=256)
def url_parts(url: str) -> UrlParts:
    """Take *url* apart as `urlsplit` does, but faster where it is a plain one. Raises ValueError."""
    plain = _PLAIN_URL.fullmatch(url)
    if plain is not None and not url.endswith("?"):  # it drops an empty query
        scheme, authority, host, digits, target = plain.groups()
        port = int(digits) if digits else _PORTS[scheme]
        if port < 1 << 16:
            return UrlParts(scheme, host.lower(), port, authority, target or "/")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError("no http address")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or _PORTS[parts.scheme]
    return UrlParts(parts.scheme, parts.hostname or "", port, parts.netloc.rpartition("@")[2], target)


def route_of(source: HttpSource) -> Route:
    """Return the route that *source* is read by. Raises TerminalError for an address that is none."""
    try:
        parts = url_parts(source.url)
    except ValueError:
        raise TerminalError(Reason.STORAGE_ERROR, "storage gave an address that is no http address") from None
    secure = parts.scheme == "https"
    context = source.ssl_context if secure else None
    return Route(secure, parts.host, parts.port, source.proxy, context, judged=source.judged)


def request_of(source: HttpSource, span: tuple[int, int] | None) -> bytes:
    """Return the request for all of the object, or for the bytes from span[0] up to span[1]."""
    parts = url_parts(source.url)
    target = parts.target
    headers = {
        "Host": parts.authority,
        "Accept-Encoding": "identity",
        **source.headers,
    }  # gs:// asks for gzip
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    if source.proxy and parts.scheme == "http":
        target = f"http://{parts.authority}{target}"
        headers |= _authorization(source.proxy)
    return request(target, headers)


def dial(route: Route, policy: AddressPolicy = permit_all, lookup: Lookup = ask_system) -> Wire:
    """Connect, but to no address that *policy* refuses; a proxy's own address is the operator's choice.

    *lookup* finds addresses by name, and has a bound of its own on how long it takes.

    Raises RetryableError or TerminalError that name the host and nothing secret.
    """
    try:
        proxy = urlsplit(route.proxy) if route.proxy else None
        place = f"proxy {proxy.hostname}" if proxy else route.place
        hop = (proxy.hostname or "", proxy.port or _PORTS.get(proxy.scheme, 80)) if proxy else None
        if proxy is not None and proxy.scheme != "http":
            raise TerminalError(Reason.STORAGE_ERROR, f"{place}: only http:// proxies are spoken to")
        asked = policy if route.judged and not hop else permit_all
        host, port = hop or (route.host, route.port)
        sock = _connect(_permitted(host, _found(host, port, lookup, place), asked))
        try:
            if route.proxy and route.secure:
                _tunnel(sock, route)
            place = route.place
            return _start_tls(sock, route) if route.secure else PlainWire(sock)
        except BaseException:
            sock.close()
            raise
    except socket.gaierror as error:
        message = f"{place}: the name does not resolve; check it, and the DNS of this pod"
        raise RetryableError(Reason.STORAGE_UNAVAILABLE, message) from error
    except OSError as error:
        raise network_error(error, place) from error
    except UnicodeError as error:  # what getaddrinfo says to a label of more than 63 letters
        raise TerminalError(Reason.STORAGE_ERROR, f"{place[:300]}: that is no host name") from error
    except ProtocolError as error:
        raise RetryableError(Reason.STORAGE_UNAVAILABLE, f"{place}: {error}") from error


def _found(host: str, port: int, lookup: Lookup, place: str) -> list[Any]:
    try:
        return lookup(host, port)
    except TimeoutError as error:
        message = f"{place}: the name was not resolved in time; check the DNS of this pod"
        raise RetryableError(Reason.STORAGE_TIMEOUT, message) from error


def _connect(found: list[Any]) -> socket.socket:
    six = [each for each in found if each[0] == socket.AF_INET6]
    four = [each for each in found if each[0] == socket.AF_INET]
    waiting = [each for each in chain.from_iterable(zip_longest(six, four)) if each]
    deadline = time.monotonic() + CONNECT_SECONDS
    failure: OSError = TimeoutError("nothing answered")
    trying: dict[int, socket.socket] = {}
    poll = select.poll()
    try:
        while (waiting or trying) and (now := time.monotonic()) < deadline:
            if waiting:
                try:
                    sock = _begin(waiting.pop(0))
                except OSError as error:
                    failure = error
                    continue
                trying[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
            pause = min(_STAGGER_SECONDS, deadline - now) if waiting else deadline - now
            for descriptor, _ in poll.poll(pause * 1000):
                poll.unregister(descriptor)
                sock = trying.pop(descriptor)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return _settled(sock)
                sock.close()
                failure = OSError(code, os.strerror(code))
    finally:
        for sock in trying.values():
            sock.close()
    raise failure


def _permitted(host: str, found: list[Any], policy: AddressPolicy) -> list[Any]:
    """Judge the very addresses that are connected to, so that a name cannot change its mind (fault X1)."""
    reasons = {each[4][0]: refusal(policy, each[4][0]) for each in found}
    permitted = [each for each in found if reasons[each[4][0]] is None]
    if found and not permitted:
        why = "; ".join(f"{address} ({reason})" for address, reason in sorted(reasons.items()))
        raise TerminalError(Reason.FORBIDDEN_ADDRESS, f"no address of {host} may be connected to: {why}")
    return permitted


def _begin(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
    code = sock.connect_ex(place)
    if code not in {0, errno.EINPROGRESS}:
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def _settled(sock: socket.socket) -> socket.socket:
    sock.settimeout(CONNECT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _tunnel(sock: socket.socket, route: Route) -> None:
    authority = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
    lines = {"Host": authority, **_authorization(route.proxy)}
    sock.sendall(request(authority, lines).replace(b"GET ", b"CONNECT ", 1))
    head = _read_head(sock)
    if not 200 <= head.status < 300:
        refused = {403: "refuses this host", 407: "wants other credentials"}
        words = refused.get(head.status, "cannot reach the host")
        place = urlsplit(route.proxy or "").hostname
        kind = TerminalError if head.status in refused else RetryableError
        message = f"proxy {place} {words} (status {head.status}); check HTTPS_PROXY and NO_PROXY"
        raise kind(Reason.ACCESS_DENIED if head.status in refused else Reason.STORAGE_UNAVAILABLE, message)


def _read_head(sock: socket.socket) -> Head:
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):  # one byte at a time: what follows belongs to TLS
        byte = sock.recv(1)
        if not byte or len(raw) > MAX_HEAD_BYTES:
            raise ProtocolError("the proxy hung up")
        raw += byte
    return parse_head(raw[:-4])


def _authorization(proxy: str | None) -> Mapping[str, str]:
    parts = urlsplit(proxy or "")
    if parts.username is None:
        return {}
    userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(userinfo.encode()).decode()}"}


def _start_tls(sock: socket.socket, route: Route) -> Wire:
    context = route.context or ssl.create_default_context()
    return TlsWire(sock, context, route.host, CONNECT_SECONDS)
