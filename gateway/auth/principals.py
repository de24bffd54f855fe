"""Principals: who shows a token or a key, and what it may do."""

from dataclasses import dataclass

from gateway.errors import InsufficientScope
from gateway.observability import audit

INBOX = "inbox"
"""The scope of a user's own notifications."""


@dataclass(frozen=True, slots=True)
class User:
    """A user who showed a token. `id` is the key of the row; `expires_at` is in seconds since 1970."""

    id: int
    sub: str
    session: str
    scopes: frozenset[str]
    expires_at: int
    client_id: str

    @property
    def actor(self) -> str:
        """What the audit log calls this user."""
        return audit.user(self.sub)


@dataclass(frozen=True, slots=True)
class Service:
    """A service that showed a token, or an API key: that has no session and does not expire."""

    id: int
    client_id: str
    scopes: frozenset[str]
    session: str | None
    expires_at: int | None

    @property
    def actor(self) -> str:
        """What the audit log calls this service."""
        return audit.service(self.client_id)


Principal = User | Service


def inbox_user(principal: Principal) -> User:
    """Return the user who may read an inbox. Raises `InsufficientScope` for anybody else."""
    if isinstance(principal, User) and INBOX in principal.scopes:
        return principal
    detail = _NO_INBOX if isinstance(principal, Service) else None
    raise InsufficientScope(INBOX, principal.actor, detail)


_NO_INBOX = (
    "An inbox is that of a user: this needs a user's access token with the scope 'inbox', and not the key or "
    "token of a service."
)
