"""The acceptor: takes new connections off the kernel's queue before the queue makes anybody wait.

That queue is one line for everybody. So it is emptied as fast as may be, and who has a turn is decided
behind it, by network (`turnstile`).
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from time import perf_counter

import structlog

logger = structlog.get_logger(__name__)

PER_PASS = 256
"""How many connections are accepted in one pass of the event loop at most."""

PASS = 0.005
"""How long they may take, in seconds: the loop has others to look at, and other workers accept, too."""

PAUSE = 1.0
"""How long nothing is accepted where there is no file or no memory for a connection, in seconds."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts the connections of a listener, from its making until `close`. It belongs to the event loop.

    `make` returns the protocol of a connection.
    """

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Let go of the listener; what was accepted goes on."""
        if self._again is not None:
            self._again.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        until = perf_counter() + PASS
        for _ in range(PER_PASS):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error)
                    return
                # That client has gone again, or its network has: accept(2) says to go on.
                continue
            task = self._loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
            if perf_counter() >= until:
                return

    async def _begin(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._make, accepted)
        except Exception:
            accepted.close()
            logger.exception("an accepted connection could not begin")

    def _pause(self, error: OSError) -> None:
        logger.error("no connection can be accepted for now", reason=error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._again = self._loop.call_later(PAUSE, self._listen)
