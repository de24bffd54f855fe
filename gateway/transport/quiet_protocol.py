"""The WebSocket protocol of `websockets` (RFC 6455), which never logs or repeats the bytes of a client."""

import logging
from collections.abc import Generator
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from gateway.transport.headers import bare_problem

_SILENT = logging.getLogger("websockets.server")


class QuietProtocol(ServerProtocol):
    """A server protocol that expects only frames, because `http` parses the request.

    It never logs or repeats the bytes of its client.
    """

    @classmethod
    def adopt(cls, made: ServerProtocol) -> None:
        """Change uvicorn's protocol object into a `QuietProtocol`. Creating another object would cost more.

        uvicorn's object would log each header and each frame, at level debug.
        """
        made.__class__ = cls
        made.logger, made.debug = _SILENT, False
        made.parser.close()
        made.parser = made.parse()
        next(made.parser)

    def parse(self) -> Generator[None]:
        """Parse frames. The request never passes through this parser."""
        return super(ServerProtocol, self).parse()

    def reject(self, status: StatusLike, text: str) -> Response:  # noqa: ARG002 - an override
        """Refuse the handshake with a problem.

        It replaces the text of `websockets`, which quotes the wrong header.
        """
        refused = HTTPStatus(status)
        head, body = bare_problem(refused, "This is not a WebSocket handshake (RFC 6455, 4.2.1).")
        headers = Headers((name.decode(), value.decode()) for name, value in head)
        # The supported version, in case the client asked for another (RFC 6455, section 4.4).
        headers["Sec-WebSocket-Version"] = "13"
        return Response(refused.value, refused.phrase, headers, body)
