"""The SQL of services and their API keys. Each function is a unit of work; none commits."""

import re
import secrets
import zlib
from collections.abc import Collection

from sqlalchemy import Connection, delete, or_, select

from gateway.auth.records import Record, found
from gateway.auth.sessions import PAGE, Session, Started, add_session, end_oldest, end_sessions
from gateway.database.models import api_keys, services, sessions
from gateway.errors import Conflict, InvalidKey, NotFound
from gateway.settings.wording import nearest

SERVICE_SCOPES = ("notify", "tokens:mint", "admin")
"""The scopes that a service may have."""

SESSIONS_PER_SERVICE = 10_000
"""Maximum number of concurrent sessions of a service, unless a setting says otherwise; each token has one."""

MAX_COMPARED_NAMES = 1000
"""Maximum number of services whose names are compared with one that does not exist."""

_KEY_ID_LENGTH = 16
"""Length of the id of an API key, in characters."""

KEY_PREFIX = "ngk_"
"""Prefix of all API keys."""

_KEY = re.compile(r"ngk_([0-9a-f]{16})_([0-9a-f]{64})([0-9a-f]{8})")


def add_service(
    connection: Connection,
    name: str,
    scopes: Collection[str],
    secret_hash: bytes,
    now_ms: int,
    *,
    client_id: str | None = None,
) -> Record:
    """Create a service, and return its row."""
    values = {
        "client_id": client_id or "svc_" + secrets.token_hex(8),
        "name": name,
        "scopes": " ".join(sorted(set(scopes))),
        "secret_hash": secret_hash,
        "created_at": now_ms,
    }
    return connection.execute(services.insert().values(values).returning(services)).one()


def find_service(connection: Connection, client_id: str) -> Record | None:
    """Return the row of a service, or None."""
    return connection.execute(select(services).where(services.c.client_id == client_id)).one_or_none()


def get_service(connection: Connection, client_id: str) -> Record:
    """Return the row of a service. Raises `NotFound`."""
    return _found_service(find_service(connection, client_id), client_id)


def list_services(connection: Connection, after: int, limit: int) -> list[Record]:
    """Return up to `limit` services in order of creation, starting after the row with the key `after`."""
    statement = select(services).where(services.c.id > after).order_by(services.c.id).limit(limit)
    return list(connection.execute(statement))


def end_some(connection: Connection, client_id: str, now_ms: int) -> list[str]:
    """End up to a page of the sessions of a service and of those it has minted, and return their ids.

    Call it until it returns less than a page, then call `delete_service`, which ends the sessions added in
    the meantime. With few of them left, it holds its locks only briefly. Raises `NotFound`.
    """
    service = get_service(connection, client_id)
    minted = end_sessions(connection, sessions.c.minted_by == service.id, now_ms, PAGE)
    mine = end_sessions(connection, sessions.c.service_id == service.id, now_ms, PAGE - len(minted))
    return minted + mine


def delete_service(connection: Connection, client_id: str, now_ms: int) -> list[str]:
    """Delete a service with its keys, and end its sessions and those it has minted.

    Return the ids of these sessions and keys. The lock on the service's row prevents other transactions from
    adding a session or key in the meantime. Raises `NotFound`.
    """
    mine = select(services).where(services.c.client_id == client_id)
    service = _found_service(connection.execute(mine.with_for_update()).one_or_none(), client_id)
    live = select(sessions.c.id).where(sessions.c.service_id == service.id, sessions.c.ended_at.is_(None))
    keys = select(api_keys.c.id).where(api_keys.c.service_id == service.id)
    minted = end_sessions(connection, sessions.c.minted_by == service.id, now_ms)
    gone = [*connection.scalars(live), *connection.scalars(keys), *minted]
    connection.execute(delete(services).where(services.c.id == service.id))
    return gone


def identify(connection: Connection, given: str) -> str:
    """Return the `client_id` of the service with this `client_id` or name.

    Raises `NotFound`, or `Conflict` if several services have this name.
    """
    statement = select(services.c.client_id).where(
        or_(services.c.client_id == given, services.c.name == given)
    )
    found_ids = list(connection.scalars(statement.order_by(services.c.id)))
    if given in found_ids or len(found_ids) == 1:
        return given if given in found_ids else str(found_ids[0])
    if found_ids:
        raise Conflict(
            f"There is more than one service of this name: name one of {', '.join(found_ids[:10])}"
        )
    names = connection.scalars(select(services.c.name).limit(MAX_COMPARED_NAMES))
    raise NotFound("There is no such service.", name=given, near=nearest(given, set(names)))


