"""The database of a command: opened for it, up to date, and named on stderr; its changes in the audit log."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.engine import make_url

from gateway.auth.administration import Administration
from gateway.auth.records import Record
from gateway.cli.options import print_json
from gateway.database import schema, sqlite_file
from gateway.database.database import Database, name_of, open_database
from gateway.database.sqlite_file import Opening
from gateway.errors import GatewayError
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.terminal import escape
from gateway.settings import Settings, load_settings

T = TypeVar("T")

PAGE = 500
"""How many rows a listing reads at once."""


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


def administer(act: Callable[[Administration], Awaitable[T]]) -> T:
    """Do something on the database as the operator, and return what came of it."""
    return with_database(lambda _, database: act(Administration(database, audit.operator(), "cli")))


def record(event: Event, subject: str | None, **details: audit.Value) -> None:
    """Say in the audit log what the operator has done; call it where `with_database` runs."""
    audit.record(event, actor=audit.operator(), subject=subject, source="cli", **details)


def record_ended(sub: str, ended: list[str], why: str) -> None:
    """Say in the audit log which sessions of a user have ended; nothing where there was none."""
    audit.record_ended(ended, why, actor=audit.operator(), subject=audit.user(sub), source="cli")


def print_pages(
    work: Callable[..., list[Record]], mark: str, after: Any, show: Callable[[Record], dict[str, Any]]
) -> None:
    """Print the rows that `work` reads page by page, each beginning behind the last one's `mark`."""

    async def print_all(_settings: Settings, database: Database) -> None:
        rows = await database.read(work, after, PAGE)
        while rows:
            for row in rows:
                print_json(show(row))
            rows = await database.read(work, getattr(rows[-1], mark), PAGE)

    with_database(print_all)
