"""Whose work the database does: each caller has little of it under way at a time, and others get their turn.

Without that a flood of one caller's sign-ins, revocations or look-ups, all of them within its budget, would
be before everybody else's in the one queue that the database is.
"""

from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar

from gateway.database.slots import Slots
from gateway.settings.networks import networks_of

caller: ContextVar[Hashable] = ContextVar("caller", default=None)
"""Who has asked for what runs here: an address as text, then who that turned out to be. None: the gateway."""

_ANYBODY = nullcontext()


class Turns:
    """How many units of work each caller has under way at a time. What is more waits, in its order.

    The gateway's own work, such as a commit of posts, waits for nobody here. An address of IPv6 counts as
    its /48.
    """

    def __init__(self, number: int) -> None:
        self._slots = Slots(number)

    def of_caller(self) -> AbstractAsyncContextManager[object]:
        """Return what the caller holds while a unit of work runs."""
        who = caller.get()
        if who is None:
            return _ANYBODY
        return self._slots.of(networks_of(who)[-1] if isinstance(who, str) else who)
