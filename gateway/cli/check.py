"""`gateway check`: validation of the settings, and a connection to every server that they name."""

from typing import TYPE_CHECKING

import typer

from gateway.cli.options import note
from gateway.protocol.terminal import shown
from gateway.settings import spelling

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.settings.trusted_issuer import TrustedIssuer

MAX_ADDRESS_CHARACTERS = 2000
"""Maximum characters of a printed address."""


def check() -> None:
    """Validate the settings, and connect to every server they name. Opens no port, changes nothing."""
    import asyncio

    from gateway.auth import issuers
    from gateway.auth.limits.rate_limits import RateLimits
    from gateway.backplane import open_backplane, reach
    from gateway.observability import audit, console_log
    from gateway.server import run
    from gateway.settings import load_settings
    from gateway.settings.redis_url import without_password
    from gateway.transport import open_files

    settings = load_settings()
    for line in spelling.misspelt():
        note(line)
    run.check_host(settings)
    audit_log = None if settings.audit_log is None else audit.check(settings.audit_log)

    async def main() -> bool:
        for line in await _database_lines(settings):
            print(line)
        if audit_log is not None:
            print(f"audit log: {settings.audit_log}: {audit_log}")
        print(open_files.report(open_files.hard_limit(), settings))
        console_log.configure("error", access_log=False)
        backplane = open_backplane(settings)
        silence = await reach(backplane)
        print(f"backplane: {settings.backplane}: {_outcome(backplane.address, silence)}")
        for line in issuers.overlaps(settings.trusted_issuers):
            print(line)
        reached = [await _reach_issuer(one) for one in settings.trusted_issuers]
        async with RateLimits(settings) as rate_limits:
            fault = await rate_limits.fault()
        if settings.rate_limit_url is not None:
            address = without_password(settings.rate_limit_url.get_secret_value())
            how = "; sign-ins count in memory" if fault else ""
            print(f"rate limits: redis: {_outcome(address, fault)}{how}")
        return silence is None and all(reached) and fault is None

    if not asyncio.run(main()):
        raise typer.Exit(1)


def _outcome(address: str, fault: str | None) -> str:
    return "reached" if fault is None else f"not reached at {shown(address, MAX_ADDRESS_CHARACTERS)}: {fault}"


async def _database_lines(settings: "Settings") -> list[str]:
    """Connect to the database, check that it is writable, and return the lines to print. Changes nothing."""
    from sqlalchemy.engine import make_url

    from gateway.database import schema, sqlite_file
    from gateway.database.database import name_of, open_database
    from gateway.database.sqlite_file import Opening

    url = make_url(settings.database_url)
    name = shown(name_of(url), MAX_ADDRESS_CHARACTERS)
    if sqlite_file.is_missing(url):
        return [f"database: {name}: does not exist yet: serve or migrate creates it"]
    async with open_database(settings, Opening.LOOK) as database:
        pending = await schema.is_pending(database, writes=True)
    state = "out of date: serve or migrate updates it" if pending else "up to date"
    return [f"database: {name}: reached, and writable", f"schema: {state}"]


async def _reach_issuer(trusted: "TrustedIssuer") -> bool:
    """Fetch the keys of an issuer, print the result, and return whether it has usable keys."""
    from gateway.auth import issuer_keys

    try:
        number = await issuer_keys.reach(trusted)
    except issuer_keys.FetchError as error:
        print(f"issuer: {trusted.issuer}: cannot fetch the keys at {trusted.shown_url}: {shown(str(error))}")
        return False
    print(f"issuer: {trusted.issuer}: usable keys at {trusted.shown_url}: {number}")
    return number > 0
