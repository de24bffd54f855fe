"""Error details for unknown paths and methods, with the path that the client probably meant."""

from collections.abc import Collection, Iterator

from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute

from gateway.settings.wording import nearest

MAX_PATH_CHARACTERS = 200
"""Maximum characters of a path to compare with the paths of the API."""


def explain(connection: HTTPConnection) -> str:
    """Return the error detail for an unknown path, with the route that was probably meant."""
    meant = _meant(connection)
    if meant is None:
        return "There is no such path. Those of the API begin with /v1."
    return f"There is no such path: did you mean {meant}?"


def _with_odd_id(asked: str, templates: Collection[str]) -> str | None:
    """Return the path of a user that was probably meant, if its id is empty or has unencoded slashes."""
    for template in sorted(templates):
        start, parameter, end = template.partition("{sub}")
        is_below = asked.startswith(start) and asked.endswith(end) and len(asked) >= len(start + end)
        if not parameter or not is_below:
            continue
        sub = asked[len(start) : len(asked) - len(end)]
        if not sub and end:
            return f"{template}, with an id that is not empty"
        if "/" in sub.strip("/"):
            return f"{template}, with a slash in the id as %2F"
    return None


def allowed(connection: HTTPConnection) -> list[str]:
    """Return all methods of the path, which several routes may share (RFC 9110, section 10.2.1)."""
    path = connection.scope["path"]
    routes = [route for route in connection.app.routes if isinstance(route, Route)]
    methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _meant(connection: HTTPConnection) -> str | None:
    path = str(connection.scope["path"])
    if len(path) > MAX_PATH_CHARACTERS:
        return None
    prefix = str(connection.scope.get("root_path", ""))
    routes = [
        route
        for route in connection.app.routes
        if isinstance(route, Route | WebSocketRoute) and route.path.startswith("/v1/")
    ]
    asked = path.removeprefix(prefix)
    plain = {route.path for route in routes if "{" not in route.path}
    templates = {route.path for route in routes} - plain
    # The path of a user alone matches anything below it, so it comes last.
    odd = _with_odd_id(asked, [one for one in templates if not one.endswith("}")])
    if odd is not None:
        return prefix + odd
    for candidate in _candidates(asked):
        for route in routes:
            if route.path_regex.match(candidate):
                return prefix + route.path
    near = (
        nearest(asked, plain, _MIN_SIMILARITY)
        or _nearest_template(asked, templates)
        or _with_odd_id(asked, templates)
    )
    return None if near is None else prefix + near


_MIN_SIMILARITY = 0.85
"""Minimum similarity, from 0 to 1, of a path and the one it suggests."""


def _nearest_template(asked: str, templates: Collection[str]) -> str | None:
    """Return the path template that was probably meant. Its parameters match any segment."""
    given = asked.split("/")
    for template in sorted(templates):
        parts = template.split("/")
        if len(parts) == len(given):
            shape = [part if part.startswith("{") else one for part, one in zip(parts, given, strict=True)]
            if nearest("/".join(shape), [template], _MIN_SIMILARITY):
                return template
    return None


def explain_method(connection: HTTPConnection, methods: str) -> str:
    """Return the error detail for a method that the path does not allow, with the path that may be meant.

    The path may match a template by accident: `POST /v1/notifications/batchs` gets this error, not a 404,
    because the path could be that of a notification, which allows GET.
    """
    path, prefix = str(connection.scope["path"]), str(connection.scope.get("root_path", ""))
    method = connection.scope.get("method")
    plain = {
        route.path: route.methods or set()
        for route in connection.app.routes
        if isinstance(route, Route) and route.path.startswith("/v1/") and "{" not in route.path
    }
    taking = [one for one, takes in plain.items() if method in takes]
    asked = path.removeprefix(prefix)
    near = None if asked in plain else nearest(asked, taking, _MIN_SIMILARITY)
    hint = "" if near is None else f" Did you mean {prefix}{near}?"
    return f"This path takes another method: {methods}.{hint}"


def _candidates(path: str) -> Iterator[str]:
    """Yield corrected paths: without empty segments, `/api` or a repeated version, then with a version."""
    segments = [one for one in path.split("/") if one]
    if segments[:1] == ["api"]:
        del segments[0]
    if segments[:2] == ["v1", "v1"]:
        del segments[0]
    plain = "".join(f"/{one}" for one in segments)
    yield plain
    yield f"/v1{plain}"
