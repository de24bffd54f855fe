"""Bytes that a process holds for clients, counted in all and by network."""

from gateway.settings.networks import networks_of


class NetworkBytes:
    """The bytes held for all clients, and for each network (an address, or a /64, /56 and /48 of IPv6)."""

    def __init__(self) -> None:
        self.total = 0
        self._by_network: dict[str, int] = {}

    def add(self, address: str, size: int) -> int:
        """Count more or fewer bytes. Return how large a limit must be to admit them.

        That is the total, and once more what the largest network of the address holds: no network may hold
        more than the limit leaves for all others.
        """
        self.total += size
        most = 0
        for network in networks_of(address):
            held = self._by_network[network] = self._by_network.get(network, 0) + size
            if not held:
                del self._by_network[network]
            most = max(most, held)
        return most + self.total
