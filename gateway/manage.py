"""The commands that manage users, services and keys: on the database directly, so no gateway need run."""

import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from gateway import accounts, audit, schema, services, signing, sqlite_file
from gateway.accounts import Record, check_sub
from gateway.audit import Event
from gateway.database import Database, name_of, open_database
from gateway.endings import PAGE as ENDED_AT_ONCE
from gateway.errors import GatewayError
from gateway.passwords import hash_password
from gateway.protocol import timestamp
from gateway.services import check_name
from gateway.settings import Settings, SettingsError, load_settings
from gateway.sqlite_file import Opening
from gateway.terminal import escape, json_line
from gateway.tokens import digest

P = ParamSpec("P")
T = TypeVar("T")

PAGE = 500
"""How many rows a listing reads at once."""

user_app = typer.Typer(help="Manage users: those who receive notifications.", no_args_is_help=True)
service_app = typer.Typer(help="Manage services: those who post notifications.", no_args_is_help=True)
key_app = typer.Typer(help="Manage the API keys of a service.", no_args_is_help=True)
signing_app = typer.Typer(help="Manage the keys that sign access tokens.", no_args_is_help=True)


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    def callback(value: str) -> str:
        try:
            return check(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return callback


def _scope(value: list[str]) -> list[str]:
    for scope in value:
        if scope not in services.SERVICE_SCOPES:
            raise typer.BadParameter(f"{scope}: one of {', '.join(services.SERVICE_SCOPES)}")
    return value


SubArgument = Annotated[
    str, typer.Argument(metavar="SUB", help="The user's id.", callback=_checked(check_sub))
]
CreateOption = Annotated[
    bool, typer.Option("--create", help="Make the database of SQLite first, where there is none.")
]
ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="The service, as `list` shows it.")]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="The service: its client_id, or its name where one has it.")
]


def make_file() -> None:
    """Make the file of the database that the settings name, where that is SQLite's and not there yet."""
    sqlite_file.prepare(make_url(load_settings().database_url), Opening.CREATE)


def with_database(use: Callable[[Settings, Database], Awaitable[T]]) -> T:
    """Run what needs the database, on a schema that is up to date, and say on stderr which database it was.

    One that is not there is not made (`make_file`): in another folder, or without its `.env`, a command would
    make a new one, and a key in it that no gateway knows.
    """

    async def main() -> T:
        settings = load_settings()
        url = make_url(settings.database_url)
        name = name_of(url)
        # Before the audit log is opened: nothing is touched for a command that cannot run.
        sqlite_file.prepare(url, Opening.EXISTING)
        with audit.written_to(settings.audit_log):
            try:
                async with open_database(settings, Opening.EXISTING) as database:
                    if await schema.is_pending(database):
                        await database.write(schema.upgrade)
                    result = await use(settings, database)
            except GatewayError as error:
                error.add_note(f"database: {name}")
                raise
        print(f"gateway: database: {escape(name)}", file=sys.stderr)
        return result

    return asyncio.run(main())


