"""The route of the event stream. It completes the handshake before it sends the response's header fields."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from gateway.api.callers import UserScheme, client_address
from gateway.api.handshake import (
    MAX_EPOCH_CHARACTERS,
    Handshake,
    begin_handshake,
    connect,
    resume_after,
)
from gateway.api.problems import problems
from gateway.api.state import state_of
from gateway.transport.http import STREAM_PATH, begin_stream

router = APIRouter(tags=["inbox"])

_HEAD = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # A buffering proxy would hold back the events.
    (b"x-accel-buffering", b"no"),
)


class _StreamHandshake(UserScheme):
    """Dependency: the handshake of a stream, by a user with the scope `inbox`.

    The id of the last event takes precedence over the query: a browser that reconnects sends it with the
    original URL. Raises what `begin_handshake` raises.
    """

    async def __call__(self, connection: HTTPConnection) -> Handshake:
        handshake = await begin_handshake(connection)
        if last := connection.headers.get("last-event-id"):
            return handshake._replace(resume_point=resume_after(last))
        return handshake


class _EventStream(Response):
    """A response that sends the header fields, then hands the connection over to the one that serves it."""

    def __init__(self, request: Request, handshake: Handshake) -> None:
        super().__init__()
        self.raw_headers = list(_HEAD)
        self._request = request
        self._handshake = handshake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        stream = await begin_stream(scope, send, self.raw_headers)
        if stream is not None:
            state = state_of(self._request)
            stream.hand_over(
                connect(state, stream, self._handshake, STREAM_PATH),
                client_address(self._request),
                patience=state.settings.ping_interval + state.settings.ping_timeout,
                count=state.metrics.count_streams,
            )


def _parameter(name: str, description: str, where: str = "query", **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": where, "description": description, "schema": {"type": "string", **schema}}


_PARAMETERS = [
    _parameter("since", "The last `seq` that was applied, or `latest`.", pattern="^(latest|[0-9]+)$"),
    _parameter("epoch", "The epoch that `since` is of.", maxLength=MAX_EPOCH_CHARACTERS),
    _parameter("ticket", "A ticket, where no header can be set."),
    _parameter("token", "An access token, where `GATEWAY_WS_QUERY_TOKEN` allows it."),
    _parameter("Last-Event-ID", "The id of the last event that was applied: goes before `since`.", "header"),
]
"""The parameters, for the OpenAPI document. The code that reads them is shared with sockets (`handshake`)."""


@router.get(
    STREAM_PATH,
    response_class=Response,
    responses=problems(429)
    | {200: {"description": "Events, until either side ends it.", "content": {"text/event-stream": {}}}},
    openapi_extra={"parameters": _PARAMETERS},
    summary="The messages of the socket as server-sent events",
)
async def open_stream(
    request: Request, handshake: Annotated[Handshake, Depends(_StreamHandshake())]
) -> _EventStream:
    """For clients that cannot hold a WebSocket. Its messages are described in docs/protocol.md.

    No database connection is held while it is open.
    """
    return _EventStream(request, handshake)
