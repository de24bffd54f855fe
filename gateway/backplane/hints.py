"""Hints: their encoding as messages, and the outbox in which they wait to be sent.

A message is a JSON array of four elements: the process that sends it, whether every log may have changed, an
alternating list of user ids and `seq`s, and the sessions that have ended. Anyone with write access to the
server can send messages, so a message is only a reason to read the log. A malformed message is rejected as a
whole.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from gateway.protocol.encoding import dumps

T = TypeVar("T")

MAX_MESSAGE_BYTES = 7900
"""Maximum size of a message. Postgres accepts less than 8,000 bytes."""

MAX_WAITING_USERS = 100_000
"""Maximum number of users waiting in an outbox. Beyond it, one hint says that every log may have changed."""

_MAX_PER_MESSAGE = 180
"""Maximum number of users, or of sessions, in a message. That many fit, however long their ids are."""

_MAX_NUMBER = 2**63 - 1
_MAX_SESSION_LENGTH = 40


class Hints(NamedTuple):
    """The last `seq` of users' logs, the sessions that have ended, and whether every log may have changed."""

    seqs: Mapping[int, int] = {}
    ended: Collection[str] = ()
    everything: bool = False


class HintMessage(NamedTuple):
    """Hints and the process that sent them."""

    origin: str
    hints: Hints


PROBE = Hints()
"""The empty hints that a process sends to itself to check its connection."""


def encode(origin: str, hints: Hints) -> list[str]:
    """Return the messages that carry these hints, at least one."""
    users = [_encode(origin, hints.everything, part) for part in _parts(list(hints.seqs.items()))]
    ended = [_encode(origin, hints.everything, (), part) for part in _parts(list(hints.ended))]
    return users + ended or [_encode(origin, hints.everything)]


def _parts(whole: list[T]) -> list[list[T]]:
    return [whole[start : start + _MAX_PER_MESSAGE] for start in range(0, len(whole), _MAX_PER_MESSAGE)]


def _encode(
    origin: str, everything: bool, users: Sequence[tuple[int, int]] = (), ended: Sequence[str] = ()
) -> str:
    flat = [number for pair in users for number in pair]
    return dumps([origin, everything, flat, ended])


def prefix_of(origin: str) -> str:
    """Return the prefix of every message from this process."""
    return dumps([origin])[:-1] + ","


def decode(text: str) -> HintMessage:
    """Decode a message. Raises ValueError if it is malformed."""
    if len(text) > MAX_MESSAGE_BYTES:
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
    if not all(isinstance(one, str) and 0 < len(one) <= _MAX_SESSION_LENGTH for one in ended):
        raise ValueError("the sessions are not texts")
    return HintMessage(origin, Hints(dict(zip(flat[::2], flat[1::2], strict=True)), ended, everything))


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


class Outbox:
    """The hints that wait to be sent: only the highest `seq` of each user."""

    def __init__(self, limit: int = MAX_WAITING_USERS) -> None:
        self._limit = limit
        self._seqs: dict[int, int] = {}
        self._ended: set[str] = set()
        self._everything = False
        self._waiting = asyncio.Event()

    def put(self, hints: Hints) -> None:
        """Add hints. Beyond the limit, replace all users by the hint that every log may have changed."""
        for user_id, seq in hints.seqs.items():
            if self._seqs.get(user_id, -1) < seq:
                self._seqs[user_id] = seq
        self._ended.update(hints.ended)
        self._everything = self._everything or hints.everything
        if len(self._seqs) > self._limit:
            self._seqs, self._everything = {}, True
        if len(self._ended) > self._limit:
            # Each process also finds ended sessions in the database.
            self._ended.clear()
        if self._seqs or self._ended or self._everything:
            self._waiting.set()

    async def take(self) -> Hints:
        """Wait until there are hints, and return all of them."""
        await self._waiting.wait()
        self._waiting.clear()
        hints = Hints(self._seqs, self._ended, self._everything)
        self._seqs, self._ended, self._everything = {}, set(), False
        return hints

    def __len__(self) -> int:
        """Return how many hints wait."""
        return len(self._seqs) + len(self._ended) + self._everything
