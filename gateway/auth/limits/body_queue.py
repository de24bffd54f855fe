"""The queue of large request bodies: limits the bytes held for each caller and schedules the parsing.

A body of up to `SMALL_BODY` bytes is parsed as soon as it arrives, within a millisecond. It counts towards
the limits only while it is incomplete. Larger bodies are parsed one at a time in the whole process, however
many are complete. Callers take turns, and after each turn the event loop runs other work for as long as
the turn took.

A caller is the id of a service, or minus the id of a user.
"""

from gateway.auth.limits.fair_turns import FairTurns
from gateway.errors import Overloaded, RateLimited

SMALL_BODY = 16 * 1024
"""Maximum size of a small body, in bytes: it takes no turn, and isn't counted if it arrives at once."""

MAX_HELD = 8 * 1024 * 1024
"""Maximum bytes of large or incomplete bodies held for one caller, received or still to arrive."""

MAX_HELD_BY_ALL = 128 * 1024 * 1024
"""Maximum bytes of such bodies held for all callers; one caller may hold as many as are left for the rest."""


class BodyQueue(FairTurns):
    """The large bodies of all callers."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, int] = {}
        self._held_by_all = 0

    def hold(self, caller: int, size: int) -> None:
        """Count a body of `size` bytes until `release`.

        Raises `RateLimited` if the caller would exceed its limit, and `Overloaded` if it would hold more than
        is left for all callers. It doesn't wait, because waiting would not bound memory: the bytes that the
        client has sent are already there.
        """
        held = self._held.get(caller, 0) + size
        if held > MAX_HELD:
            raise RateLimited("bodies", quota=MAX_HELD, window=1, retry_after=1)
        if held > MAX_HELD_BY_ALL - self._held_by_all:
            raise Overloaded("Too many larger bodies are on their way.")
        self._held[caller] = held
        self._held_by_all += size

    def release(self, caller: int, size: int) -> None:
        """Stop counting a body that `hold` has counted."""
        self._held_by_all -= size
        if left := self._held.pop(caller) - size:
            self._held[caller] = left
