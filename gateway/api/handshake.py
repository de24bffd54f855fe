"""Who opens a socket or a stream, and where it starts: decided before either is accepted."""

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
from gateway.delivery.connection import ClientConnection, Socket
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Draining, GatewayError, Invalid
from gateway.protocol.close_codes import Close
from gateway.protocol.items import MAX_SEQ

logger = structlog.get_logger()

MAX_EPOCH = 64

RETRY_AFTER = 5
"""When to ask again where the gateway is ending, in seconds: another process may be there by then."""


class Handshake(NamedTuple):
    """A socket or a stream that may be opened: whose it is, and where it starts."""

    user: User
    resume_point: ResumePoint


async def begin_handshake(connection: HTTPConnection) -> Handshake:
    """Authorise a client, and read where it wants to start.

    Raises `Draining` before anything else, what `socket_user` raises, `RateLimited` and `Invalid`.
    """
    state = state_of(connection)
    if state.drain.began:
        raise Draining(retry_after=RETRY_AFTER)
    user = await socket_user(connection)
    turns.caller.set((User, user.id))
    state.throttle.socket_commands.take(user.id)
    return Handshake(user, _resume_point(parameter(connection, "since"), parameter(connection, "epoch")))


def _resume_point(since: str | None, epoch: str | None) -> ResumePoint:
    if epoch is not None and len(epoch) > MAX_EPOCH:
        raise Invalid.field("epoch", f"it must have at most {MAX_EPOCH} characters")
    if since is None:
        return ResumePoint()
    if since == "latest":
        return ResumePoint(latest=True)
    if not _is_number(since):
        raise Invalid.field("since", "it must be a number, 0 or more, or 'latest'")
    return ResumePoint(_number(since), epoch)


def resume_after(event_id: str) -> ResumePoint:
    """Return the start of a client that has applied all up to the event with this id, `<epoch>.<seq>`.

    A browser sends such an id by itself, and would not understand that it is no good. So one that is none is
    taken for a position of another log: the client is told `reset`.
    """
    epoch, _, seq = event_id.rpartition(".")
    return ResumePoint(_number(seq), epoch, applied=True) if _is_number(seq) else ResumePoint(0, "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(digits: str) -> int:
    """Return the number; one too long to be one of a log is beyond its end, like any other that is."""
    return int(digits) if len(digits) < len(str(MAX_SEQ)) else MAX_SEQ


def connect(state: Gateway, socket: Socket, handshake: Handshake) -> ClientConnection:
    """Return the loop that serves the client."""
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
    """Return what is to be called with the code and the reason when the gateway closes it."""
    return partial(record_close, route, client_address(connection), user)


async def serve(connection: ClientConnection, socket: Socket) -> None:
    """Run the loop, and close its client if it fails."""
    try:
        await connection.run()
    except GatewayError as error:
        socket.close_at_once(error.close_code, error.code)
    except Exception:
        logger.exception("a client's loop failed")
        socket.close_at_once(Close.INTERNAL_ERROR, "internal_error")
