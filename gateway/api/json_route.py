"""Routes with a JSON body: bounded, strict, and read only after the caller is authenticated."""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.api.body import MAX_BODY_BYTES, BoundedRequest, NotJson
from gateway.api.callers import counted_caller
from gateway.api.query import check_names
from gateway.api.state import state_of
from gateway.api.validation import as_invalid
from gateway.auth.limits.body_queue import SMALL_BODY
from gateway.auth.principals import Service, User
from gateway.errors import Invalid
from gateway.protocol.fields import first_field


class Body(BaseModel):
    """A model of a JSON body. It refuses unknown members, and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ChangeBody(Body):
    """A body with the members to change. One that is left out stays as it is.

    Its schema has no defaults: a client that sent them would change what it didn't mean to.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of the body."""
        schema = handler(core_schema)
        for member in handler.resolve_ref_schema(schema).get("properties", {}).values():
            member.pop("default", None)
        return schema


class JsonRoute(APIRoute):
    """A route whose bodies are bounded and whose JSON is strict: `APIRouter(route_class=JsonRoute)`."""

    max_body: ClassVar[int] = MAX_BODY_BYTES
    requires_token: ClassVar[bool] = True
    """Whether the route requires a token. If it also has no query parameters, it refuses any query."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler.

        It reads the body itself: FastAPI would turn every error of reading into a 400 without details.
        """
        handler = super().get_route_handler()
        wants_body = self.body_field is not None
        takes_no_query = self.requires_token and not self.dependant.query_params
        body = self.body_field.field_info.annotation if self.body_field else None

        async def handle(request: Request) -> Response:
            bounded = self.bounded(request)
            if takes_no_query and request.scope["query_string"]:
                await _refuse_query(request)
            if not wants_body:
                return await handler(bounded)
            # Authenticate and count the caller before reading the body.
            caller = await counted_caller(request)
            bounded.caller = -caller.id if isinstance(caller, User) else caller.id
            try:
                if await bounded.body():
                    await check_json(bounded)
                return await handler(bounded)
            except RequestValidationError as error:
                # Break a reference cycle through a frame of FastAPI: it would keep the body in memory.
                error.__traceback__ = None
                raise as_invalid(error.errors(), body=body) from None
            finally:
                bounded.release()

        return handle

    def bounded(self, request: Request) -> BoundedRequest:
        """Return the request with the body limit of this route."""
        bounded = BoundedRequest(request.scope, request.receive)
        bounded.max_body = self.max_body
        return bounded


async def _refuse_query(request: Request) -> None:
    """Authenticate the caller, count the request, and raise `Invalid` for any query parameter."""
    caller = await counted_caller(request)
    if isinstance(caller, Service):
        state_of(request).rate_limits.service_calls.take(caller.id)
    check_names(request, ())


class ManagementRoute(JsonRoute):
    """A route with small bodies: names, passwords and scopes."""

    max_body: ClassVar[int] = SMALL_BODY


MAX_MEMBERS = 20
"""Maximum members of a body, or of a notification in a batch. An object with more is refused unvalidated.

Each unknown member would be an error of its own, and a body has room for tens of thousands of them.
"""


async def check_json(request: Request) -> None:
    """Raise `Invalid` unless the body is JSON, has a JSON `Content-Type`, and has at most `MAX_MEMBERS`."""
    given = first_field(request.scope["headers"], b"content-type") or b""
    kind, _, subtype = given.decode("latin-1").partition(";")[0].strip().lower().partition("/")
    if kind != "application" or not f"+{subtype}".endswith("+json"):
        raise Invalid.field("body", "it must come with Content-Type: application/json")
    try:
        value = await request.json()
    except NotJson as error:
        raise Invalid.field("body", str(error)) from None
    check_members("body", value)


def check_members(field: str, value: Any) -> None:
    """Raise `Invalid` for an object with more than `MAX_MEMBERS` members."""
    if isinstance(value, dict) and len(value) > MAX_MEMBERS:
        raise Invalid.field(field, f"it has more than {MAX_MEMBERS} members: send only known ones")
