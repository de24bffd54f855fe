"""The close codes: the reason why a socket was closed, and the advice for its client."""

from enum import IntEnum


class Close(IntEnum):
    """The reason why the gateway closed a socket."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    OVERLOADED = 1013
    UNAUTHORIZED = 4001
    FORBIDDEN = 4003
    TOO_SLOW = 4008
    TOO_MANY_SOCKETS = 4009
    TOO_MANY_COMMANDS = 4029


ADVICE = {
    Close.NORMAL: "stop",
    Close.PROTOCOL_ERROR: "fix the client",
    Close.UNSUPPORTED_DATA: "send the frames of its subprotocol",
    Close.INVALID_DATA: "send UTF-8",
    Close.TOO_BIG: "send smaller messages",
    Close.INTERNAL_ERROR: "back off, resume",
    Close.RESTART: "reconnect after a random delay, resume",
    Close.OVERLOADED: "back off, resume",
    Close.UNAUTHORIZED: "get a new token once, then stop",
    Close.FORBIDDEN: "stop",
    Close.TOO_SLOW: "back off, resume",
    Close.TOO_MANY_SOCKETS: "stop until another closes",
    Close.TOO_MANY_COMMANDS: "back off, resume",
}
"""The advice for the client after each close code, as docs/protocol.md lists it."""
