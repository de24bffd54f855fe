"""The tokens that were verified and are remembered: bounded, and found by what ends them."""

from collections import OrderedDict
from dataclasses import dataclass

from gateway.auth.principals import Principal

MAX_TOKENS = 50_000
"""How many verified tokens are remembered."""

MAX_TOKEN_BYTES = 64 * 1024 * 1024
"""How many bytes they may have: those of foreign issuers are of any length up to `MAX_TOKEN`."""


@dataclass(frozen=True, slots=True)
class Known:
    """A verified token: what it can be ended by (a session or an API key), and how long it is believed."""

    principal: Principal
    handle: str
    until: float


class Remembered(OrderedDict[str, Known]):
    """What is known of each token, the one that was used last at the end; `remember` adds one."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._of_handle: dict[str, list[str]] = {}

    def remember(self, token: str, known: Known) -> None:
        """Remember a token, and forget those that were not used for the longest time beyond the limits."""
        if token not in self:
            self.size += len(token)
            self._of_handle.setdefault(known.handle, []).append(token)
        self[token] = known
        while len(self) > MAX_TOKENS or self.size > MAX_TOKEN_BYTES:
            self._forget(next(iter(self)))

    def forget_all_of(self, handle: str) -> None:
        """Forget the tokens of a session."""
        for token in tuple(self._of_handle.get(handle, ())):
            self._forget(token)

    def clear(self) -> None:
        """Forget all tokens."""
        super().clear()
        self._of_handle.clear()
        self.size = 0

    def _forget(self, token: str) -> None:
        handle = self.pop(token).handle
        self.size -= len(token)
        tokens = self._of_handle[handle]
        tokens.remove(token)
        if not tokens:
            del self._of_handle[handle]
