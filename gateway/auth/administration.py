"""Administration of services, keys and users, by operators with commands and by services over the API."""

import secrets
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection

from gateway.auth import erasure, services, users
from gateway.auth.records import Record
from gateway.auth.sessions import PAGE
from gateway.auth.tokens import digest
from gateway.database.database import Database
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.times import now_ms


class NewKey(NamedTuple):
    """A new API key. `text` is the key as its service sends it, and is not stored. `created_at` is in ms."""

    id: str
    text: str
    created_at: int


class NewService(NamedTuple):
    """A new service, with its secret, which is not stored, and its API key if one was asked for."""

    row: Record
    secret: str
    key: NewKey | None


class Administration:
    """Changes to services, keys and users, each recorded in the audit log with its `actor` and `source`.

    `on_ended` is called after each commit with the sessions and API keys that it has ended. Every method may
    raise `Unavailable`, and `NotFound` if the service, key or user that it names does not exist.
    """

    def __init__(
        self,
        database: Database,
        actor: str,
        source: str,
        *,
        on_ended: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        self.database = database
        self.actor = actor
        self._source = source
        self._on_ended = on_ended

    async def create_service(
        self, name: str, scopes: Collection[str], *, with_key: bool = False
    ) -> NewService:
        """Create a service, and with `with_key` an API key of it in the same transaction."""
        secret, now = secrets.token_urlsafe(32), now_ms()
        key_id, key_secret, text = services.new_key()

        def work(connection: Connection) -> Record:
            row = services.add_service(connection, name, scopes, digest(secret), now)
            if with_key:
                services.add_key(connection, row.client_id, key_id, digest(key_secret), now)
            return row

        row = await self.database.write(work)
        subject = audit.service(row.client_id)
        self._record(Event.SERVICE_CREATED, subject, scopes=row.scopes.split())
        if not with_key:
            return NewService(row, secret, None)
        self._record(Event.KEY_CREATED, subject, key=key_id)
        return NewService(row, secret, NewKey(key_id, text, now))

    async def delete_service(self, client_id: str) -> None:
        """Delete a service and its keys, and end its sessions and those it has minted, a page at a time."""
        number, more = 0, True
        while more:
            ended = await self.database.write(services.end_some, client_id, now_ms())
            self._on_ended(ended)
            number, more = number + len(ended), len(ended) == PAGE
        ended = await self.database.write(services.delete_service, client_id, now_ms())
        self._on_ended(ended)
        self._record(Event.SERVICE_DELETED, audit.service(client_id), number=number + len(ended))

    async def create_key(self, client_id: str) -> NewKey:
        """Create an API key of a service."""
        key_id, secret, text = services.new_key()
        now = now_ms()
        await self.database.write(services.add_key, client_id, key_id, digest(secret), now)
        self._record(Event.KEY_CREATED, audit.service(client_id), key=key_id)
        return NewKey(key_id, text, now)

    async def delete_key(self, client_id: str, key_id: str) -> None:
        """Delete an API key of a service."""
        await self.database.write(services.delete_key, client_id, key_id)
        self._on_ended([key_id])
        self._record(Event.KEY_DELETED, audit.service(client_id), key=key_id)

    async def create_user(self, sub: str, password_hash: str | None) -> Record:
        """Create a user. Without a `password_hash` the user can't sign in with a password.

        Raises `Conflict` if the `sub` is taken.
        """
        row = await self.database.write(users.add_user, sub, password_hash, now_ms())
        password = "none" if password_hash is None else "set"
        self._record(Event.USER_CREATED, audit.user(sub), password=password)
        return row

    async def change_user(self, sub: str, changes: dict[str, Any]) -> tuple[Record, list[str]]:
        """Set `password_hash` or `disabled`, and return the row and the sessions that this has ended."""
        row, ended = await self.database.write(users.update_user, sub, changes, now_ms())
        self._on_ended(ended)
        changed = sorted(name.removesuffix("_hash") for name in changes)
        self._record(Event.USER_CHANGED, audit.user(sub), changed=changed, disabled=bool(row.disabled))
        self._record_ended(sub, ended, "user_changed")
        return row, ended

    async def log_out(self, sub: str) -> list[str]:
        """End all sessions of a user, and return their ids."""
        ended = await self.database.write(users.log_out, sub, now_ms())
        self._on_ended(ended)
        self._record_ended(sub, ended, "logout")
        return ended

    async def erase_user(self, sub: str) -> None:
        """Free the `sub` of a user, end the user's sessions, and erase the inbox in small steps."""
        user_id, ended = await self.database.write(users.release_user, sub, now_ms())
        self._on_ended(ended)
        self._record(Event.USER_DELETED, audit.user(sub))
        self._record_ended(sub, ended, "user_deleted")
        while await self.database.write(erasure.erase_some, user_id):
            pass

    def _record(self, event: Event, subject: str, **details: audit.Value) -> None:
        audit.record(event, actor=self.actor, subject=subject, source=self._source, **details)

    def _record_ended(self, sub: str, ended: list[str], why: str) -> None:
        audit.record_ended(ended, why, actor=self.actor, subject=audit.user(sub), source=self._source)
