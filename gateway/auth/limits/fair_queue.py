"""The fair queue: callers share it, take turns, and no caller can fill it alone.

Each piece of work has a weight: how long it delays the work after it. The work of one caller is taken in
order of arrival. Between callers, it is taken round-robin.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Lane(Generic[T]):
    """The waiting work of one caller, and its total weight."""

    waiting: deque[tuple[int, T]] = field(default_factory=deque)
    weight: int = 0


class FairQueue(Generic[T]):
    """Waiting work, by caller. `capacity` is the maximum total weight."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._order: deque[Hashable] = deque()
        self._took_large = False

    def __bool__(self) -> bool:
        return bool(self._order)

    def put(self, caller: Hashable, weight: int, work: T) -> bool:
        """Add work of a caller, and return whether there was room for it.

        A caller may have as much work waiting as is left for all others. So one caller alone can fill half
        of the queue, and each further caller still finds room.
        """
        lane = self._lanes.get(caller)
        if (lane.weight if lane else 0) >= self._capacity - self._weight:
            return False
        if lane is None:
            lane = self._lanes[caller] = _Lane()
            self._order.append(caller)
        lane.waiting.append((weight, work))
        lane.weight += weight
        self._weight += weight
        return True

    def take(self, limit: int) -> list[T]:
        """Take the next work, with a total weight of at most `limit`.

        Work heavier than `limit` is taken alone, and not twice in a row while lighter work of another caller
        is first in its lane.
        """
        if len(self._order) == 1 and self._weight <= limit:
            return self._take_all()
        if self._order and not self._took_large and self._head(self._order[0]) > limit:
            return [self._take_large()]
        taken = self._take_light(limit)
        if not taken and self._order:
            return [self._take_large()]
        self._took_large = False
        return taken

    def _take_all(self) -> list[T]:
        """Take all work of the only caller. Nearly every batch is taken this way."""
        lane = self._lanes.pop(self._order.pop())
        self._weight = 0
        self._took_large = False
        return [work for _, work in lane.waiting]

    def _take_light(self, limit: int) -> list[T]:
        """Take one piece of each caller in turn. Callers whose work does not fit are first the next time."""
        taken: list[T] = []
        passed: list[Hashable] = []
        while self._order and limit > 0:
            caller = self._order.popleft()
            weight = self._head(caller)
            if weight > limit:
                passed.append(caller)
                continue
            taken.append(self._pop(caller))
            limit -= weight
        self._order.extendleft(reversed(passed))
        return taken

    def _take_large(self) -> T:
        self._took_large = True
        return self._pop(self._order.popleft())

    def _head(self, caller: Hashable) -> int:
        return self._lanes[caller].waiting[0][0]

    def _pop(self, caller: Hashable) -> T:
        """Take the first piece of a caller that was removed from the order.

        The caller goes to the end of the order if it has more work.
        """
        lane = self._lanes[caller]
        weight, work = lane.waiting.popleft()
        lane.weight -= weight
        self._weight -= weight
        if lane.waiting:
            self._order.append(caller)
        else:
            del self._lanes[caller]
        return work
