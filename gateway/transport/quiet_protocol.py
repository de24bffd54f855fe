"""The protocol of RFC 6455 as `websockets` has it, which logs and repeats nothing that a client has sent."""

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
    """Expects frames only: the request comes parsed (`http`). It says nothing of what its client has sent."""

    @classmethod
    def adopt(cls, made: ServerProtocol) -> None:
        """Turn the protocol that uvicorn has made into one of these: to make another is dear.

        uvicorn's would write each header and each frame into uvicorn's log, at the level debug.
        """
        made.__class__ = cls
        made.logger, made.debug = _SILENT, False
        made.parser.close()
        made.parser = made.parse()
        next(made.parser)

    def parse(self) -> Generator[None]:
        """Parse frames: the request never comes this way."""
        return super(ServerProtocol, self).parse()

    def reject(self, status: StatusLike, text: str) -> Response:  # noqa: ARG002 - it is overridden
        """Refuse the handshake with a problem. The text of `websockets` quotes the header that is wrong."""
        refused = HTTPStatus(status)
        head, body = bare_problem(refused, "This is not a WebSocket handshake (RFC 6455, 4.2.1).")
        headers = Headers((name.decode(), value.decode()) for name, value in head)
        # What this end speaks, in case that is what was wrong (RFC 6455, section 4.4).
        headers["Sec-WebSocket-Version"] = "13"
        return Response(refused.value, refused.phrase, headers, body)
