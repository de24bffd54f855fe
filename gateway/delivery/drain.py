"""The end of a process, as its clients see it: no new sockets, and the open ones closed a few at a time."""

import asyncio
import random

from gateway.delivery.hub import Hub
from gateway.protocol.close_codes import Close

SPREAD = 0.5
"""The part of the grace period over which many sockets are closed; the rest is for their answers."""

RATE = 100
"""Sockets closed in a second where that takes less than the spread: a few are gone at once."""


class Drain:
    """Whether this process is ending, and how its sockets do. `grace_period` is in seconds."""

    def __init__(self, hub: Hub, grace_period: float) -> None:
        self._hub = hub
        self._grace_period = grace_period
        self.began = False

    def begin(self) -> None:
        """Take no more sockets, and be ready for nobody. A signal handler may call it."""
        self.began = True

    async def close_sockets(self) -> None:
        """Close every socket with 1012, in no order, spread so that they do not come back as one herd."""
        subscribers = self._hub.subscribers()
        random.shuffle(subscribers)
        seconds = min(len(subscribers) / RATE, self._grace_period * SPREAD)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, subscriber in enumerate(subscribers):
            early = began + seconds * number / len(subscribers) - loop.time()
            if early > 0:
                await asyncio.sleep(early)
            subscriber.close(Close.RESTART, "restart")
