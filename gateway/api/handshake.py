"""The handshake of sockets and streams: find the user and the resume point before accepting either."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from starlette.requests import HTTPConnection

from gateway.api.audit import record_close
from gateway.api.callers import socket_user
from gateway.api.query import parameter
from gateway.api.state import Gateway, state_of
from gateway.auth.principals import User
from gateway.database import turns
from gateway.delivery.client_connection import ClientConnection
from gateway.delivery.outgoing import Socket
from gateway.delivery.resume_point import ResumePoint
from gateway.errors import Draining, Invalid
from gateway.protocol.items import MAX_SEQ
from gateway.transport.fast_path import FAILURE

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

    Raises the error of a handshake that the fast path has refused. Otherwise, raises `Draining` before
    anything else, then what `socket_user` raises, `RateLimited` and `Invalid`.
    """
    if FAILURE in connection.scope:
        raise connection.scope.pop(FAILURE)
    state = state_of(connection)
    if state.drain.began:
        raise Draining(retry_after=RETRY_AFTER_SECONDS)
    user = await socket_user(connection)
    turns.caller.set((User, user.id))
    state.rate_limits.socket_commands.take(user.id)
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


def connect(state: Gateway, socket: Socket, handshake: Handshake, route: str) -> ClientConnection:
    """Create the connection that serves the client."""
    return ClientConnection(socket, *handshake, state.parts, _recorder(route))


@cache
def _recorder(route: str) -> Callable[[str, User, int, str], None]:
    return partial(record_close, route)
