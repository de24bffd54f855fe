"""The open connections of this process, limited in total and per address.

A connection is counted from `connection_made` to `connection_lost`, whichever protocols handle it in between.
At the limit, new connections are refused, and the open ones stay.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address, ip_network

import structlog

from gateway.settings.networks import FACTORS, networks_of, unmapped

CONNECTIONS = "gateway.connections"
"""Key of the `Connections` in the lifespan's state."""

LOG_INTERVAL_SECONDS = 60.0
"""Minimum time between two log lines about one kind of refused connections, in seconds."""

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""Addresses that only processes of this machine have. One of them may be the proxy for all clients."""

Place = tuple[str, ...]
"""The networks under which a connection is counted. Empty if it counts only toward the total."""

logger = structlog.get_logger(__name__)


class Full(Exception):
    """Raised if there is no room for another connection. `status` and `detail` are for the response."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Connections:
    """Counts open connections, and refuses new ones beyond the limits.

    At most `capacity` connections are open in total. Each network of `networks.WIDER` may hold as many as
    remain for all others, so a single network gets at most half. An address may hold `per_address`
    connections (a /56 four times and a /48 sixteen times as many). Loopback and the networks in `proxies`
    count only toward the total. `on_refused` is called with the status of each refusal. `clock`
    returns seconds.
    """

    def __init__(
        self,
        capacity: int,
        per_address: int,
        proxies: Sequence[str] = (),
        on_refused: Callable[[HTTPStatus], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._limits = tuple(per_address * factor for factor in FACTORS)
        self._exempt = (*LOOPBACK, *(ip_network(proxy) for proxy in proxies))
        self._on_refused = on_refused
        self._clock = clock
        self._number = 0
        self._held: Counter[str] = Counter()
        self._place_of = lru_cache(maxsize=4096)(self._find_place)
        self._log_again_at: dict[HTTPStatus, float] = {}
        self._unlogged: Counter[HTTPStatus] = Counter()

    def __len__(self) -> int:
        return self._number

    def enter(self, host: str) -> Place:
        """Count a connection from this address. Return its place, for `leave`. Raises `Full` at a limit."""
        place = self._place_of(host)
        free = self.capacity - self._number
        if free <= 0:
            raise self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The gateway has as many connections as it can hold.",
                "connections are refused: raise the limit of open files (ulimit -n)",
            )
        for network, limit in zip(place, self._limits, strict=False):
            if self._held[network] >= min(limit, free):
                raise self._refuse(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "Your address has as many connections as one address may hold.",
                    "connections of an address are refused: name a proxy in GATEWAY_FORWARDED_ALLOW_IPS",
                    network=network,
                    held=self._held[network],
                )
        self._number += 1
        for network in place:
            self._held[network] += 1
        return place

    def leave(self, place: Place) -> None:
        """Remove an ended connection from the counts."""
        self._number -= 1
        for network in place:
            self._held[network] -= 1
            if not self._held[network]:
                del self._held[network]

    def _find_place(self, host: str) -> Place:
        try:
            address = ip_address(unmapped(host.partition("%")[0]))
        except ValueError:  # a Unix socket
            return ()
        return () if any(address in network for network in self._exempt) else networks_of(host)

    def _refuse(self, status: HTTPStatus, detail: str, event: str, **facts: object) -> Full:
        """Count a refusal. Log the first, and then at most one line a minute with the number of refusals."""
        self._on_refused(status)
        self._unlogged[status] += 1
        now = self._clock()
        if now >= self._log_again_at.get(status, now):
            self._log_again_at[status] = now + LOG_INTERVAL_SECONDS
            number = self._unlogged.pop(status)
            logger.warning(event, refused=number, open=self._number, capacity=self.capacity, **facts)
        return Full(status, detail)