def lock_service(connection: Connection, client_id: str) -> Record:
    """Return the row of a service, and lock it against deletion until this transaction ends.

    Raises `NotFound`.
    """
    statement = select(services).where(services.c.client_id == client_id)
    row = connection.execute(statement.with_for_update(read=True)).one_or_none()
    return _found_service(row, client_id)


def start_service_session(
    connection: Connection,
    client_id: str,
    session: Session,
    now_ms: int,
    *,
    limit: int = SESSIONS_PER_SERVICE,
) -> Started:
    """Store a session of a service, and end the service's oldest sessions beyond `limit`.

    The caller announces the ended sessions. Raises `NotFound`.
    """
    mine = select(services).where(services.c.client_id == client_id)
    # Concurrent sign-ins would not count each other's sessions, so they wait for each other here.
    row = connection.execute(mine.with_for_update(key_share=True)).one_or_none()
    service = _found_service(row, client_id)
    add_session(connection, session, now_ms, service_id=service.id)
    return Started(end_oldest(connection, sessions.c.service_id == service.id, session.id, limit, now_ms))


def new_key() -> tuple[str, str, str]:
    """Return the id and the secret of a new API key, and the text that its service sends."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    return key_id, secret, f"{KEY_PREFIX}{key_id}_{secret}{_checksum(key_id, secret)}"


def parse_key(text: str) -> tuple[str, str]:
    """Return the id and the secret of an API key. Raises `InvalidKey` if the text is not an API key.

    With the checksum, mistyped keys and the guesses of secret scanners are refused without the database. It
    is not a security measure.
    """
    match = _KEY.fullmatch(text)
    if match is None or match[3] != _checksum(match[1], match[2]):
        detail = "The API key is incomplete or mistyped: send all of it, as it was printed."
        raise InvalidKey(detail, why="malformed_api_key")
    return match[1], match[2]


def is_key_id(handle: str) -> bool:
    """Return whether a handle is the id of an API key. The ids of sessions are longer."""
    return len(handle) == _KEY_ID_LENGTH


def _checksum(key_id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{key_id}_{secret}'.encode()):08x}"


def add_key(connection: Connection, client_id: str, key_id: str, secret_hash: bytes, now_ms: int) -> None:
    """Store an API key of a service. Raises `NotFound` if the service does not exist."""
    service = lock_service(connection, client_id)
    values = {"id": key_id, "service_id": service.id, "secret_hash": secret_hash, "created_at": now_ms}
    connection.execute(api_keys.insert().values(values))


def find_key(connection: Connection, key_id: str) -> Record | None:
    """Return the hash of an API key with its `service_id`, `client_id` and `scopes`, or None."""
    columns = (api_keys.c.secret_hash, api_keys.c.service_id, services.c.client_id, services.c.scopes)
    return connection.execute(
        select(*columns).join_from(api_keys, services).where(api_keys.c.id == key_id)
    ).one_or_none()


def list_keys(connection: Connection, client_id: str, after: str, limit: int) -> list[Record]:
    """Return up to `limit` keys of a service in the order of their ids, after `after`. Raises `NotFound`."""
    service = get_service(connection, client_id)
    statement = select(api_keys).where(api_keys.c.service_id == service.id, api_keys.c.id > after)
    return list(connection.execute(statement.order_by(api_keys.c.id).limit(limit)))


def delete_key(connection: Connection, client_id: str, key_id: str) -> None:
    """Delete an API key. Raises `NotFound`."""
    service = get_service(connection, client_id)
    mine = delete(api_keys).where(api_keys.c.id == key_id, api_keys.c.service_id == service.id)
    found(connection.execute(mine.returning(api_keys.c.id)).one_or_none(), "key", key_id)


def _found_service(row: Record | None, client_id: str) -> Record:
    return found(row, "service", client_id)
