"""`gateway service`: those who post notifications."""

import secrets
from typing import Annotated, Any

import typer

from gateway.cli.options import CreateOption, checked, group, print_json
from gateway.protocol.terminal import escape

app = group("Manage services: those who post notifications.")


def _check_name(value: str) -> str:
    from gateway.auth.names import check_name

    return check_name(value)


_SCOPES = "notify: post. tokens:mint: give users tokens. admin: manage users and sessions. May be repeated."


def _scope(value: list[str]) -> list[str]:
    from gateway.auth.services import SERVICE_SCOPES
    from gateway.settings.wording import nearest

    for scope in value:
        if scope not in SERVICE_SCOPES:
            near = nearest(scope, SERVICE_SCOPES)
            hint = "" if near is None else f": did you mean {near}?"
            raise typer.BadParameter(f"{scope}: it must be one of {', '.join(SERVICE_SCOPES)}{hint}")
    return value


def _service(row: Any) -> dict[str, Any]:
    from gateway.protocol.times import timestamp

    return {
        "client_id": row.client_id,
        "name": row.name,
        "scopes": row.scopes.split(),
        "created_at": timestamp(row.created_at),
    }


@app.command("add")
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name for people.", callback=checked(_check_name))
    ],
    scope: Annotated[list[str], typer.Option(help=_SCOPES, callback=_scope)],
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Make an API key of it, too, and print it once.")
    ] = False,
    create: CreateOption = False,
) -> None:
    """Create a service, and print its credentials once.

    Example: gateway service add shop --scope notify --with-key.
    """
    from sqlalchemy import Connection

    from gateway.auth import services
    from gateway.auth.records import Record
    from gateway.auth.tokens import digest
    from gateway.cli.database import make_file, manage, now_ms, record
    from gateway.observability import audit
    from gateway.observability.audit import Event

    secret = secrets.token_urlsafe(32)
    key_id, key_secret, key = services.new_key()

    def work(connection: Connection) -> Record:
        row = services.add_service(connection, name, scope, digest(secret), now_ms())
        if with_key:
            services.add_key(connection, row.client_id, key_id, digest(key_secret), now_ms())
        return row

    def done(row: Record) -> None:
        record(Event.SERVICE_CREATED, audit.service(row.client_id), scopes=row.scopes.split())
        if with_key:
            record(Event.KEY_CREATED, audit.service(row.client_id), key=key_id)

    if create:
        make_file()
    made = _service(manage(done, work)) | {"client_secret": secret}
    print_json(made | {"key_id": key_id, "key": key} if with_key else made)


@app.command("list")
def list_services() -> None:
    """Print the services, one JSON object a line."""
    from gateway.auth import services
    from gateway.cli.database import print_pages

    print_pages(services.list_services, "id", 0, _service)


@app.command("delete")
def delete(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="The service, as `list` shows it.")],
) -> None:
    """Delete a service and its keys; what it posted stays."""
    from gateway.auth import services
    from gateway.auth.sessions import PAGE as ENDED_AT_ONCE
    from gateway.cli.database import now_ms, record, with_database
    from gateway.database.database import Database
    from gateway.observability import audit
    from gateway.observability.audit import Event
    from gateway.settings import Settings

    async def erase(_settings: Settings, database: Database) -> None:
        number, some = 0, ENDED_AT_ONCE
        while some == ENDED_AT_ONCE:
            some = len(await database.write(services.end_some, client_id, now_ms()))
            number += some
        number += len(await database.write(services.delete_service, client_id, now_ms()))
        record(Event.SERVICE_DELETED, audit.service(client_id), number=number)

    with_database(erase)
    print(f"Deleted {escape(client_id)}.")
