"""Passwords: the rules for new ones (docs/decisions/0017), and argon2id hashing off the event loop."""

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
"""Minimum length of a password, in characters."""

MAX_LENGTH = 256
"""Maximum length of a password, in characters."""

THREADS = 2
"""Maximum number of passwords hashed at a time; each takes 19 MiB."""

NICENESS = 10
"""Niceness of the hashing threads, so that the event loop runs first if there are too few cores."""

MIN_GUESSES = 10**10
"""Minimum number of guesses a password must withstand by zxcvbn's estimate: its best score starts there."""

MIN_BARE_GUESSES = 10**6
"""Minimum number of guesses without the separators between words, so that "let me in" counts as "letmein"."""

WINDOW_LENGTH = 40
"""Maximum number of characters in one estimate, whose cost grows at least quadratically with the length."""

MAX_WINDOWS = 3
"""Maximum number of windows of a password that are estimated."""

FAMOUS_PHRASES = (
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
"""Long phrases that everybody knows; a password must not be one, with or without the spaces."""

# The second recommended choice of the OWASP password storage cheat sheet: 19 MiB, two rounds, one lane.
_hasher = argon2.using(type="ID", memory_cost=19_456, time_cost=2, parallelism=1)

_SEPARATORS = re.compile(r"[\W_]+")

_LEET = frozenset("@4833({[<6910!|7+$5%2")
# The replacements are 16 apart, so that zxcvbn does not find a sequence in a row of them.
_UNREAD = {ord(mark): 0xE000 + 16 * number for number, mark in enumerate("@({[<!|+$%")}
_MAX_LEET = 6

# zxcvbn keeps the words of one call in a global table.
_estimating = threading.Lock()


def check_password(password: str, sub: str = "") -> str:
    """Return a new password in NFC. Raises ValueError if it breaks a rule, in general or for this user."""
    password = _to_nfc(password)
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
    """Return the hash of a new password; it takes about 20 ms. Raises ValueError as `check_password` does."""
    return str(_hasher.hash(check_password(password, sub)))


@cache
def _decoy_hash() -> str:
    """Return the hash to verify against if a user does not exist; it is made once per process."""
    return str(_hasher.hash("the password of nobody"))


class Passwords:
    """The password hasher: two threads, so that many sign-ins don't block the event loop. A context manager.

    Each call takes a `turn`, and raises `RateLimited` or `Overloaded` as `HasherQueue.take` does.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "passwords", initializer=_lower_priority)
        self.turns = HasherQueue(THREADS)
        self._decoy = _decoy_hash()

    async def hash(self, password: str, sub: str, turn: Turn) -> str:
        """Return the hash of a new password. Raises ValueError as `check_password` does."""
        return await self._run(turn, hash_password, password, sub)

    async def verify(self, password: str, hashed: str | None, turn: Turn) -> bool:
        """Return whether the password matches the hash. Without a hash, return False after the same time."""
        return await self._run(turn, self._verify, password, hashed)

    async def renew(self, password: str, hashed: str, turn: Turn) -> str | None:
        """Return a new hash if the stored one was made with other parameters, else None.

        The caller has verified the password. It need not meet today's rules for new passwords.
        """
        return (
            await self._run(turn, _hasher.hash, _to_nfc(password)) if _hasher.needs_update(hashed) else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Cancel the waiting work, and with it the requests that wait for it.
        self.turns.close()
        self._threads.shutdown(cancel_futures=True)

    def _verify(self, password: str, hashed: str | None) -> bool:
        password = _to_nfc(password)
        # Don't apply the rules for new passwords: they may have been different when this one was set.
        if not (MIN_LENGTH <= len(password) <= MAX_LENGTH and _storable(password)):
            password, hashed = "no password at all", None
        return bool(_hasher.verify(password, hashed or self._decoy)) and hashed is not None

    async def _run(self, turn: Turn, work: Callable[..., T], *args: str | None) -> T:
        await self.turns.take(turn)
        try:
            working = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except RuntimeError:  # the executor is shut down
            self.turns.release(turn)
            raise
        # Cancelling the caller does not stop the thread, so the turn ends when the work does.
        working.add_done_callback(lambda _: self.turns.release(turn))
        return await asyncio.shield(working)


def _lower_priority() -> None:
    """Lower the priority of this thread below the event loop's.

    Only on Linux, where each thread has its own niceness; elsewhere this does nothing.
    """
    if os.uname().sysname == "Linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _to_nfc(password: str) -> str:
    """Return the password in NFC: keyboards and systems encode the same letter in different ways.

    A password that is too long in any form is returned unchanged, because composing a long run of combining
    marks takes quadratic time.
    """
    return normalize("NFC", password) if len(password) <= 4 * MAX_LENGTH else password


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_guessable(password: str, sub: str) -> bool:
    """Return whether no part of the password withstands enough guesses. It takes about 5 ms.

    A password is at least as strong as its strongest part, so a long one is estimated in parts.
    """
    words = {*FAMOUS_PHRASES, "gateway", "notification", "notifications", sub.casefold()}
    words |= {_squeezed(word) for word in words} | set(_SEPARATORS.split(sub.casefold()))
    ordered = sorted(words)
    with _estimating:
        bare = _squeezed(password)[:WINDOW_LENGTH]
        if bare and bare != password and _guesses(bare, ordered) < MIN_BARE_GUESSES:
            return True
        starts = range(0, min(len(password), WINDOW_LENGTH * MAX_WINDOWS), WINDOW_LENGTH)
        parts = (password[start : start + WINDOW_LENGTH] for start in starts)
        return all(_guesses(part, ordered) < MIN_GUESSES for part in parts)


def _guesses(text: str, known: list[str]) -> Decimal:
    """Return how many guesses an attacker needs who knows these words and the common ones of zxcvbn."""
    # Imported here because it takes 80 ms and 14 MiB, which only a process that sets passwords should pay.
    from zxcvbn import zxcvbn

    # zxcvbn fails to read a date before the end of a line.
    guesses: Decimal = zxcvbn(_without_leet(text.replace("\n", " ")), known)["guesses"]
    return guesses


def _without_leet(text: str) -> str:
    """Return the text without the marks that could stand for letters, if it has many different ones.

    zxcvbn tries every combination of the letters that they could stand for: hundreds, if all are present.
    """
    return text.translate(_UNREAD) if len(_LEET.intersection(text)) > _MAX_LEET else text


def _squeezed(text: str) -> str:
    return _SEPARATORS.sub("", text.casefold())