def _manage(
    done: Callable[[T], None],
    work: Callable[Concatenate[Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run one unit of work, commit it, and let `done` say in the audit log what it has done."""

    async def act(_settings: Settings, database: Database) -> T:
        result = await database.write(work, *args, **kwargs)
        done(result)
        return result

    return with_database(act)


def record(event: Event, subject: str | None, **details: audit.Value) -> None:
    """Say in the audit log what the operator has done; call it where `with_database` runs."""
    audit.record(event, actor=audit.operator(), subject=subject, source="cli", **details)


def record_ended(sub: str, ended: list[str], why: str) -> None:
    """Say in the audit log which sessions have ended; nothing where there was none."""
    if ended:
        record(Event.SESSIONS_ENDED, audit.user(sub), why=why, number=len(ended), sessions=ended)


def now_ms() -> int:
    """Return the time in ms."""
    return int(time.time() * 1000)


def print_json(value: dict[str, Any]) -> None:
    """Print one object on one line, whatever it holds."""
    print(json_line(value))


def _user(row: Record) -> dict[str, Any]:
    return {
        "sub": row.sub,
        "disabled": bool(row.disabled),
        "has_password": row.password_hash is not None,
        "created_at": timestamp(row.created_at),
    }


@user_app.command("add")
def add_user(
    sub: SubArgument,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
    ] = False,
    create: CreateOption = False,
) -> None:
    """Create a user. Example: echo "$PASSWORD" | gateway user add ada --password-stdin."""
    hashed = None
    if password_stdin:
        try:
            hashed = hash_password(sys.stdin.readline().rstrip("\r\n"), sub)
        except ValueError as error:
            raise SettingsError(f"the password: {error}") from None

    def done(_: Record) -> None:
        record(Event.USER_CREATED, audit.user(sub), password="none" if hashed is None else "set")

    if create:
        make_file()
    print_json(_user(_manage(done, accounts.add_user, sub, hashed, now_ms())))


@user_app.command("list")
def list_users() -> None:
    """Print the users, one JSON object a line."""
    _print_pages(accounts.list_users, "id", 0, _user)


def _print_pages(
    work: Callable[..., list[Record]], mark: str, after: Any, show: Callable[[Record], dict[str, Any]]
) -> None:
    async def print_all(_settings: Settings, database: Database) -> None:
        rows = await database.read(work, after, PAGE)
        while rows:
            for row in rows:
                print_json(show(row))
            rows = await database.read(work, getattr(rows[-1], mark), PAGE)

    with_database(print_all)


@user_app.command("disable")
def disable_user(sub: SubArgument) -> None:
    """Let a user sign in no more, and end every session."""

    def done(result: tuple[Record, list[str]]) -> None:
        record(Event.USER_CHANGED, audit.user(sub), changed=["disabled"], disabled=True)
        record_ended(sub, result[1], "user_changed")

    _, ended = _manage(done, accounts.update_user, sub, {"disabled": True}, now_ms())
    print(f"Disabled {escape(sub)}. Sessions ended: {len(ended)}.")


@user_app.command("enable")
def enable_user(sub: SubArgument) -> None:
    """Let a disabled user sign in again."""

    def done(_: object) -> None:
        record(Event.USER_CHANGED, audit.user(sub), changed=["disabled"], disabled=False)

    _manage(done, accounts.update_user, sub, {"disabled": False}, now_ms())
    print(f"Enabled {escape(sub)}.")


@user_app.command("logout")
def log_out_user(sub: SubArgument) -> None:
    """End every session of a user: tokens stop working, and open sockets close."""

    def done(ended: list[str]) -> None:
        record_ended(sub, ended, "logout")

    print(f"Sessions ended: {len(_manage(done, accounts.log_out, sub, now_ms()))}.")


@user_app.command("delete")
def delete_user(sub: SubArgument) -> None:
    """Erase a user and the inbox, for good."""

    async def erase(_settings: Settings, database: Database) -> None:
        user_id, ended = await database.write(accounts.release_user, sub, now_ms())
        record(Event.USER_DELETED, audit.user(sub))
        record_ended(sub, ended, "user_deleted")
        while await database.write(accounts.erase_some, user_id):
            pass

    with_database(erase)
    print(f"Erased {escape(sub)}.")


@service_app.command("add")
def add_service(
    name: Annotated[str, typer.Argument(help="A name for people.", callback=_checked(check_name))],
    scope: Annotated[
        list[str], typer.Option(help="notify, tokens:mint or admin; may be repeated.", callback=_scope)
    ],
    create: CreateOption = False,
) -> None:
    """Create a service, and print its credentials once. Example: gateway service add shop --scope notify."""
    secret = secrets.token_urlsafe(32)

    def done(row: Record) -> None:
        record(Event.SERVICE_CREATED, audit.service(row.client_id), scopes=row.scopes.split())

    if create:
        make_file()
    row = _manage(done, services.add_service, name, scope, digest(secret), now_ms())
    print_json(_service(row) | {"client_secret": secret})


def _service(row: Record) -> dict[str, Any]:
    created_at = timestamp(row.created_at)
    return {
        "client_id": row.client_id,
        "name": row.name,
        "scopes": row.scopes.split(),
        "created_at": created_at,
    }


@service_app.command("list")
def list_services() -> None:
    """Print the services, one JSON object a line."""
    _print_pages(services.list_services, "id", 0, _service)


@service_app.command("delete")
def delete_service(client_id: ClientArgument) -> None:
    """Delete a service and its keys; what it posted stays."""

    async def erase(_settings: Settings, database: Database) -> None:
        number, some = 0, ENDED_AT_ONCE
        while some == ENDED_AT_ONCE:
            some = len(await database.write(services.end_some, client_id, now_ms()))
            number += some
        number += len(await database.write(services.delete_service, client_id, now_ms()))
        record(Event.SERVICE_DELETED, audit.service(client_id), number=number)

    with_database(erase)
    print(f"Deleted {escape(client_id)}.")


@key_app.command("add")
def add_key(service: ServiceArgument) -> None:
    """Create an API key of a service, and print it once. Example: gateway key add shop."""
    key_id, secret, key = services.new_key()

    def work(connection: Connection) -> str:
        client_id = services.identify(connection, service)
        services.add_key(connection, client_id, key_id, digest(secret), now_ms())
        return client_id

    def done(client_id: str) -> None:
        record(Event.KEY_CREATED, audit.service(client_id), key=key_id)

    _manage(done, work)
    print_json({"id": key_id, "key": key})


@key_app.command("list")
def list_keys(service: ServiceArgument) -> None:
    """Print the keys of a service, without their secrets, one JSON object a line."""

    def work(connection: Connection, after: str, limit: int) -> list[Record]:
        return services.list_keys(connection, services.identify(connection, service), after, limit)

    _print_pages(work, "id", "", lambda row: {"id": row.id, "created_at": timestamp(row.created_at)})


@key_app.command("delete")
def delete_key(
    service: ServiceArgument, key_id: Annotated[str, typer.Argument(help="The key's id.")]
) -> None:
    """Delete an API key; it stops working within a second."""

    def work(connection: Connection) -> str:
        client_id = services.identify(connection, service)
        services.delete_key(connection, client_id, key_id)
        return client_id

    def done(client_id: str) -> None:
        record(Event.KEY_DELETED, audit.service(client_id), key=key_id)

    _manage(done, work)
    print(f"Deleted {escape(key_id)}.")


@signing_app.command("rotate")
def rotate() -> None:
    """Sign with a new key in ten seconds; the old one verifies until its last token has expired."""

    async def make(settings: Settings, database: Database) -> str:
        if settings.jwt_secret is not None:
            raise SettingsError("GATEWAY_JWT_SECRET: it signs, so there is no key to rotate")
        # A key that those who serve cannot decrypt would be none.
        await signing.Keyring(settings, database, time.time).start()
        kid = await database.write(signing.rotate, now_ms(), signing.passphrase(settings))
        record(Event.SIGNING_KEY_ROTATED, f"key:{kid}")
        return kid

    print_json({"kid": with_database(make)})


@signing_app.command("list")
def list_signing_keys() -> None:
    """Print the keys that sign or still verify, one JSON object a line."""
    for row in with_database(lambda _, database: database.read(signing.list_keys, now_ms())):
        retired_at = row.retired_at and timestamp(row.retired_at)
        print_json(
            {"kid": row.kid, "created_at": timestamp(row.created_at), "retired_at": retired_at or None}
        )
