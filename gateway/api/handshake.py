"""The handshake of sockets and streams: find the user and the resume point before accepting either."""

from functools import partial
from typing import NamedTuple

import structlog
from starlette.requests import HTTPConnection

from gateway.api.audit import record_close
from gateway.api.callers import client_address, socket_user
from gateway.api.query import parameter
from gateway.api.state import Gateway, state_of
from gateway.auth.principals import User
from gateway.database import turns
from gateway.delivery.client_connection import ClientConnection, Socket
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Draining, GatewayError, Invalid
from gateway.protocol.close_codes import Close
from gateway.protocol.items import MAX_SEQ

logger = structlog.get_logger()

MAX_EPOCH_CHARACTERS = 64
"""Maximum characters of the `epoch` of a resume point."""

RETRY_AFTER_SECONDS = 5
"""`Retry-After` of a draining process, in seconds: by then, another process may serve."""


class Handshake(NamedTuple):
    """An accepted handshake: the user, and the resume point."""

    user: User
    resume_point: ResumePoint


async def begin_handshake(connection: HTTPConnection) -> Handshake:
    """Authorise a client, and read its resume point.

    Raises `Draining` before anything else, then what `socket_user` raises, `RateLimited` and `Invalid`.
    """
    state = state_of(connection)
    if state.drain.began:
        raise Draining(retry_after=RETRY_AFTER_SECONDS)
    user = await socket_user(connection)
    turns.caller.set((User, user.id))
    state.throttle.socket_commands.take(user.id)
    return Handshake(user, _resume_point(parameter(connection, "since"), parameter(connection, "epoch")))


def _resume_point(since: str | None, epoch: str | None) -> ResumePoint:
    if epoch is not None and len(epoch) > MAX_EPOCH_CHARACTERS:
        raise Invalid.field("epoch", f"it must have at most {MAX_EPOCH_CHARACTERS} characters")
    if since is None:
        return ResumePoint()
    if since == "latest":
        return ResumePoint(latest=True)
    if not _is_number(since):
        raise Invalid.field("since", "it must be a number, 0 or more, or 'latest'")
    return ResumePoint(_number(since), epoch)


def resume_after(event_id: str) -> ResumePoint:
    """Return the resume point after the event with this id, `<epoch>.<seq>`.

    A browser sends the id by itself, and could not handle an error. So a malformed id counts as a position in
    another log, and the client gets a `reset`.
    """
    epoch, _, seq = event_id.rpartition(".")
    return ResumePoint(_number(seq), epoch, applied=True) if _is_number(seq) else ResumePoint(0, "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(digits: str) -> int:
    """Return the `seq`, at most `MAX_SEQ`: a longer number is also beyond the end of every log."""
    return int(digits) if len(digits) < len(str(MAX_SEQ)) else MAX_SEQ


def connect(state: Gateway, socket: Socket, handshake: Handshake) -> ClientConnection:
    """Create the loop that serves the client."""
    return ClientConnection(
        socket,
        *handshake,
        settings=state.settings,
        database=state.database,
        recent=state.recent,
        hub=state.hub,
        writer=state.writer,
        tokens=state.tokens,
        metrics=state.metrics,
        commands=state.throttle.socket_commands,
    )


def on_close_of(connection: HTTPConnection, route: str, user: User) -> partial[None]:
    """Return the callback for when the gateway closes the client. It takes the close code and the reason."""
    return partial(record_close, route, client_address(connection), user)


async def serve(connection: ClientConnection, socket: Socket) -> None:
    """Run the loop of a client, and close the client if the loop fails."""
    try:
        await connection.run()
    except GatewayError as error:
        socket.close_at_once(error.close_code, error.code)
    except Exception:
        logger.exception("a client's loop failed")
        socket.close_at_once(Close.INTERNAL_ERROR, "internal_error")
