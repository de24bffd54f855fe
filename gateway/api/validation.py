"""The errors that pydantic finds in a request, as the error that its caller gets."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut, shown
from gateway.settings.wording import rule, unknown_member


def as_invalid(
    found: Sequence[Mapping[str, Any]], *, members: Collection[str] = (), line: int | None = None
) -> Invalid:
    """Return the error that names the first fields and the rules they break.

    `members` are those that the body may have. `line` is the number of the item's line in a body of lines.
    """
    _let_go(found)
    errors, places = [], []
    for one in found[:MAX_ERRORS]:
        message = _rule(one, members)
        field = _path(one["loc"])
        if line is None:
            places.append(f"{field}: {message}")
        else:
            within = _path(one["loc"][1:])
            places.append(f"line {line}{'' if within == 'body' else f', {within}'}: {message}")
            message = f"line {line}: {message}"
        errors.append({"field": field, "message": message})
    return Invalid("; ".join(places[:3]), errors=errors)


def _let_go(found: Sequence[Mapping[str, Any]]) -> None:
    """Part the errors of our own rules from where they were raised.

    The frames of pydantic's callers hold these errors, and would be held by them: with the whole body, until
    the collector of cycles runs.
    """
    for one in found:
        error = one.get("ctx", {}).get("error")
        if isinstance(error, Exception):
            error.__traceback__ = None


def _path(loc: Sequence[int | str]) -> str:
    """Return the path of a field; an error of a body as a whole is one of `body`."""
    inner = loc[1:] if loc and loc[0] in {"body", "query", "path", "header"} else loc
    return shown(".".join(cut(str(part), MAX_FIELD) for part in inner), MAX_FIELD) or "body"


def _rule(error: Mapping[str, Any], members: Collection[str]) -> str:
    if error["type"] == "extra_forbidden":
        return unknown_member(str(error["loc"][-1]), members)
    return rule(error)
