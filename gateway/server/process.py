"""uvicorn's server, which ends gently, and in time (docs/architecture.md, "Starting and stopping").

uvicorn itself closes every socket at once, and goes with the signal that has told it to.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from gateway.api.state import Gateway
from gateway.server.stop_signals import StopSignals, is_ignored
from gateway.settings import Settings
from gateway.transport.acceptor import Acceptor
from gateway.transport.connections import CONNECTIONS, Connections, Place
from gateway.transport.http import GatewayHttp

logger = structlog.get_logger()

ANSWERED = 0.8
"""The part of the grace period after which nobody is waited for: what is left is for the writer."""

TICK = 0.05
"""How often it is looked whether all are answered, in seconds."""

CUT_OFF = 0.95
"""The part of the grace period after which the process is gone, whatever it does."""


class Server(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or SIGHUP. `started` is called when it does.

    One of several workers lets go of the listener at SIGHUP, for the others have it, and leaves it to its
    supervisor to lose patience. One that is alone takes SIGHUP for SIGTERM, and ends at once when it is told
    a second time, more than a second later.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._settings = settings
        self._on_started = started
        self._supervised = settings.workers > 1
        self._stops = StopSignals()
        self._retired = False
        self._answered_by = 0.0
        self._draining: asyncio.Task[None] | None = None
        self._told_by = signal.SIGTERM

    @property
    def ended_well(self) -> bool:
        """Whether it has served, and nothing of the application has failed."""
        return self.started and not self.lifespan.error_occurred

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle the signals that stop it, while it serves, but for those that it was started to ignore."""
        handled = [sig for sig in (*HANDLED_SIGNALS, signal.SIGHUP) if not is_ignored(signal.Signals(sig))]
        before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        try:
            yield
        finally:
            for sig, handler in before.items():
                # It ends now, and an echo of what it was told by may still be on its way.
                signal.signal(sig, signal.SIG_IGN if self.should_exit else handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - it is overridden
        """Begin to end. It runs between any two steps of the event loop, so it only leaves marks."""
        if sig == signal.SIGHUP:
            self._retired = self._supervised
        elif self._stops.insists() and not self._supervised:
            os._exit(1)
        if self.should_exit:
            return
        self._told_by = signal.Signals(sig)
        if self.started:
            self._parts.drain.begin()
        grace_period = self._settings.grace_period
        self._answered_by = time.monotonic() + grace_period * ANSWERED
        signal.signal(signal.SIGALRM, lambda *_: os._exit(int(not self.ended_well)))
        signal.setitimer(signal.ITIMER_REAL, grace_period * CUT_OFF)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, accept from these listeners, and say so."""
        await super().startup([])
        connections = cast("Connections", self.lifespan.state[CONNECTIONS])
        acceptors = [Acceptor(one, self._protocol, connections) for one in sockets or ()]
        for acceptor in acceptors:
            await acceptor.start()
        self.servers = cast("list[asyncio.Server]", acceptors)
        self._on_started()

    def _protocol(self, place: Place | None) -> asyncio.Protocol:
        """Return the protocol of a new connection, which is counted at this place or finds one itself."""
        make = cast("type[GatewayHttp]", self.config.http_protocol_class)
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        protocol.place = place
        return protocol

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: not before the sockets are closed. HTTP is served until then."""
        if not await super().on_tick(counter):
            return False
        if self._retired:
            for server in self.servers:
                server.close()
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="drain")
        return self._draining.done()

    async def _drain(self) -> None:
        if self.lifespan.error_occurred:
            return  # There is nobody left who could serve.
        logger.info("ending", signal=self._told_by.name, sockets=len(self._parts.hub))
        # With its answer each connection ends, so that its client goes on elsewhere. No handshake that is
        # still to be accepted gets this header.
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        await self._parts.drain.close_sockets()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the answers while there is time; then end the application, which flushes the writer.

        uvicorn would cancel what has no answer by then, and say 500. Its outcome is open, so nothing is said.
        """
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while (state.connections or state.tasks) and time.monotonic() < self._answered_by:  # noqa: ASYNC110
            # There is nothing of uvicorn's to be waited for but these sets.
            await asyncio.sleep(TICK)
        for connection in list(state.connections):
            connection.transport.abort()
        await self.lifespan.shutdown()

    @property
    def _parts(self) -> Gateway:
        return cast("Gateway", cast("FastAPI", self.config.app).state.gateway)
