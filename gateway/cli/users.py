"""`gateway user`: those who receive notifications."""

import getpass
import sys
from typing import Annotated, Any

import typer

from gateway.cli.options import CreateOption, SubArgument, group, print_json
from gateway.cli.stdin import first_line
from gateway.protocol.terminal import escape

app = group("Manage users: those who receive notifications.")


def _user(row: Any) -> dict[str, Any]:
    from gateway.protocol.times import timestamp

    return {
        "sub": row.sub,
        "disabled": bool(row.disabled),
        "has_password": row.password_hash is not None,
        "created_at": timestamp(row.created_at),
    }


def _hash(password: str, sub: str) -> str:
    """Return the hash of a password. Raises `SettingsError` for one that nobody should be given."""
    from gateway.auth.passwords import hash_password
    from gateway.settings import SettingsError

    try:
        return hash_password(password, sub)
    except ValueError as error:
        raise SettingsError(f"the password: {error}") from None


_PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
]


def _ask_password(sub: str) -> str:
    """Return a password that a person types twice, unseen."""
    first = getpass.getpass(f"New password of {escape(sub)}: ")
    if getpass.getpass("The same again: ") != first:
        raise typer.BadParameter("the two passwords differ: nothing was changed, try again")
    return first


@app.command("add")
def add(
    sub: SubArgument,
    password_stdin: _PasswordStdinOption = False,
    create: CreateOption = False,
) -> None:
    """Create a user. Example: echo "$PASSWORD" | gateway user add ada --password-stdin."""
    from gateway.auth import users
    from gateway.cli.database import make_file, manage, now_ms, record
    from gateway.observability import audit
    from gateway.observability.audit import Event
    from gateway.store.recipients import check_new

    check_new(sub)
    hashed = _hash(first_line("the password"), sub) if password_stdin else None

    def done(_: object) -> None:
        record(Event.USER_CREATED, audit.user(sub), password="none" if hashed is None else "set")

    if create:
        make_file()
    print_json(_user(manage(done, users.add_user, sub, hashed, now_ms())))


@app.command("password")
def set_password(
    sub: SubArgument,
    password_stdin: _PasswordStdinOption = False,
) -> None:
    """Set a user's password, which ends every session. Example: gateway user password ada.

    A terminal is asked for it twice; where there is none, it is the first line of stdin.
    """
    from gateway.auth import users
    from gateway.cli.database import manage, now_ms, record, record_ended
    from gateway.observability import audit
    from gateway.observability.audit import Event

    asked = sys.stdin.isatty() and not password_stdin
    changes = {"password_hash": _hash(_ask_password(sub) if asked else first_line("the password"), sub)}

    def done(result: tuple[Any, list[str]]) -> None:
        row, ended = result
        record(Event.USER_CHANGED, audit.user(sub), changed=["password"], disabled=bool(row.disabled))
        record_ended(sub, ended, "user_changed")

    _, ended = manage(done, users.update_user, sub, changes, now_ms())
    print(f"Set the password of {escape(sub)}. Sessions ended: {len(ended)}.")


@app.command("list")
def list_users() -> None:
    """Print the users, one JSON object a line."""
    from gateway.auth import users
    from gateway.cli.database import print_pages

    print_pages(users.list_users, "id", 0, _user)


@app.command("disable")
def disable(sub: SubArgument) -> None:
    """Let a user sign in no more, and end every session."""
    from gateway.auth import users
    from gateway.cli.database import manage, now_ms, record, record_ended
    from gateway.observability import audit
    from gateway.observability.audit import Event

    def done(result: tuple[object, list[str]]) -> None:
        record(Event.USER_CHANGED, audit.user(sub), changed=["disabled"], disabled=True)
        record_ended(sub, result[1], "user_changed")

    _, ended = manage(done, users.update_user, sub, {"disabled": True}, now_ms())
    print(f"Disabled {escape(sub)}. Sessions ended: {len(ended)}.")


@app.command("enable")
def enable(sub: SubArgument) -> None:
    """Let a disabled user sign in again."""
    from gateway.auth import users
    from gateway.cli.database import manage, now_ms, record
    from gateway.observability import audit
    from gateway.observability.audit import Event

    def done(_: object) -> None:
        record(Event.USER_CHANGED, audit.user(sub), changed=["disabled"], disabled=False)

    manage(done, users.update_user, sub, {"disabled": False}, now_ms())
    print(f"Enabled {escape(sub)}.")


@app.command("logout")
def log_out(sub: SubArgument) -> None:
    """End every session of a user: tokens stop working, and open sockets close."""
    from gateway.auth import users
    from gateway.cli.database import manage, now_ms, record_ended

    def done(ended: list[str]) -> None:
        record_ended(sub, ended, "logout")

    print(f"Sessions ended: {len(manage(done, users.log_out, sub, now_ms()))}.")


@app.command("delete")
def delete(sub: SubArgument) -> None:
    """Erase a user and the inbox, for good."""
    from gateway.auth import erasure, users
    from gateway.cli.database import now_ms, record, record_ended, with_database
    from gateway.database.database import Database
    from gateway.observability import audit
    from gateway.observability.audit import Event
    from gateway.settings import Settings

    async def erase(_settings: Settings, database: Database) -> None:
        user_id, ended = await database.write(users.release_user, sub, now_ms())
        record(Event.USER_DELETED, audit.user(sub))
        record_ended(sub, ended, "user_deleted")
        while await database.write(erasure.erase_some, user_id):
            pass

    with_database(erase)
    print(f"Erased {escape(sub)}.")
