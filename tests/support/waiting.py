"""Waiting for a state of the world: look, and look again, until a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds after which something that should happen at once is taken not to happen."""

_PAUSE = 0.005


class NeverHappenedError(AssertionError):
    """What a test waited for did not come."""


@overload
async def until(look: Callable[[], Awaitable[T]], what: str, *, within: float = PATIENCE) -> T: ...


@overload
async def until(look: Callable[[], T], what: str, *, within: float = PATIENCE) -> T: ...


async def until(look: Callable[[], Any], what: str, *, within: float = PATIENCE) -> Any:
    """Return the first true value of `look`. Raises `NeverHappenedError` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        seen = look()
        value = await seen if isinstance(seen, Awaitable) else seen
        if value:
            return value
        if time.monotonic() > deadline:
            raise NeverHappenedError(f"after {within:g} s: {what} (last seen: {value!r})")
        await asyncio.sleep(_PAUSE)


async def until_none(look: Callable[[], Any], what: str) -> None:
    """Wait until `look` returns nothing: no item, zero. What is left after the deadline is in the error."""
    left: Any = None

    def gone() -> bool:
        nonlocal left
        left = look()
        return not left

    try:
        await until(gone, what)
    except NeverHappenedError:
        raise NeverHappenedError(f"{what} are left: {left!r}") from None


def until_sync(look: Callable[[], T], what: str, *, within: float = PATIENCE) -> T:
    """Do what `until` does, where no event loop runs."""
    deadline = time.monotonic() + within
    while not (value := look()):
        if time.monotonic() > deadline:
            raise NeverHappenedError(f"after {within:g} s: {what} (last seen: {value!r})")
        time.sleep(_PAUSE)
    return value
