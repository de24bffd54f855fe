"""Query parameters: the lookup of one parameter, and a check that refuses unknown and repeated ones.

The check runs after authentication only. Before it, the query is searched for single parameters and never
decoded as a whole: a query of 10 KiB takes milliseconds to decode, and microseconds to search.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Annotated, cast
from urllib.parse import unquote_plus

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from gateway.errors import MAX_ERRORS, MAX_FIELD, Invalid
from gateway.protocol.terminal import cut
from gateway.settings.wording import unknown_member


def parameter(connection: HTTPConnection, name: str) -> str | None:
    """Return a parameter of the query, or None if it is missing. If it is repeated, the last one counts.

    The name must be unescaped and followed by `=`: `%74icket=x` and a bare `ticket` are not found.
    """
    query = b"&" + connection.scope["query_string"]
    start = query.rfind(b"&%b=" % name.encode())
    if start < 0:
        return None
    start += len(name) + 2
    end = query.find(b"&", start)
    value = query[start:] if end < 0 else query[start:end]
    return unquote_plus(value.decode("latin-1"))


async def _check_query(request: Request) -> None:
    route = cast("APIRoute", request.scope["route"])
    check_names(request, [field.alias for field in route.dependant.query_params])


def check_names(request: Request, known: Collection[str]) -> None:
    """Raise `Invalid` for parameters that are not in `known`, or that come more than once.

    If a mistyped filter were ignored, the caller would take the unfiltered result for a filtered one.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    errors = [
        {"field": name or "query", "message": message}
        for name, message in islice(_broken(given, known), MAX_ERRORS)
    ]
    if errors:
        places = (f"{cut(error['field'], MAX_FIELD)}: {error['message']}" for error in errors[:3])
        raise Invalid("; ".join(places), errors=errors)


def _broken(given: Counter[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    for name, number in given.items():
        if name not in known:
            yield name, unknown_member(name, known, kind="parameter")
        elif number > 1:
            yield name, "it comes more than once: give it once"


KnownQuery = Annotated[None, Depends(_check_query)]
"""Dependency that refuses unknown query parameters. List it after the one for the caller."""
