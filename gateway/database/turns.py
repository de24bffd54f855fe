"""Turns at the database: each caller may run only a few units of work at a time, so that others get theirs.

The database is a single queue. Without turns, one caller's flood of sign-ins, revocations or lookups would
delay everyone else's, even within its rate limits.
"""

from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar

from gateway.database.slots import Slots
from gateway.settings.networks import networks_of

caller: ContextVar[Hashable] = ContextVar("caller", default=None)
"""The caller of the current task: its address as a string, and its identity once known.

None stands for the gateway itself.
"""

_UNLIMITED = nullcontext()


class Turns:
    """Lets each caller run at most `number` units of work at a time. Further ones wait, in order.

    The gateway's own work, such as a commit of posts, never waits here. An IPv6 address counts as its /48.
    """

    def __init__(self, number: int) -> None:
        self._slots = Slots(number)

    def of_caller(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager for the caller to hold while a unit of work runs."""
        who = caller.get()
        if who is None:
            return _UNLIMITED
        return self._slots.of(networks_of(who)[-1] if isinstance(who, str) else who)
