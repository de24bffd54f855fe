"""Passwords: which are taken, and argon2id, hashed off the event loop."""

import asyncio
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Self, TypeVar

from passlib.hash import argon2

from gateway.errors import Overloaded

T = TypeVar("T")

MIN_LENGTH = 12
MAX_LENGTH = 256

THREADS = 2
"""How many passwords are hashed at once; each takes 19 MiB meanwhile."""

WAITING = 100
"""How many passwords may wait to be hashed; each takes some 20 ms of one of the threads."""

NICENESS = 10
"""How far the threads stand back behind the event loop where there are not enough cores for all."""

FEW = 4
"""So few different characters are no password, however long it is."""

# The second recommended choice of the OWASP password storage cheat sheet: 19 MiB, two rounds, one lane.
_hasher = argon2.using(type="ID", memory_cost=19_456, time_cost=2, parallelism=1)

_LEET = str.maketrans("@483105$7", "aabeiosst")
_SEPARATORS = re.compile(r"[\W_]+")
_ROW = re.compile(r"^\D{0,3}(\d{6,})\D{0,3}$")
_AROUND = re.compile(r"^[\W\d_]+|(?<![\W\d_])[\W\d_]++$")


def check_password(password: str, sub: str = "") -> str:
    """Return the password. Raises ValueError for one that nobody, or not this user, should be given."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ValueError(f"it must have {MIN_LENGTH} to {MAX_LENGTH} characters")
    if not _storable(password):
        raise ValueError("it must be UTF-8 without NUL")
    if _is_common(password):
        raise ValueError("it must not be a common one, such as a word or a name with digits, or a few keys")
    squeezed, name = _squeezed(password), _squeezed(sub)
    if name and name in squeezed and 2 * len(name) >= len(squeezed):
        raise ValueError("it must not be little more than the user's own id")
    return password


def hash_password(password: str, sub: str = "") -> str:
    """Return the hash of a password, in some 20 ms. Raises ValueError as `check_password` does."""
    return str(_hasher.hash(check_password(password, sub)))


class Passwords:
    """Hashes in two threads, so that a crowd signing in leaves the event loop alone. A context manager."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "passwords", initializer=_stand_back)
        self._waiting = 0
        self._nobody = hash_password("the password of nobody")

    async def hash(self, password: str, sub: str) -> str:
        """Return the hash. Raises ValueError as `check_password` does, and `Overloaded`."""
        return await self._run(hash_password, password, sub)

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password is the hashed one. Without a hash it is not, and takes as long to say so.

        Raises `Overloaded`.
        """
        return await self._run(self._verify, password, hashed)

    async def renew(self, password: str, hashed: str) -> str | None:
        """Return the hash to store instead of this one, which was made with other parameters, or None.

        The password is the right one. It may be one that is not given to anybody any more.
        """
        return await self._run(_hasher.hash, password) if _hasher.needs_update(hashed) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is waiting is dropped, with the requests that wait for it.
        self._threads.shutdown(cancel_futures=True)

    def _verify(self, password: str, hashed: str | None) -> bool:
        # The rules for new passwords are not asked: they may have been others when this one was set.
        if not (MIN_LENGTH <= len(password) <= MAX_LENGTH and _storable(password)):
            password, hashed = "no password at all", None
        return bool(_hasher.verify(password, hashed or self._nobody)) and hashed is not None

    async def _run(self, work: Callable[..., T], *args: str | None) -> T:
        if self._waiting >= WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._waiting -= 1


def _stand_back() -> None:
    """Let the event loop go first. On Linux a thread has a niceness of its own; elsewhere nothing is done."""
    if os.uname().sysname == "Linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@cache
def _common() -> frozenset[str]:
    lines = files("gateway").joinpath("common_passwords.txt").read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def _is_common(password: str) -> bool:
    """Whether it is of the list, whatever its case, its spelling in digits, and what stands around it."""
    folded = password.casefold()
    if len(set(folded)) <= FEW:
        return True
    core = _AROUND.sub("", folded)
    forms = {_squeezed(form) for text in (folded, core) for form in (text, text.translate(_LEET))}
    # "abc" before or behind a row of digits is still that row.
    forms.update(_ROW.findall(_squeezed(folded)))
    return any(_repeated(form) in _common() or form in _common() for form in forms)


def _repeated(text: str) -> str:
    """Return what the text is a repetition of: of "abcabc" that is "abc"."""
    return text[: (text + text).find(text, 1)] if text else text


def _squeezed(text: str) -> str:
    return _SEPARATORS.sub("", text.casefold())
