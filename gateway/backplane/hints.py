"""The hints: what waits to be told, and how it is written.

A message is a JSON array of four: who says it, whether everything may be new, user and number in turn, and
the sessions that have ended. Whoever can write to the server can send one, so nothing in it is believed
beyond "look at the log", and one that is malformed is refused as a whole.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from gateway.protocol.encoding import dumps

T = TypeVar("T")

MAX_MESSAGE = 7900
"""How long a message may be, in bytes: Postgres takes less than 8,000."""

MAX_WAITING = 100_000
"""How many users may wait to be told of; beyond it, all are told to look at everything."""

_PER_MESSAGE = 180
"""How many users, or sessions, fit into a message whatever their numbers are."""

_MAX_NUMBER = 2**63 - 1
_MAX_SESSION = 40


class Hints(NamedTuple):
    """What the logs of users have reached, which sessions have ended, and whether everything may be new."""

    seqs: Mapping[int, int] = {}
    ended: Collection[str] = ()
    everything: bool = False


class HintMessage(NamedTuple):
    """Hints, and the process they are from."""

    origin: str
    hints: Hints


PROBE = Hints()
"""What a process says to hear itself."""


def encode(origin: str, hints: Hints) -> list[str]:
    """Return the messages that say this: one, or as many as it takes."""
    users = [_encode(origin, hints.everything, part) for part in _parts(list(hints.seqs.items()))]
    ended = [_encode(origin, hints.everything, (), part) for part in _parts(list(hints.ended))]
    return users + ended or [_encode(origin, hints.everything)]


def _parts(whole: list[T]) -> list[list[T]]:
    return [whole[start : start + _PER_MESSAGE] for start in range(0, len(whole), _PER_MESSAGE)]


def _encode(
    origin: str, everything: bool, users: Sequence[tuple[int, int]] = (), ended: Sequence[str] = ()
) -> str:
    flat = [number for pair in users for number in pair]
    return dumps([origin, everything, flat, ended])


def prefix_of(origin: str) -> str:
    """Return how each message from this process begins."""
    return dumps([origin])[:-1] + ","


def decode(text: str) -> HintMessage:
    """Read a message. Raises ValueError for one that is malformed."""
    if len(text) > MAX_MESSAGE:
        raise ValueError("it is too long")
    try:
        message = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(message, list) or list(map(type, message)) != [str, bool, list, list]:
        raise ValueError("it is not an array of the four parts")
    origin, everything, flat, ended = message
    if len(flat) % 2 or not all(map(_is_number, flat)):
        raise ValueError("the users are not numbers in pairs")
    if not all(isinstance(one, str) and 0 < len(one) <= _MAX_SESSION for one in ended):
        raise ValueError("the sessions are not texts")
    return HintMessage(origin, Hints(dict(zip(flat[::2], flat[1::2], strict=True)), ended, everything))


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


class Outbox:
    """What waits to be told: the highest number of each user, however often it was put here."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._seqs: dict[int, int] = {}
        self._ended: set[str] = set()
        self._everything = False
        self._waiting = asyncio.Event()

    def put(self, hints: Hints) -> None:
        """Add hints. When too much waits, that everything may be new is all that is kept of it."""
        for user_id, seq in hints.seqs.items():
            if self._seqs.get(user_id, -1) < seq:
                self._seqs[user_id] = seq
        self._ended.update(hints.ended)
        self._everything = self._everything or hints.everything
        if len(self._seqs) > self._limit:
            self._seqs, self._everything = {}, True
        if len(self._ended) > self._limit:
            # Each process finds what it was not told of in the database.
            self._ended.clear()
        if self._seqs or self._ended or self._everything:
            self._waiting.set()

    async def take(self) -> Hints:
        """Wait until there is something, and return all of it."""
        await self._waiting.wait()
        self._waiting.clear()
        hints = Hints(self._seqs, self._ended, self._everything)
        self._seqs, self._ended, self._everything = {}, set(), False
        return hints

    def __len__(self) -> int:
        """Return how much waits."""
        return len(self._seqs) + len(self._ended) + self._everything
