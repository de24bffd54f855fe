"""Whether this process can do its work: what `/readyz` asks."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

logger = structlog.get_logger()

MAX_AGE = 1.0
"""How long an answer is good for, in seconds."""

TIMEOUT = 2.0
"""How long a check may take, in seconds."""

Check = Callable[[], bool | Awaitable[bool]]


class Readiness:
    """Runs its checks at most once a second, however many ask: nobody loads the database by asking.

    A check that raises, or takes too long, does not hold. What is `awaited` does not hold at first: the log
    says nothing of it before it has held once. `clock` returns seconds.
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
        """Return for each check whether it holds."""
        # Who asks meanwhile waits here, and is given the same answer.
        async with self._asking:
            if self._clock() >= self._stale_at:
                outcomes = await asyncio.gather(*(_holds(check) for check in self._checks.values()))
                self._note(dict(zip(self._checks, outcomes, strict=True)))
                self._stale_at = self._clock() + MAX_AGE
        return self._report

    def _note(self, report: dict[str, bool]) -> None:
        """Keep the outcome, and log it where something is lost, or back."""
        self._held |= {name for name, holds in report.items() if holds}
        missed = [name for name, holds in report.items() if not holds and name in self._held]
        if missed and missed != self._missed:
            logger.warning("not ready", failed=missed)
        elif self._missed and not missed:
            logger.info("ready again")
        self._report, self._missed = report, missed


async def _holds(check: Check) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT):
            outcome = check()
            return await outcome if inspect.isawaitable(outcome) else outcome
    except Exception:  # noqa: BLE001 - whatever is wrong, it does not hold
        return False
