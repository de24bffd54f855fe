"""Health checks for operators and load balancers: liveness and readiness. They need no token."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway import __version__
from gateway.api.state import State

router = APIRouter(tags=["operation"])

Status = Literal["ready", "degraded", "unavailable"]

ADVISORY_CHECKS = {"backplane"}
"""Checks whose failure is reported as `degraded`, and does not make the process unready.

Without the backplane nothing is lost, and an outage of Redis must not take every gateway out of its load
balancer at once.
"""

RETRY_AFTER_SECONDS = 1
"""`Retry-After` of an unready process, in seconds: by then, the checks run again."""


class Health(BaseModel):
    """The process responds."""

    status: Literal["ok"] = "ok"
    version: str = __version__


class ReadinessAnswer(BaseModel):
    """Whether the process can serve clients, and the result of each check."""

    status: Status = Field(
        description="A `degraded` process serves everything, but commits of other processes arrive late."
    )
    checks: dict[str, str] = Field(description="Each is `ok` or `failed`; `draining` is `no` or `yes`.")


@router.get("/healthz", summary="Check that the process responds")
async def healthz(response: Response) -> Health:
    """Return 200 if the event loop runs; nothing else is checked. Restart a process that does not respond."""
    response.headers["Cache-Control"] = "no-store"
    return Health()


@router.get(
    "/readyz",
    responses={
        503: {"model": ReadinessAnswer, "description": "The process cannot serve clients, or is stopping."}
    },
    summary="Check that the process can serve clients",
)
async def readyz(state: State, response: Response) -> ReadinessAnswer:
    """Return whether clients may be sent here. The checks run at most once a second for all callers."""
    response.headers["Cache-Control"] = "no-store"
    draining = state.drain.began
    # A draining process answers at once, without waiting for the database.
    report = {} if draining else await state.readiness.report()
    failed = {name for name, holds in report.items() if not holds}
    ready = not draining and failed <= ADVISORY_CHECKS
    if not ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    status: Status = "unavailable" if not ready else "degraded" if failed else "ready"
    checks = {name: "ok" if holds else "failed" for name, holds in report.items()}
    checks["draining"] = "yes" if draining else "no"
    return ReadinessAnswer(status=status, checks=checks)
