"""Access to the database for commands: open it, migrate it, name it on stderr, and audit the changes."""

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
from gateway.database.sqlite_file import MissingDatabaseError, Opening
from gateway.errors import GatewayError
from gateway.observability import audit
from gateway.observability.audit import Event
from gateway.protocol.terminal import escape
from gateway.settings import Settings, load_settings

T = TypeVar("T")

PAGE_ROWS = 500
"""Rows that a listing reads at once."""


def make_file() -> None:
    """Create the database file that the settings name, if the database is SQLite and the file is missing."""
    sqlite_file.prepare(make_url(load_settings().database_url), Opening.CREATE)


def with_database(use: Callable[[Settings, Database], Awaitable[T]], *, offers_create: bool = False) -> T:
    """Run `use` on the database, with an up-to-date schema, and print the name of the database to stderr.

    Never creates a missing SQLite file (`make_file` does): in a wrong folder, or without its `.env`, a
    command would create a new database, with keys in it that no gateway knows. `offers_create` says whether
    the command has the option `--create`.
    """

    async def main() -> T:
        settings = load_settings()
        url = make_url(settings.database_url)
        name = name_of(url)
        # Check the file before the audit log opens: a command that cannot run must not touch anything.
        try:
            sqlite_file.prepare(url, Opening.EXISTING)
        except MissingDatabaseError as error:
            raise (MissingDatabaseError(f"{error} or --create") if offers_create else error) from None
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


def administer(act: Callable[[Administration], Awaitable[T]], *, offers_create: bool = False) -> T:
    """Run `act` on the database as the operator, and return its result."""

    def use(_: Settings, database: Database) -> Awaitable[T]:
        return act(Administration(database, audit.operator(), "cli"))

    return with_database(use, offers_create=offers_create)


def record(event: Event, subject: str | None, **details: audit.Value) -> None:
    """Record an action of the operator in the audit log. Call it within `with_database`."""
    audit.record(event, actor=audit.operator(), subject=subject, source="cli", **details)


def record_ended(sub: str, ended: list[str], why: str) -> None:
    """Record in the audit log which sessions of a user have ended, if any."""
    audit.record_ended(ended, why, actor=audit.operator(), subject=audit.user(sub), source="cli")


def print_pages(
    work: Callable[..., list[Record]], mark: str, after: Any, show: Callable[[Record], dict[str, Any]]
) -> None:
    """Print all rows, which `work` reads in pages: each page begins after the last row's column `mark`."""

    async def print_all(_settings: Settings, database: Database) -> None:
        rows = await database.read(work, after, PAGE_ROWS)
        while rows:
            for row in rows:
                print_json(show(row))
            rows = await database.read(work, getattr(rows[-1], mark), PAGE_ROWS)

    with_database(print_all)
