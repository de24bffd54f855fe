"""Held answers: the larger answers in memory, counted from the reading of the page until it is sent.

If a client does not read, its answer stays in memory until the gateway disconnects it, and one service may
mint tokens for any number of users. So the answers of all users together have a limit, and so have those of
each network. A long page that has no room is replaced by a short one.
"""

import asyncio
from typing import Self

from gateway.auth.limits.fair_turns import FairTurns
from gateway.auth.limits.network_bytes import NetworkBytes

UNCOUNTED_BYTES = 16 * 1024
"""Maximum size of an answer that is not counted. The kernel and the connection buffer that much anyway."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Maximum bytes of all larger answers; one network may hold as many as are left for the rest."""

MAX_LONG_BYTES = 48 * 1024 * 1024
"""Maximum bytes of all larger answers at which a long page is read. The room above is for short pages."""

MAX_PAGES_AT_ONCE = 3
"""Maximum number of long pages that are read and encoded at a time."""

MAX_WAITING_PAGES = 16
"""Maximum number of long pages that wait to be read. Further pages are short."""


class HeldAnswers(FairTurns):
    """The larger answers of all users, and the turns in which they are encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = NetworkBytes()
        self.making = asyncio.Semaphore(MAX_PAGES_AT_ONCE)
        self._waiting_pages = 0

    async def begin(self) -> bool:
        """Wait until a long page may be read. Return False at once if too many pages wait.

        The caller releases `making` after it has encoded the page.
        """
        if self._waiting_pages >= MAX_WAITING_PAGES:
            return False
        self._waiting_pages += 1
        try:
            await self.making.acquire()
        finally:
            self._waiting_pages -= 1
        return True


class AnswerBytes:
    """The counted bytes of one answer. A context manager that releases them."""

    __slots__ = ("_address", "_answers", "size")

    def __init__(self, answers: HeldAnswers, address: str) -> None:
        self._answers = answers
        self._address = address
        self.size = 0

    def fits(self, size: int, limit: int) -> bool:
        """Count the answer as `size` bytes and return True, or return False if it exceeds the limit."""
        more = size - self.size
        if self._answers.bytes.add(self._address, more) > limit and more > 0:
            self._answers.bytes.add(self._address, -more)
            return False
        self.size = size
        return True

    def resize(self, size: int) -> None:
        """Count the answer as `size` bytes, even if it exceeds the limit."""
        self._answers.bytes.add(self._address, size - self.size)
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size:
            self.resize(0)
