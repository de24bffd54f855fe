"""The SQL of services and their API keys. Each function is a unit of work; none commits."""

import re
import secrets
import zlib
from collections.abc import Collection

from sqlalchemy import Connection, delete, or_, select

from gateway.auth.records import Record, found
from gateway.auth.sessions import PAGE, Session, Started, add_session, end_oldest, end_sessions
from gateway.database.models import api_keys, services, sessions
from gateway.errors import Conflict, InvalidKey

SERVICE_SCOPES = ("notify", "tokens:mint", "admin")
"""What a service may be allowed."""

SESSIONS_PER_SERVICE = 10_000
"""How many sessions a service has at once where nothing else is set. Each of its tokens is one."""

_KEY_ID_LENGTH = 16

KEY_PREFIX = "ngk_"
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
    """Return the row of a service."""
    return connection.execute(select(services).where(services.c.client_id == client_id)).one_or_none()


def get_service(connection: Connection, client_id: str) -> Record:
    """Return the row of a service. Raises `NotFound`."""
    return _found_service(find_service(connection, client_id), client_id)


def list_services(connection: Connection, after: int, limit: int) -> list[Record]:
    """Return services by age, beginning behind the row with the key `after`."""
    statement = select(services).where(services.c.id > after).order_by(services.c.id).limit(limit)
    return list(connection.execute(statement))


def end_some(connection: Connection, client_id: str, now_ms: int) -> list[str]:
    """End up to a page of the sessions of a service and of those it minted, and return them.

    Call it as long as whole pages are returned, then `delete_service`: that ends what has come meanwhile, and
    holds its locks the shorter. Raises `NotFound`.
    """
    service = get_service(connection, client_id)
    minted = end_sessions(connection, sessions.c.minted_by == service.id, now_ms, PAGE)
    mine = end_sessions(connection, sessions.c.service_id == service.id, now_ms, PAGE - len(minted))
    return minted + mine


def delete_service(connection: Connection, client_id: str, now_ms: int) -> list[str]:
    """Delete a service with its keys, and return what has ended: its sessions and keys, and what it minted.

    The lock on the row lets nobody give it a session or a key meanwhile. Raises `NotFound`.
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
    """Return the client id of a service, given that or the name. Raises `NotFound`, or `Conflict` for two."""
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
    return str(_found_service(None, given).client_id)


def keep_service(connection: Connection, client_id: str) -> Record:
    """Return the row of a service that nobody deletes before this transaction ends. Raises `NotFound`."""
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
    """Store a session of a service, and end its oldest beyond `limit`. Raises `NotFound`.

    The caller announces what has ended.
    """
    mine = select(services).where(services.c.client_id == client_id)
    # Two sign-ins at once would not count each other: they wait for each other here.
    row = connection.execute(mine.with_for_update(key_share=True)).one_or_none()
    service = _found_service(row, client_id)
    add_session(connection, session, now_ms, service_id=service.id)
    return Started(end_oldest(connection, sessions.c.service_id == service.id, session.id, limit, now_ms))


def new_key() -> tuple[str, str, str]:
    """Return the id of a new API key, its secret, and the text that its holder sends."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    return key_id, secret, f"{KEY_PREFIX}{key_id}_{secret}{_checksum(key_id, secret)}"


def parse_key(text: str) -> tuple[str, str]:
    """Return the id and the secret of an API key. Raises `InvalidKey` where the text cannot be one.

    The checksum lets a mistyped key, and a scanner that looks for leaked ones, be answered without the
    database; it protects nothing.
    """
    match = _KEY.fullmatch(text)
    if match is None or match[3] != _checksum(match[1], match[2]):
        detail = "The API key is incomplete or mistyped: send all of it, as it was printed."
        raise InvalidKey(detail, why="malformed_api_key")
    return match[1], match[2]


def is_key_id(handle: str) -> bool:
    """Whether this is the id of an API key, and no session: those have longer ones."""
    return len(handle) == _KEY_ID_LENGTH


def _checksum(key_id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{key_id}_{secret}'.encode()):08x}"


def add_key(connection: Connection, client_id: str, key_id: str, secret_hash: bytes, now_ms: int) -> None:
    """Store an API key of a service. Raises `NotFound` for the service."""
    service = keep_service(connection, client_id)
    values = {"id": key_id, "service_id": service.id, "secret_hash": secret_hash, "created_at": now_ms}
    connection.execute(api_keys.insert().values(values))


def find_key(connection: Connection, key_id: str) -> Record | None:
    """Return the hash of an API key, and the `service_id`, `client_id` and `scopes` it stands for."""
    columns = (api_keys.c.secret_hash, api_keys.c.service_id, services.c.client_id, services.c.scopes)
    return connection.execute(
        select(*columns).join_from(api_keys, services).where(api_keys.c.id == key_id)
    ).one_or_none()


def list_keys(connection: Connection, client_id: str, after: str, limit: int) -> list[Record]:
    """Return the keys of a service by their ids, beginning behind `after`. Raises `NotFound`."""
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
