"""Routes with a JSON body: bounded, strict, and read only for a caller who is known."""

from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar, get_args

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from gateway.api.body import MAX_BODY, BoundedRequest, NotJson
from gateway.api.callers import counted_caller
from gateway.api.query import check_names
from gateway.api.state import state_of
from gateway.api.validation import as_invalid
from gateway.auth.limits.intake import SMALL_BODY
from gateway.auth.principals import Service, User
from gateway.errors import Invalid


class Body(BaseModel):
    """A JSON body: unknown members are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def members_of(annotation: Any) -> Collection[str]:
    """Return the members of a body, which may be one of a union with None."""
    bodies = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return tuple(name for one in bodies if issubclass(one, Body) for name in one.model_fields)


class JsonRoute(APIRoute):
    """A route whose bodies are bounded and whose JSON is strict: `APIRouter(route_class=JsonRoute)`."""

    max_body: ClassVar[int] = MAX_BODY
    knows_caller: ClassVar[bool] = True
    """Whether its callers show a token. Their query is then refused where the route takes none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which is given such a request.

        The body is read before, for FastAPI would turn every error of that into a bare 400.
        """
        handler = super().get_route_handler()
        wants_body = self.body_field is not None
        takes_no_query = self.knows_caller and not self.dependant.query_params
        members = members_of(self.body_field.field_info.annotation) if self.body_field else ()

        async def handle(request: Request) -> Response:
            bounded = self.bounded(request)
            if takes_no_query and request.scope["query_string"]:
                await _refuse_query(request)
            if not wants_body:
                return await handler(bounded)
            # Whoever is not known, or does too much, has nothing read: bodies come with tokens here.
            caller = await counted_caller(request)
            bounded.caller = -caller.id if isinstance(caller, User) else caller.id
            try:
                if await bounded.body():
                    await check_json(bounded)
                return await handler(bounded)
            except RequestValidationError as error:
                # A frame of FastAPI keeps the error that would keep it, and the body, in turn.
                error.__traceback__ = None
                raise as_invalid(error.errors(), members=members) from None
            finally:
                bounded.release()

        return handle

    def bounded(self, request: Request) -> BoundedRequest:
        """Return the request with the bounds of this route."""
        bounded = BoundedRequest(request.scope, request.receive)
        bounded.max_body = self.max_body
        return bounded


async def _refuse_query(request: Request) -> None:
    """Raise `Invalid` for any parameter, to a caller who is known. It counts as a call."""
    caller = await counted_caller(request)
    if isinstance(caller, Service):
        state_of(request).throttle.service_calls.take(caller.id)
    check_names(request, ())


class ManagementRoute(JsonRoute):
    """A route whose bodies are names, passwords and scopes."""

    max_body: ClassVar[int] = SMALL_BODY


MAX_MEMBERS = 20
"""More members than this no body has, and no notification of a batch; what has more is not looked at.

Each unknown member is an error of its own, and a body has room for tens of thousands of them.
"""


async def check_json(request: Request) -> None:
    """Raise `Invalid` unless the body is JSON, says so, and has no more members than a body may have."""
    kind, _, subtype = (
        request.headers.get("content-type", "").partition(";")[0].strip().lower().partition("/")
    )
    if kind != "application" or not f"+{subtype}".endswith("+json"):
        raise Invalid.field("body", "it must come with Content-Type: application/json")
    try:
        value = await request.json()
    except NotJson as error:
        raise Invalid.field("body", str(error)) from None
    check_members("body", value)


def check_members(field: str, value: Any) -> None:
    """Raise `Invalid` for an object with more members than any body has: each would be an error."""
    if isinstance(value, dict) and len(value) > MAX_MEMBERS:
        raise Invalid.field(field, f"it has more than {MAX_MEMBERS} members: send only known ones")
