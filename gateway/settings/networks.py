"""Addresses as they are meant, and which networks stand for one of a client when callers are counted."""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

WIDER = ((64, 1), (56, 4), (48, 16))
"""The prefix lengths by which an IPv6 client is counted, and how many times the limit of one /64 each has.

A client can use any address of its /64. Providers hand out a /56 or a /48, so a client may hold 65,536 of
those; and several customers may share a /48, so it may do more than one of them.
"""

FACTORS = tuple(factor for _, factor in WIDER)
"""How many times the limit of the narrowest network each network of `networks_of` has."""


_MAPPED = "::ffff:"
"""How an IPv4 address begins that a socket of IPv6 tells of (RFC 4291, section 2.5.5.2)."""

_BITS = 96
"""How many bits of such an address stand before those of the IPv4 address."""


def unmapped(host: str) -> str:
    """Return an address: that of IPv4 itself where it is written as one of IPv6 (`::ffff:192.0.2.1`).

    A gateway that listens on `::` gets every IPv4 peer so. What is no address is returned as it is.
    """
    if not host.lower().startswith(_MAPPED):
        return host
    try:
        mapped = IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def unmapped_network(text: str) -> str:
    """Return an address or a network as `unmapped` does an address. Raises ValueError for what is neither."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{network.prefixlen - _BITS}"
    return text


@lru_cache(maxsize=4096)
def networks_of(host: str) -> tuple[str, ...]:
    """Return the networks that an address is counted by, the narrowest first: one for IPv4, three for IPv6.

    What is no address stands for itself.
    """
    try:
        address = ip_address(unmapped(host.partition("%")[0]))
    except ValueError:
        return (host[:64],)
    if not isinstance(address, IPv6Address):
        return (str(address),)
    number = int(address)
    return tuple(f"{IPv6Address(number >> 128 - length << 128 - length)}/{length}" for length, _ in WIDER)


def network_of(host: str) -> str:
    """Return the narrowest network that stands for an address."""
    return networks_of(host)[0]
