"""Principals: the authenticated users and services, with their scopes."""

from dataclasses import dataclass

from gateway.errors import InsufficientScope
from gateway.observability import audit

INBOX = "inbox"
"""The scope that gives access to the user's own inbox."""


@dataclass(frozen=True, slots=True)
class User:
    """A user, authenticated by a token. `id` is the key of its row; `expires_at` is in seconds since 1970."""

    id: int
    sub: str
    session: str
    scopes: frozenset[str]
    expires_at: int
    client_id: str

    @property
    def actor(self) -> str:
        """The user's name in the audit log."""
        return audit.user(self.sub)


@dataclass(frozen=True, slots=True)
class Service:
    """A service, authenticated by a token or an API key. With a key, it has no session and no expiry."""

    id: int
    client_id: str
    scopes: frozenset[str]
    session: str | None
    expires_at: int | None

    @property
    def actor(self) -> str:
        """The service's name in the audit log."""
        return audit.service(self.client_id)


Principal = User | Service


def inbox_user(principal: Principal) -> User:
    """Return the principal if it is a user with the scope `inbox`. Raises `InsufficientScope` otherwise."""
    if isinstance(principal, User) and INBOX in principal.scopes:
        return principal
    detail = _NO_INBOX if isinstance(principal, Service) else None
    raise InsufficientScope(INBOX, principal.actor, detail)


_NO_INBOX = (
    "An inbox is that of a user: this needs a user's access token with the scope 'inbox', and not the key or "
    "token of a service."
)
