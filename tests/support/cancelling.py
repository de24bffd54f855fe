"""Cancellation of a coroutine at one of the points where it waits."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Cancelled:
    """Runs a coroutine, and cancels it the `number`th time that it waits. `reached` says whether it did."""

    def __init__(self, work: Coroutine[Any, Any, None], number: int) -> None:
        self._work = work
        self._left = number
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        """Hand on what it waits for."""
        task = asyncio.current_task()
        assert task is not None
        steps, resume = self._work.__await__(), None
        while True:
            try:
                awaited = steps.send(None) if resume is None else steps.throw(resume)
            except StopIteration:
                return
            if self._left == 0:
                self.reached = True
                # The task is told before it waits, so this is where it is cancelled, and nowhere else.
                task.cancel()
            self._left -= 1
            try:
                yield awaited
                resume = None
            except asyncio.CancelledError as error:
                resume = error
