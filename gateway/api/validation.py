"""Conversion of pydantic's validation errors to `Invalid`, with the gateway's own wording."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut, shown
from gateway.settings.wording import member_rule

_PARTS = frozenset({"body", "query", "path", "header"})
"""The parts of a request that may come first in the place of an error."""


def as_invalid(found: Sequence[Mapping[str, Any]], *, body: Any = None, line: int | None = None) -> Invalid:
    """Return the error that names the first invalid fields and the rules they break.

    `body` is the type of the body, if it has one. `line` is the line of the item in a body with one item per
    line.
    """
    _drop_tracebacks(found)
    errors, places = [], []
    for one in found[:MAX_ERRORS]:
        message = member_rule(one, _members_at(body, one["loc"][:-1]))
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
    inner = loc[1:] if loc and loc[0] in _PARTS else loc
    return shown(".".join(cut(str(part), MAX_FIELD) for part in inner), MAX_FIELD) or "body"


def _members_at(body: Any, path: Sequence[int | str]) -> Collection[str]:
    """Return the names of the members of the object at this path in a body of this type."""
    models = list(_models(body))
    for part in path[1:] if path and path[0] in _PARTS else path:
        inner = [
            found
            for model in models
            for name, field in model.model_fields.items()
            if part == (field.alias or name)
            for found in _models(field.annotation)
        ]
        # An index or the key of a mapping names no member.
        models = inner or models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type, such as the one in `list[Action] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
