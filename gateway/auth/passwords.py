"""Passwords: which are accepted (docs/decisions/0017), and argon2id, hashed off the event loop."""

import asyncio
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from functools import cache
from typing import Self, TypeVar
from unicodedata import normalize

from passlib.hash import argon2

from gateway.auth.hasher_queue import HasherQueue, Turn

T = TypeVar("T")

MIN_LENGTH = 12
MAX_LENGTH = 256

THREADS = 2
"""How many passwords are hashed at once; each takes 19 MiB meanwhile."""

NICENESS = 10
"""How far the threads stand back behind the event loop where there are not enough cores for all."""

LEAST_GUESSES = 10**10
"""How many guesses a password must withstand by the estimate of zxcvbn, which has its best score for that."""

LEAST_BARE_GUESSES = 10**6
"""How many it must withstand without what stands between its words, so that "let me in" is "letmein"."""

WINDOW = 40
"""How many characters are estimated at once: the cost of an estimate grows with the square and more."""

WINDOWS = 3
"""How many windows of a password are estimated at most."""

FAMOUS = (
    "correct horse battery staple",
    "game of thrones",
    "i have no idea",
    "lord of the rings",
    "luke i am your father",
    "may the force be with you",
    "never gonna give you up",
    "open the pod bay doors hal",
    "supercalifragilisticexpialidocious",
    "the quick brown fox",
    "the quick brown fox jumps over the lazy dog",
    "to be or not to be",
    "to be or not to be that is the question",
)
"""Phrases that are long, and that everybody knows; here as they are written, with and without the spaces."""

# The second recommended choice of the OWASP password storage cheat sheet: 19 MiB, two rounds, one lane.
_hasher = argon2.using(type="ID", memory_cost=19_456, time_cost=2, parallelism=1)

_SEPARATORS = re.compile(r"[\W_]+")

_LEET = frozenset("@4833({[<6910!|7+$5%2")
# Not next to each other: a row of them is no sequence.
_UNREAD = {ord(mark): 0xE000 + 16 * number for number, mark in enumerate("@({[<!|+$%")}
_MAX_LEET = 6

# zxcvbn keeps the words of one call in a global table.
_estimating = threading.Lock()


def check_password(password: str, sub: str = "") -> str:
    """Return the password in NFC. Raises ValueError for what nobody, or not this user, should be given."""
    password = _composed(password)
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ValueError(f"it must have {MIN_LENGTH} to {MAX_LENGTH} characters")
    if not _storable(password):
        raise ValueError("it must be UTF-8 without NUL")
    squeezed, name = _squeezed(password), _squeezed(sub)
    if name and name in squeezed and 2 * len(name) >= len(squeezed):
        raise ValueError("it must not be little more than the user's own id")
    if _is_guessable(password, sub):
        raise ValueError(
            "it is a common one or too easy to guess, such as words with digits, names, dates, rows of keys: "
            "use four words or more that have nothing to do with each other, or 16 random characters"
        )
    return password


def hash_password(password: str, sub: str = "") -> str:
    """Return the hash of a password, in some 20 ms. Raises ValueError as `check_password` does."""
    return str(_hasher.hash(check_password(password, sub)))


@cache
def _hash_of_nobody() -> str:
    """Return what the password of a user that does not exist is compared with, made once per process."""
    return str(_hasher.hash("the password of nobody"))


class Passwords:
    """Hashes in two threads, so that a crowd signing in leaves the event loop alone. A context manager.

    Each call says whose `turn` it is, and raises `RateLimited` or `Overloaded` as `HasherQueue.take` does.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "passwords", initializer=_stand_back)
        self.turns = HasherQueue(THREADS)
        self._nobody = _hash_of_nobody()

    async def hash(self, password: str, sub: str, turn: Turn) -> str:
        """Return the hash. Raises ValueError as `check_password` does."""
        return await self._run(turn, hash_password, password, sub)

    async def verify(self, password: str, hashed: str | None, turn: Turn) -> bool:
        """Whether the password is the hashed one. Without a hash it is not, and takes as long to say so."""
        return await self._run(turn, self._verify, password, hashed)

    async def renew(self, password: str, hashed: str, turn: Turn) -> str | None:
        """Return the hash to store instead of this one, which was made with other parameters, or None.

        The password is the right one. It may be one that is not given to anybody any more.
        """
        return (
            await self._run(turn, _hasher.hash, _composed(password)) if _hasher.needs_update(hashed) else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is waiting is dropped, with the requests that wait for it.
        self.turns.close()
        self._threads.shutdown(cancel_futures=True)

    def _verify(self, password: str, hashed: str | None) -> bool:
        password = _composed(password)
        # The rules for new passwords are not asked: they may have been others when this one was set.
        if not (MIN_LENGTH <= len(password) <= MAX_LENGTH and _storable(password)):
            password, hashed = "no password at all", None
        return bool(_hasher.verify(password, hashed or self._nobody)) and hashed is not None

    async def _run(self, turn: Turn, work: Callable[..., T], *args: str | None) -> T:
        await self.turns.take(turn)
        try:
            working = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except RuntimeError:  # the threads have ended
            self.turns.release(turn)
            raise
        # A caller that is cancelled does not stop the thread: the turn ends when the work does.
        working.add_done_callback(lambda _: self.turns.release(turn))
        return await asyncio.shield(working)


def _stand_back() -> None:
    """Let the event loop go first. On Linux a thread has a niceness of its own; elsewhere nothing is done."""
    if os.uname().sysname == "Linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _composed(password: str) -> str:
    """Return the password in NFC: keyboards and systems write the same letter in different ways.

    One that is too long in any form stays as it is: to compose marks without end costs the square of them.
    """
    return normalize("NFC", password) if len(password) <= 4 * MAX_LENGTH else password


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_guessable(password: str, sub: str) -> bool:
    """Whether no part of the password withstands enough guesses. It takes some 5 ms.

    A password is as strong as its strongest part at least, so a long one is estimated in parts.
    """
    words = {*FAMOUS, "gateway", "notification", "notifications", sub.casefold()}
    words |= {_squeezed(word) for word in words} | set(_SEPARATORS.split(sub.casefold()))
    ordered = sorted(words)
    with _estimating:
        bare = _squeezed(password)[:WINDOW]
        if bare and bare != password and _guesses(bare, ordered) < LEAST_BARE_GUESSES:
            return True
        starts = range(0, min(len(password), WINDOW * WINDOWS), WINDOW)
        parts = (password[start : start + WINDOW] for start in starts)
        return all(_guesses(part, ordered) < LEAST_GUESSES for part in parts)


def _guesses(text: str, known: list[str]) -> Decimal:
    """Return how many guesses an attacker needs, who knows these words besides those of the language."""
    # It takes 80 ms and 14 MiB to import, which only a process that sets passwords should pay for.
    from zxcvbn import zxcvbn

    # It cannot read a date before the end of a line.
    guesses: Decimal = zxcvbn(_without_leet(text.replace("\n", " ")), known)["guesses"]
    return guesses


def _without_leet(text: str) -> str:
    """Return the text with the marks that could stand for letters made unreadable, where there are many.

    zxcvbn tries every combination of what they could stand for: of all of them, some hundreds.
    """
    return text.translate(_UNREAD) if len(_LEET.intersection(text)) > _MAX_LEET else text


def _squeezed(text: str) -> str:
    return _SEPARATORS.sub("", text.casefold())
