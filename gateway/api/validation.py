"""What pydantic finds wrong with a request, as the error that its caller is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.terminal import cut, shown


def as_invalid(found: Sequence[Mapping[str, Any]]) -> Invalid:
    """Return the error that names the first fields and the rules they break."""
    errors = [{"field": _field(one["loc"]), "message": _rule(one)} for one in found[:MAX_ERRORS]]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:3])
    return Invalid(detail, errors=errors)


def _field(loc: Sequence[int | str]) -> str:
    """Return the path of a field; what is wrong with a body as a whole is wrong with `body`."""
    inner = loc[1:] if loc and loc[0] in {"body", "query", "path", "header"} else loc
    return shown(".".join(cut(str(part), MAX_FIELD) for part in inner), MAX_FIELD) or "body"


def _rule(error: Mapping[str, Any]) -> str:
    if error["type"] in {"dict_type", "model_attributes_type", "model_type"}:
        return "it must be a JSON object"
    return str(error["msg"]).removeprefix("Value error, ")
