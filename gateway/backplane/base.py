"""The interface of backplanes: channels between processes that carry hints, never data.

A hint that is lost, repeated, late or out of order costs latency, never a notification. The log alone says
what is new, and `reconciler` checks it periodically (docs/architecture.md, "The backplane").
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol


class Receiver(NamedTuple):
    """The callbacks of a backplane. They are called on the event loop and must not block.

    `on_hint` gets the last `seq` of each user's log, as reported by another process. It may be stale or
    wrong. `on_ended` gets the sessions and API keys that another process has ended. `on_resumed` gets the
    users whose hints may have been missed until now, or None for all users. Their logs must be checked once.
    """

    on_hint: Callable[[Mapping[int, int]], object]
    on_ended: Callable[[Collection[str]], object]
    on_resumed: Callable[[Collection[int] | None], object]


class Backplane(Protocol):
    """The channel between the processes of one gateway. Not thread-safe: use it only on the event loop.

    Only `run` and `drain` wait. `sent` and `received` count the hints: users, not messages. `address` is that
    of the server, without a password. `problem` is the reason of the last failed connection, or None.
    """

    sent: int
    received: int
    address: str
    problem: str | None

    @property
    def listening(self) -> bool:
        """Whether this process receives the others' hints now."""
        ...

    async def run(self, receiver: Receiver) -> None:
        """Connect, listen, check the connection and reconnect, until cancelled.

        An unavailable server is retried and raises nothing.
        """
        ...

    async def drain(self) -> None:
        """Wait briefly until the published hints have been sent."""
        ...

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Notify the other processes of the last `seq` of these users' logs, and of ended sessions.

        Call it after the commit.
        """
        ...

    def follow(self, user_id: int) -> None:
        """Start listening for a user with a socket here. Read the log after this call, not before."""
        ...

    def forget(self, user_id: int) -> None:
        """Stop listening for a user whose last socket has detached."""
        ...
