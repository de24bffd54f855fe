"""Marks for units of work: background work waits for all other work."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def background(work: Callable[P, T]) -> Callable[P, T]:
    """Mark a unit of work as background work, so that sign-ins and revocations never queue behind it."""
    work.__dict__[_BACKGROUND] = True
    return work


_BACKGROUND = "background"


def is_background(work: Callable[..., object]) -> bool:
    """Return whether a unit of work is marked as background work."""
    return hasattr(work, _BACKGROUND)
