"""Networks: which of them stand for the address of a client when callers are counted."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

WIDER = ((64, 1), (56, 4), (48, 16))
"""The prefix lengths by which an IPv6 client is counted, and how many times the limit of one /64 each has.

A client can use any address of its /64. Providers hand out a /56 or a /48, so a client may hold 65,536 of
those; and several customers may share a /48, so it may do more than one of them.
"""

FACTORS = tuple(factor for _, factor in WIDER)
"""How many times the limit of the narrowest network each network of `networks_of` has."""


@lru_cache(maxsize=4096)
def networks_of(host: str) -> tuple[str, ...]:
    """Return the networks that an address is counted by, the narrowest first: one for IPv4, three for IPv6.

    What is no address stands for itself.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return (host[:64],)
    if not isinstance(address, IPv6Address):
        return (str(address),)
    if address.ipv4_mapped is not None:
        return (str(address.ipv4_mapped),)
    number = int(address)
    return tuple(f"{IPv6Address(number >> 128 - length << 128 - length)}/{length}" for length, _ in WIDER)


def network_of(host: str) -> str:
    """Return the narrowest network that stands for an address."""
    return networks_of(host)[0]
