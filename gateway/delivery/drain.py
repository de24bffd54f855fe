"""The drain: a stopping process refuses new sockets and closes the open ones over time."""

import asyncio
import random

from gateway.delivery.hub import Hub
from gateway.protocol.close_codes import Close

SPREAD_FRACTION = 0.5
"""Maximum part of the grace period for closing sockets. The rest is left for the clients' close frames."""

CLOSED_PER_SECOND = 100
"""How many sockets are closed per second, or more if the grace period requires it. A few close quickly."""


class Drain:
    """Records that this process is stopping, and closes its sockets. `grace_period` is in seconds."""

    def __init__(self, hub: Hub, grace_period: float) -> None:
        self._hub = hub
        self._grace_period = grace_period
        self.began = False

    def begin(self) -> None:
        """Refuse new sockets and report the process as not ready. A signal handler may call it."""
        self.began = True

    async def close_sockets(self) -> None:
        """Close every socket with 1012, in random order, spread over time to avoid a reconnect storm."""
        subscribers = self._hub.subscribers()
        random.shuffle(subscribers)
        seconds = min(len(subscribers) / CLOSED_PER_SECOND, self._grace_period * SPREAD_FRACTION)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, subscriber in enumerate(subscribers):
            early = began + seconds * number / len(subscribers) - loop.time()
            if early > 0:
                await asyncio.sleep(early)
            subscriber.close(Close.RESTART, "restart")
