"""The timetable: the periodic jobs of a process."""

from collections.abc import Iterator

from gateway.auth.revocation import Revocation
from gateway.auth.tokens import Tokens
from gateway.database.database import LockingDatabase
from gateway.jobs.background import Work, every
from gateway.jobs.erasures import finish_erasures
from gateway.jobs.memory import CHECK_SECONDS, Memory
from gateway.jobs.retention import Retention
from gateway.jobs.schedule import Schedule
from gateway.observability import audit
from gateway.observability.sampling import WINDOW_SECONDS
from gateway.settings import Settings
from gateway.store.writer import Writer

SESSION_CHECK_SECONDS, KEY_REFRESH_SECONDS = 0.5, 5
"""How often a process looks for sessions that others have ended, and for their new signing keys."""


def timetable(
    settings: Settings,
    database: LockingDatabase,
    writer: Writer,
    tokens: Tokens,
    revocation: Revocation,
) -> Iterator[Work]:
    """Yield the jobs of a process. All run until cancelled, except the erasures, which finish."""
    yield "ended sessions", every(SESSION_CHECK_SECONDS, revocation.find)
    yield "signing keys", every(KEY_REFRESH_SECONDS, tokens.load_keys)
    yield "issuers", tokens.issuers.run()
    yield "erasures", finish_erasures(database)
    yield "schedule", Schedule(database, writer).run()
    yield "retention", Retention(database, writer, keep=settings.retention_seconds).run()
    yield "refusals", every(WINDOW_SECONDS, _report_rest)
    yield "page caches", every(CHECK_SECONDS, database.free_caches)
    yield "memory", Memory().run()


async def _report_rest() -> None:
    """Log the number of refusals in past minutes that have no line of their own."""
    audit.tell_rest()
