"""IP addresses: conversion of IPv4-mapped ones, and the networks by which a client is counted."""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

WIDER = ((64, 1), (56, 4), (48, 16))
"""The prefix lengths by which an IPv6 client is counted, each with its multiple of the limit of a /64.

A client can use any address of its /64. Providers assign a /56 or a /48, so a client may have up to 65,536
/64 networks. Several customers may share a /48, so it gets a higher limit than one of them.
"""

FACTORS = tuple(factor for _, factor in WIDER)
"""The limit of each network of `networks_of`, as a multiple of the limit of the narrowest."""


_MAPPED_PREFIX = "::ffff:"
"""Prefix of an IPv4-mapped IPv6 address, in which an IPv6 socket reports IPv4 peers.

RFC 4291, section 2.5.5.2.
"""

_MAPPED_PREFIX_BITS = 96
"""Length of that prefix, in bits."""


def unmapped(host: str) -> str:
    """Return an address, converted to IPv4 if it is IPv4-mapped (`::ffff:192.0.2.1`).

    A gateway that listens on `::` sees every IPv4 peer in this form. A text that is no address is returned
    unchanged.
    """
    if not host.lower().startswith(_MAPPED_PREFIX):
        return host
    try:
        mapped = IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def unmapped_network(text: str) -> str:
    """Return an address or a network, converted to IPv4 if it is IPv4-mapped.

    Raises ValueError if the text is neither an address nor a network.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_PREFIX_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{network.prefixlen - _MAPPED_PREFIX_BITS}"
    return text


@lru_cache(maxsize=4096)
def networks_of(host: str) -> tuple[str, ...]:
    """Return the networks by which an address is counted, the narrowest first: one for IPv4, three for IPv6.

    A text that is no address stands for itself, cut to 64 characters.
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
    """Return the narrowest network by which an address is counted."""
    return networks_of(host)[0]
