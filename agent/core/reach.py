"""What a storageUri may reach: which addresses, which hosts, which prefixes (faults X1, X13). Pure.

A storageUri is written by whoever may declare a model; the agent has credentials and a place in the pod's
network that its author may not have. Addresses are judged when they are connected to, see `addresses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from urllib.parse import unquote

from agent.core.uri import redacted

Network = IPv4Network | IPv6Network

GROUPS = {
    # link-local, and where clouds answer with credentials: AWS, GCP and Azure at 169.254.169.254, AWS over
    # IPv6, Alibaba, Oracle; Azure's wire server
    "metadata": (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
    ),
    # the pod itself; nought means this host to a kernel
    "loopback": ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
}


def networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list such as `metadata,loopback,10.0.0.0/8`; `none` has none.

    Raises ValueError naming the part that is no network.
    """
    found: list[Network] = []
    for part in words(text):
        for each in GROUPS.get(part, (part,)):
            try:
                found.append(ip_network(each))
            except ValueError:
                known = ", ".join(GROUPS)
                raise ValueError(f"has {part!r}, which is neither a network nor one of {known}") from None
    return tuple(found)


def words(text: str) -> tuple[str, ...]:
    """Return the parts of a list separated by commas; none of `none` and of nothing."""
    return tuple(part.strip() for part in text.split(",") if part.strip() not in {"", "none"})


def prefixes(text: str) -> tuple[str, ...]:
    """Return the URI prefixes of a list. Raises ValueError for one that has no scheme."""
    found = words(text)
    if bad := [part for part in found if "://" not in part and not part.startswith("/")]:
        raise ValueError(f"has {bad[0]!r}, which has no scheme such as s3://")
    return found


@dataclass(frozen=True, slots=True)
class Denied:
    """An AddressPolicy that refuses the addresses in these networks."""

    networks: tuple[Network, ...]

    def __call__(self, address: IPv4Address | IPv6Address) -> str | None:
        """Return why *address* may not be connected to, None where it may."""
        hit = next((network for network in self.networks if address in network), None)
        return f"it is in {hit}, which --deny-address names" if hit is not None else None


def host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Tell whether *host* is one of *allowed*, or below one written `*.domain`; any where none is named."""
    host = host.lower().rstrip(".")
    return not allowed or any(
        host.endswith(each[1:].lower()) if each.startswith("*.") else host == each.lower().rstrip(".")
        for each in allowed
    )


def uri_refusal(uri: str, allowed: Sequence[str]) -> str | None:
    """Say why *uri* is under none of the prefixes *allowed*, None where it is or where none is named.

    A prefix ends where a segment ends: `s3://b/models` is no prefix of `s3://b/models-of-others`. What could
    climb out of its prefix is refused.
    """
    if not allowed:
        return None
    shown = redacted(uri)[:200]
    path = unquote(unquote(uri)).replace("\\", "/").partition("?")[0]
    if any(segment in {".", ".."} for segment in path.split("/")):
        return f"{shown} has a dotted segment, which --allow-uri does not follow"
    folded = _folded(uri)
    if any(_under(folded, _folded(prefix)) for prefix in allowed):
        return None
    return f"{shown} is under no prefix that --allow-uri names; ask for its prefix to be added, or move it"


def _folded(uri: str) -> str:
    """Fold the case of the scheme and of a web host, which is no difference; a bare path is file://."""
    if uri.startswith("/"):
        return f"file://{uri}"
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    web = scheme.lower() in {"http", "https"}
    return f"{scheme.lower()}{separator}{host.lower() if web else host}{slash}{path}"


def _under(uri: str, prefix: str) -> bool:
    if not uri.startswith(prefix):
        return False
    return prefix.endswith("/") or uri[len(prefix) : len(prefix) + 1] in {"", "/", "?"}
