"""Slots: a limit per caller on concurrent operations."""

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class Slots:
    """Lets each caller run at most `number` operations at a time. Further ones wait, in order."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._slots: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, key: Hashable) -> asyncio.Semaphore:
        """Return a caller's semaphore. It is freed when no operation holds it or waits for it."""
        return self._slots.setdefault(key, asyncio.Semaphore(self._number))
