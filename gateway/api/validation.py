"""What pydantic finds wrong with a request, as the error that its caller is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.terminal import cut, shown


def as_invalid(found: Sequence[Mapping[str, Any]]) -> Invalid:
    """Return the error that names the first fields and the rules they break."""
    _let_go(found)
    errors = [{"field": _field(one["loc"]), "message": _rule(one)} for one in found[:MAX_ERRORS]]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:3])
    return Invalid(detail, errors=errors)


def _let_go(found: Sequence[Mapping[str, Any]]) -> None:
    """Part the errors of our own rules from where they were raised.

    The frames of pydantic's callers hold these errors, and would be held by them: with the whole body, until
    the collector of cycles runs.
    """
    for one in found:
        error = one.get("ctx", {}).get("error")
        if isinstance(error, Exception):
            error.__traceback__ = None


def _field(loc: Sequence[int | str]) -> str:
    """Return the path of a field; what is wrong with a body as a whole is wrong with `body`."""
    inner = loc[1:] if loc and loc[0] in {"body", "query", "path", "header"} else loc
    return shown(".".join(cut(str(part), MAX_FIELD) for part in inner), MAX_FIELD) or "body"


def _rule(error: Mapping[str, Any]) -> str:
    if error["type"] in {"dict_type", "model_attributes_type", "model_type"}:
        return "it must be a JSON object"
    return str(error["msg"]).removeprefix("Value error, ")
