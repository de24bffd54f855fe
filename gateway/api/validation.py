"""Conversion of pydantic's validation errors to `Invalid`, with the gateway's own wording."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut, shown
from gateway.settings.wording import member_rule


def as_invalid(
    found: Sequence[Mapping[str, Any]], *, members: Collection[str] = (), line: int | None = None
) -> Invalid:
    """Return the error that names the first invalid fields and the rules they break.

    `members` are the members that the body may have. `line` is the line of the item in a body with one item
    per line.
    """
    _drop_tracebacks(found)
    errors, places = [], []
    for one in found[:MAX_ERRORS]:
        message = member_rule(one, members)
        field = _path(one["loc"])
        if line is None:
            places.append(f"{field}: {message}")
        else:
            within = _path(one["loc"][1:])
            places.append(f"line {line}{'' if within == 'body' else f', {within}'}: {message}")
            message = f"line {line}: {message}"
        errors.append({"field": field, "message": message})
    return Invalid("; ".join(places[:3]), errors=errors)


def _drop_tracebacks(found: Sequence[Mapping[str, Any]]) -> None:
    """Drop the tracebacks of the errors that the gateway's own rules raised.

    They hold the frames of pydantic's callers, which hold these errors: a reference cycle, which would keep
    the whole body in memory until the garbage collector runs.
    """
    for one in found:
        error = one.get("ctx", {}).get("error")
        if isinstance(error, Exception):
            error.__traceback__ = None


def _path(loc: Sequence[int | str]) -> str:
    """Return the path of a field, or `body` for the body as a whole."""
    inner = loc[1:] if loc and loc[0] in {"body", "query", "path", "header"} else loc
    return shown(".".join(cut(str(part), MAX_FIELD) for part in inner), MAX_FIELD) or "body"
