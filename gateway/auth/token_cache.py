"""The cache of verified tokens: bounded, and indexed by the session or API key that each token belongs to."""

from collections import OrderedDict
from dataclasses import dataclass

from gateway.auth.principals import Principal

MAX_TOKENS = 50_000
"""Maximum number of cached tokens."""

MAX_TOKEN_BYTES = 64 * 1024 * 1024
"""Maximum total length of the cached tokens, in bytes.

The number alone does not bound the memory: a foreign issuer's token may have up to `MAX_TOKEN` characters.
"""


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A verified token.

    `handle` is the id of the session or API key whose end revokes the token. The token is trusted until
    `until`, in seconds since 1970.
    """

    principal: Principal
    handle: str
    until: float


class TokenCache(OrderedDict[str, CachedToken]):
    """A least-recently-used cache of verified tokens, by token, the most recent last. `remember` adds one."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._of_handle: dict[str, list[str]] = {}

    def remember(self, token: str, known: CachedToken) -> None:
        """Add a token, and evict the least recently used tokens beyond the limits."""
        if token not in self:
            self.size += len(token)
            self._of_handle.setdefault(known.handle, []).append(token)
        self[token] = known
        while len(self) > MAX_TOKENS or self.size > MAX_TOKEN_BYTES:
            self._evict(next(iter(self)))

    def evict_all_of(self, handle: str) -> None:
        """Evict all tokens of a session or API key."""
        for token in tuple(self._of_handle.get(handle, ())):
            self._evict(token)

    def clear(self) -> None:
        """Evict all tokens."""
        super().clear()
        self._of_handle.clear()
        self.size = 0

    def _evict(self, token: str) -> None:
        handle = self.pop(token).handle
        self.size -= len(token)
        tokens = self._of_handle[handle]
        tokens.remove(token)
        if not tokens:
            del self._of_handle[handle]
