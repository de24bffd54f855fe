"""The server process: uvicorn's server with a drain and a deadline.

uvicorn itself closes every socket at once, and then raises the stop signal again. docs/architecture.md
("Starting and stopping") describes how this server stops instead.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

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
from gateway.transport.turnstile import TURNSTILE, Turnstile

logger = structlog.get_logger()

ANSWER_SHARE = 0.8
"""Share of the grace period for responses. The rest is for flushing the writer."""

CHECK_INTERVAL_SECONDS = 0.05
"""How often a stopping server checks whether all requests are answered, in seconds."""

EXIT_SHARE = 0.95
"""Share of the grace period after which the process exits, even if it isn't done."""


class Server(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or SIGHUP. `started` is called when it begins to serve.

    A supervised worker closes the listener on SIGHUP, because the other workers still accept on it. It
    ignores repeated signals: its supervisor decides when to kill it. A single process treats SIGHUP like
    SIGTERM, and exits at once on a second SIGTERM or SIGINT, more than a second after the first.
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
        self._stop_signal = signal.SIGTERM

    @property
    def ended_well(self) -> bool:
        """Whether the server has started, and neither startup nor shutdown of the application has failed."""
        return self.started and not self.lifespan.error_occurred

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle stop signals while the server runs, except those that the process was started to ignore."""
        handled = [sig for sig in (*HANDLED_SIGNALS, signal.SIGHUP) if not is_ignored(signal.Signals(sig))]
        before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        try:
            yield
        finally:
            for sig, handler in before.items():
                # The process is exiting, and an echo of the stop signal may still arrive.
                signal.signal(sig, signal.SIG_IGN if self.should_exit else handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - an override
        """Begin to stop. This runs between any two bytecodes of the loop's thread, so keep it short."""
        if sig == signal.SIGHUP:
            self._retired = self._supervised
        elif self._stops.is_repeated() and not self._supervised:
            os._exit(1)
        if self.should_exit:
            return
        self._stop_signal = signal.Signals(sig)
        if self.started:
            self._parts.drain.begin()
        grace_period = self._settings.grace_period
        self._answered_by = time.monotonic() + grace_period * ANSWER_SHARE
        signal.signal(signal.SIGALRM, lambda *_: os._exit(int(not self.ended_well)))
        signal.setitimer(signal.ITIMER_REAL, grace_period * EXIT_SHARE)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, accept connections from these listeners, and call `started`."""
        await super().startup([])
        connections = cast("Connections", self.lifespan.state[CONNECTIONS])
        is_busy = cast("Turnstile", self.lifespan.state[TURNSTILE]).is_busy
        acceptors = [Acceptor(one, self._protocol, connections, is_busy) for one in sockets or ()]
        for acceptor in acceptors:
            await acceptor.start()
        self.servers = cast("list[asyncio.Server]", acceptors)
        self._on_started()

    def _protocol(self, place: Place | None) -> asyncio.Protocol:
        """Return the protocol of a new connection. It gets a place itself if `place` is None."""
        make: Any = self.config.http_protocol_class
        state = self.lifespan.state
        protocol: GatewayHttp = make(config=self.config, server_state=self.server_state, app_state=state)
        protocol.place = place
        return protocol

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop, which is when the sockets are closed. HTTP is served until then."""
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
            return  # The application has failed, so it can't close its sockets.
        logger.info("stopping", signal=self._stop_signal.name, sockets=len(self._parts.hub))
        # Close each connection after its response, so that its client reconnects elsewhere. Handshakes that
        # are accepted from now on don't get this header.
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        await self._parts.drain.close_sockets()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the responses while there is time. Then end the application, which flushes the writer.

        uvicorn would cancel unanswered requests and respond with 500. Their outcome isn't known, so this
        server closes their connections without a response.
        """
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while (state.connections or state.tasks) and time.monotonic() < self._answered_by:  # noqa: ASYNC110
            # uvicorn offers no event to wait for, only these sets.
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
        await self.lifespan.shutdown()

    @property
    def _parts(self) -> Gateway:
        return cast("Gateway", cast("FastAPI", self.config.app).state.gateway)
