"""The timetable: what a process does by the clock, beside the clients it serves."""

from collections.abc import Iterator

from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.database.database import LockingDatabase
from gateway.jobs.background import Work, every
from gateway.jobs.erasures import finish_erasures
from gateway.jobs.memory import Memory
from gateway.jobs.retention import Retention
from gateway.observability import audit
from gateway.observability.sampling import WINDOW
from gateway.settings import Settings
from gateway.store.writer import Writer

LOOK, REFRESH = 0.5, 5
"""How often the sessions that others have ended, and their new signing keys, are looked for, in seconds."""


def timetable(
    settings: Settings,
    database: LockingDatabase,
    writer: Writer,
    tokens: Tokens,
    revocation: Revocation,
) -> Iterator[Work]:
    """Yield the jobs of a process. They go on until they are cancelled, but for one that is done."""
    yield "ended sessions", every(LOOK, revocation.find)
    yield "signing keys", every(REFRESH, tokens.load_keys)
    yield "issuers", tokens.issuers.run()
    yield "erasures", finish_erasures(database)
    yield "retention", Retention(database, writer, keep=settings.retention_seconds).run()
    yield "refusals", every(WINDOW, _tell_rest)
    yield "memory", Memory().run()


async def _tell_rest() -> None:
    """Log how many refusals of the minutes that are over have no line of their own."""
    audit.tell_rest()
