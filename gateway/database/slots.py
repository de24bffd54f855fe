"""Slots: how many of one thing each caller may do at the same time."""

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class Slots:
    """How many of one thing each caller may do at the same time; what is more waits, in its order."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._slots: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, key: Hashable) -> asyncio.Semaphore:
        """Return the slots of a caller. They are forgotten when nobody holds them or waits for one."""
        return self._slots.setdefault(key, asyncio.Semaphore(self._number))
