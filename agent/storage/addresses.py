"""Which addresses may be connected to: asked of each address at the moment of connecting (fault X1).

Names are judged after they were resolved and the very address that was judged is connected, so neither
a redirect, an odd spelling nor a name that changes its mind gets past.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

AddressPolicy = Callable[[Address], str | None]
"""Returns None for an address that may be connected to, else why not. A mapped address comes as IPv4."""


def permit_all(address: Address) -> None:
    """Permit every address; the policy of a run that sets none."""
    del address


class AddressRefusedError(OSError):
    """The policy refuses every address of a host; the second argument says why."""


def refusal(policy: AddressPolicy, text: str) -> str | None:
    """Return why the policy refuses an address given as text, scope id allowed; None where it does not.

    An IPv6 address that a network may turn into an IPv4 one is judged as both.
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return policy(address.ipv4_mapped)
        for inner in _inside(address):
            if why := policy(inner):
                return why
    return policy(address)


_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
"""NAT64 (RFC 6052, RFC 8215) and the old compatible form: the last 32 bits are an IPv4 address."""


def _inside(address: IPv6Address) -> list[Address]:
    """Return the IPv4 addresses that may be reached by *address*."""
    found: list[Address] = []
    if any(address in network for network in _TRANSLATED) and int(address) > 1:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour:
        found.append(address.sixtofour)
    return found
