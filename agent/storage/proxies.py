"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go reads them.

KServe's agent is a Go program (kserve-contract §1.5), so its rules are kept: the upper-case name wins,
localhost and loopback addresses never go through a proxy, a domain in NO_PROXY means itself and its
subdomains, one with a leading dot its subdomains only, and addresses, networks and ports are understood.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from agent.core.errors import TerminalError
from agent.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy of each scheme, and what goes past it. The URLs may hold a password: never shown."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    bypass: tuple[str, ...] = ()


def proxies_of(environ: Mapping[str, str]) -> Proxies:
    """Read the proxy variables.

    Raises TerminalError(StorageError) naming the variable whose value is no http:// proxy: TLS towards the
    proxy itself is not spoken, for no request of ours, as half of them could not be made.
    """
    listed = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    return Proxies(
        http=_proxy(environ, "HTTP_PROXY"),
        https=_proxy(environ, "HTTPS_PROXY"),
        bypass=tuple(entry.strip().lower() for entry in listed.split(",") if entry.strip()),
    )


def _proxy(environ: Mapping[str, str], name: str) -> str | None:
    text = environ.get(name) or environ.get(name.lower())
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise TerminalError(
            Reason.STORAGE_ERROR,
            f"{name} is no http:// proxy; other kinds are not supported (https:// goes through one too)",
        )
    return url


def proxy_for(proxies: Proxies, scheme: str, host: str, port: int) -> str | None:
    """Return the URL of the proxy for a request to this origin, None where it goes straight."""
    proxy = proxies.https if scheme == "https" else proxies.http
    if proxy is None or bypassed(proxies.bypass, host, port):
        return None
    return proxy


def bypassed(bypass: tuple[str, ...], host: str, port: int) -> bool:
    """Tell whether NO_PROXY, already split, lets this host go past the proxy. IPv6 without brackets."""
    name = host.lower().rstrip(".")
    address = _address(name)
    if name == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, name, address, port) for entry in bypass)


def _matches(entry: str, name: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    network = _network(entry)
    if network is not None:
        return address is not None and address.version == network.version and address in network
    pattern, wanted_port = _split_port(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    listed = _address(pattern)
    if listed is not None:
        return listed == address
    if address is not None or not pattern.strip(".*"):
        return False
    pattern = pattern.removeprefix("*").rstrip(".")
    if pattern.startswith("."):
        return name.endswith(pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _split_port(entry: str) -> tuple[str, int | None]:
    if _address(entry) is not None:
        return entry, None
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return host.strip("[]"), int(port)
    return entry.strip("[]"), None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _network(text: str) -> IPv4Network | IPv6Network | None:
    if "/" not in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
