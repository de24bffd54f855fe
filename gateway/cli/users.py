"""`gateway user`: management of users, the recipients of notifications."""

import getpass
import sys
from typing import Annotated, Any

import typer

from gateway.cli.options import CreateOption, SubArgument, group, print_json
from gateway.cli.stdin import first_line
from gateway.protocol.terminal import escape

app = group("Manage the users who receive notifications.")


def _user(row: Any) -> dict[str, Any]:
    from gateway.protocol.times import timestamp

    return {
        "sub": row.sub,
        "disabled": bool(row.disabled),
        "has_password": row.password_hash is not None,
        "created_at": timestamp(row.created_at),
    }


def _hash(password: str, sub: str) -> str:
    """Return the hash of a password. Raises `SettingsError` for a weak password."""
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
    """Prompt for a password twice, without echo. Raises `typer.BadParameter` if the two differ."""
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
    from gateway.cli.database import administer, make_file
    from gateway.store.recipients import check_new

    check_new(sub)
    hashed = _hash(first_line("the password"), sub) if password_stdin else None
    if create:
        make_file()
    print_json(_user(administer(lambda admin: admin.create_user(sub, hashed), offers_create=True)))


@app.command("password")
def set_password(
    sub: SubArgument,
    password_stdin: _PasswordStdinOption = False,
) -> None:
    """Set a user's password, which ends every session. Example: gateway user password ada.

    At a terminal, the command prompts for it twice; otherwise it reads the first line of stdin.
    """
    from gateway.cli.database import administer

    asked = sys.stdin.isatty() and not password_stdin
    changes = {"password_hash": _hash(_ask_password(sub) if asked else first_line("the password"), sub)}
    _, ended = administer(lambda admin: admin.change_user(sub, changes))
    print(f"Set the password of {escape(sub)}. Sessions ended: {len(ended)}.")


@app.command("list")
def list_users() -> None:
    """Print the users, one JSON object per line."""
    from gateway.auth import users
    from gateway.cli.database import print_pages

    print_pages(users.list_users, "id", 0, _user)


@app.command("disable")
def disable(sub: SubArgument) -> None:
    """Forbid a user to sign in, and end every session."""
    from gateway.cli.database import administer

    _, ended = administer(lambda admin: admin.change_user(sub, {"disabled": True}))
    print(f"Disabled {escape(sub)}. Sessions ended: {len(ended)}.")


@app.command("enable")
def enable(sub: SubArgument) -> None:
    """Allow a disabled user to sign in again."""
    from gateway.cli.database import administer

    administer(lambda admin: admin.change_user(sub, {"disabled": False}))
    print(f"Enabled {escape(sub)}.")


@app.command("logout")
def log_out(sub: SubArgument) -> None:
    """End every session of a user: tokens stop working, and open sockets close."""
    from gateway.cli.database import administer

    print(f"Sessions ended: {len(administer(lambda admin: admin.log_out(sub)))}.")


@app.command("delete")
def delete(sub: SubArgument) -> None:
    """Erase a user and the inbox permanently."""
    from gateway.cli.database import administer

    administer(lambda admin: admin.erase_user(sub))
    print(f"Erased {escape(sub)}.")
