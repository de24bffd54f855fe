"""What a backplane is: it tells the other processes that something is new. It carries hints, never data.

A hint that is lost, doubled, late or out of order costs latency, never a notification: the log alone says
what is new, and `reconciler` looks at it now and then (docs/architecture.md, "The backplane").
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol


class Receiver(NamedTuple):
    """What a backplane calls, on the event loop. None of it may block.

    `on_hint` gets the number that the log of each user has reached, as another process says; it may be stale
    or wrong. `on_ended` gets the sessions and API keys that another process has ended. `on_resumed` gets the
    users whose hints may have been missed up to now, None for all: look at their logs once.
    """

    on_hint: Callable[[Mapping[int, int]], object]
    on_ended: Callable[[Collection[str]], object]
    on_resumed: Callable[[Collection[int] | None], object]


class Backplane(Protocol):
    """Between the processes of one gateway. It belongs to the event loop, and nothing but `run` waits.

    `sent` and `received` count the hints: users, not messages. `address` is the server's, without a password,
    and `problem` why there is no connection to it, where an attempt has failed.
    """

    sent: int
    received: int
    address: str
    problem: str | None

    @property
    def listening(self) -> bool:
        """Whether this process hears the others now."""
        ...

    async def run(self, receiver: Receiver) -> None:
        """Connect, listen, check, and connect again, until cancelled. A server that is away is no error."""
        ...

    async def drain(self) -> None:
        """Wait until what was published has gone out; not for long, for it is only hints."""
        ...

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Tell the others what the logs of these users have reached, and which sessions have ended.

        Call it after the commit.
        """
        ...

    def follow(self, user_id: int) -> None:
        """Begin to listen for a user who has a socket here. The log must be read after this, not before."""
        ...

    def forget(self, user_id: int) -> None:
        """Stop listening for a user: the last socket is gone."""
        ...
