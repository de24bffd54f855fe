"""The OpenAPI description of the problems that routes return."""

from typing import Any

from pydantic import BaseModel, Field

from gateway.protocol.problems import MEDIA_TYPE


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word for programs.")
    errors: list[dict[str, str]] | None = Field(None, description="What is wrong with which field.")


_WHY = {
    401: "No token, or one that does not hold.",
    403: "The token does not allow this.",
    404: "There is no such thing.",
    409: "It conflicts with what is there.",
    410: "The log cannot be resumed from there.",
    412: "The condition in `If-Match` is not met.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "The request is not valid.",
    429: "The caller does more than one caller may.",
    503: "The gateway cannot do this now.",
}


BODY = (413, 415)
"""Further statuses of a route with a body."""


_CONTENT = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}

ANY: dict[int | str, dict[str, Any]] = {
    "default": {"description": "The request is refused.", "content": _CONTENT}
}
"""The errors of a route without a token and a body. Without this, FastAPI would describe a 422 of its own."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI of the errors with these statuses, and of 401, 403, 422, 429 and 503."""
    return {
        status: {"description": _WHY[status], "content": _CONTENT}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }
