"""Units of work: which of them may wait for the others."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def background(work: Callable[P, T]) -> Callable[P, T]:
    """Mark a unit of work as one that may wait: sign-ins and revocations never queue behind it."""
    work.__dict__[_BACKGROUND] = True
    return work


_BACKGROUND = "background"


def is_background(work: Callable[..., object]) -> bool:
    """Whether a unit of work is marked as one that may wait."""
    return hasattr(work, _BACKGROUND)
