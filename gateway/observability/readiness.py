"""Readiness: whether this process can do its work, as reported by `/readyz`."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

logger = structlog.get_logger()

MAX_AGE_SECONDS = 1.0
"""How long a report is cached."""

TIMEOUT_SECONDS = 2.0
"""How long a check may take."""

Check = Callable[[], bool | Awaitable[bool]]


class Readiness:
    """Runs its checks at most once a second, so that frequent requests put no load on the database.

    A check that raises, or takes too long, fails. `awaited` checks are expected to fail at first, and are
    logged only after they have succeeded once. `clock` returns seconds.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        awaited: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._held = checks.keys() - set(awaited)
        self._missed: list[str] = []
        self._clock = clock
        self._asking = asyncio.Lock()
        self._report = dict.fromkeys(checks, True)
        self._stale_at = float("-inf")

    async def report(self) -> dict[str, bool]:
        """Return for each check whether it succeeds."""
        # Concurrent requests wait here and get the same report.
        async with self._asking:
            if self._clock() >= self._stale_at:
                outcomes = await asyncio.gather(*(_holds(check) for check in self._checks.values()))
                self._note(dict(zip(self._checks, outcomes, strict=True)))
                self._stale_at = self._clock() + MAX_AGE_SECONDS
        return self._report

    def _note(self, report: dict[str, bool]) -> None:
        """Cache the report, and log when a check begins to fail and when all succeed again."""
        self._held |= {name for name, holds in report.items() if holds}
        missed = [name for name, holds in report.items() if not holds and name in self._held]
        if missed and missed != self._missed:
            logger.warning("not ready", failed=missed)
        elif self._missed and not missed:
            logger.info("ready again")
        self._report, self._missed = report, missed


async def _holds(check: Check) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            outcome = check()
            return await outcome if inspect.isawaitable(outcome) else outcome
    except Exception:  # noqa: BLE001 - any error fails the check
        return False
