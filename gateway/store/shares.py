"""The share of each user: how much of one user's work may be under way at once, so that others' is, too."""

import asyncio
from collections import deque


class Shares:
    """Lets at most `size` of each user's work be under way, and the rest wait, the first first.

    Work that weighs more than `size` goes alone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken: dict[int, int] = {}
        self._waiting: dict[int, deque[tuple[int, asyncio.Future[None]]]] = {}

    async def take(self, user_id: int, weight: int) -> None:
        """Wait until there is room for work of this weight; the caller gives it back with `release`.

        A caller that is cancelled has taken nothing.
        """
        taken = self._taken.get(user_id, 0)
        if not taken or (user_id not in self._waiting and taken + weight <= self._size):
            self._taken[user_id] = taken + weight
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # Its turn had come already.
                self.release(user_id, weight)
            raise

    def release(self, user_id: int, weight: int) -> None:
        """Give back what was taken, and let those go on who have room now."""
        taken = self._taken.pop(user_id) - weight
        waiting = self._waiting.get(user_id, deque())
        while waiting and (waiting[0][1].cancelled() or not taken or taken + waiting[0][0] <= self._size):
            one, turn = waiting.popleft()
            if not turn.cancelled():
                taken += one
                turn.set_result(None)
        if not waiting:
            self._waiting.pop(user_id, None)
        if taken:
            self._taken[user_id] = taken
