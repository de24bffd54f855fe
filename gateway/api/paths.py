"""The paths of the API, for whoever asked for one that does not exist."""

from collections.abc import Collection, Iterator

from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute

from gateway.settings.wording import nearest

LONGEST_PATH = 200
"""Longest path, in characters, that is compared with those of the API."""


def explain(connection: HTTPConnection) -> str:
    """Return what to say of a path that does not exist, with the route that is probably meant."""
    meant = _meant(connection)
    if meant is None:
        return "There is no such path. Those of the API begin with /v1."
    return f"There is no such path: did you mean {meant}?"


def allowed(connection: HTTPConnection) -> list[str]:
    """Return every method of the path: several routes may share it (RFC 9110, section 10.2.1)."""
    path = connection.scope["path"]
    routes = [route for route in connection.app.routes if isinstance(route, Route)]
    methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _meant(connection: HTTPConnection) -> str | None:
    path = str(connection.scope["path"])
    if len(path) > LONGEST_PATH:
        return None
    prefix = str(connection.scope.get("root_path", ""))
    routes = [
        route
        for route in connection.app.routes
        if isinstance(route, Route | WebSocketRoute) and route.path.startswith("/v1/")
    ]
    for candidate in _candidates(path.removeprefix(prefix)):
        for route in routes:
            if route.path_regex.match(candidate):
                return prefix + route.path
    asked = path.removeprefix(prefix)
    plain = {route.path for route in routes if "{" not in route.path}
    near = nearest(asked, plain, _LIKENESS) or _nearest_template(asked, {one.path for one in routes} - plain)
    return None if near is None else prefix + near


_LIKENESS = 0.85
"""How alike two paths must be for one to be meant by the other."""


def _nearest_template(asked: str, templates: Collection[str]) -> str | None:
    """Return the template that a path is probably meant to fill, whatever stands for its parameters."""
    given = asked.split("/")
    for template in sorted(templates):
        parts = template.split("/")
        if len(parts) == len(given):
            shape = [part if part.startswith("{") else one for part, one in zip(parts, given, strict=True)]
            if nearest("/".join(shape), [template], _LIKENESS):
                return template
    return None


def explain_method(connection: HTTPConnection, methods: str) -> str:
    """Return what to say of a method that the path does not take, with the path that may be meant.

    `/v1/notifications/batchs` is a path that takes GET, for it could be that of a notification.
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
    near = None if asked in plain else nearest(asked, taking, _LIKENESS)
    hint = "" if near is None else f" Did you mean {prefix}{near}?"
    return f"This path takes another method: {methods}.{hint}"


def _candidates(path: str) -> Iterator[str]:
    """Yield what the path may be meant to be: without an empty segment, and with the version."""
    segments = [one for one in path.split("/") if one]
    if segments[:1] == ["api"]:
        del segments[0]
    if segments[:2] == ["v1", "v1"]:
        del segments[0]
    plain = "".join(f"/{one}" for one in segments)
    yield plain
    yield f"/v1{plain}"
