"""The base of backplanes with a server: a supervised connection, health-checked by a loopback message."""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from gateway.backplane.base import Receiver
from gateway.backplane.hints import Hints, Outbox, decode, prefix_of
from gateway.observability.backoff import pause_after, spread
from gateway.observability.reasons import reason

logger = structlog.get_logger()

CHECK_INTERVAL = 5.0
"""How often a process sends itself a message, and how long that may take to arrive, in seconds."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 4.0
"""How long to wait between two attempts to connect: after the first failure, and at most."""

DRAIN_SECONDS = 1.0
"""How long a stopping process waits for its last hints to be sent."""


class Outdated(ConnectionError):
    """The server responds, but may no longer be the one that the other processes use: reconnect."""


class Link(ABC):
    """A backplane on a server at `address`. `failures` are the driver's errors for an unavailable server.

    A half-open connection, or one that has lost its subscription, shows no error. The process therefore sends
    itself a message through the server and expects to receive it. That detects a dead connection within two
    check intervals.
    """

    failures: tuple[type[Exception], ...] = (OSError, TimeoutError)

    def __init__(self, address: str, *, check_interval: float = CHECK_INTERVAL) -> None:
        self.address = address
        self._interval = check_interval
        self._origin = secrets.token_hex(8)
        self._own_prefix = prefix_of(self._origin)
        self._outbox = Outbox()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._receiver = Receiver(lambda _: None, lambda _: None, lambda _: None)
        self._listening = False
        self._warned = False
        self._failures = 0
        self.problem: str | None = None
        self.sent = 0
        self.received = 0

    @property
    def listening(self) -> bool:
        """Whether the last loopback message arrived."""
        return self._listening

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Queue hints for the other processes, merged with those that wait already."""
        self._outbox.put(Hints(seqs, ended))
        self._all_sent.clear()

    async def drain(self) -> None:
        """Wait until the published hints are sent, for a second at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS if self._listening else 0):
                await self._all_sent.wait()

    async def run(self, receiver: Receiver) -> None:
        """Keep a connection open until cancelled. Hints published without one wait for the next."""
        self._receiver = receiver
        while True:
            # In its own task: in Python 3.11 a task group swallows its cancellation if one of its tasks fails
            # meanwhile, and this loop would continue.
            session = asyncio.create_task(self._serve())
            try:
                await asyncio.wait([session])
            finally:
                session.cancel()
                await asyncio.wait([session])
                was_listening, self._listening = self._listening, False
            self._note_loss(_cause(session), was_listening=was_listening)
            # Randomised, so that processes that lose one server don't all reconnect at once.
            await asyncio.sleep(spread(pause_after(self._failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)))

    async def _serve(self) -> None:
        async with self._connected(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._check())
            tasks.create_task(self._send_all())

    def _note_loss(self, error: BaseException, *, was_listening: bool) -> None:
        """Record why the connection was lost. Log it once per outage."""
        if isinstance(error, Outdated):
            # This is no outage: hints wait for the next connection, which is opened at once.
            return
        problem = reason(error)
        if not isinstance(error, self.failures):
            logger.error("the backplane has failed", exc_info=error)
        elif was_listening or self.problem is None:
            logger.warning(
                "the backplane is unavailable: hints are delayed", reason=problem, backplane=self.address
            )
        self.problem = problem
        self._failures += 1

    def _note_resumption(self) -> None:
        if self.problem is not None:
            logger.info("the backplane is back", backplane=self.address)
        self._listening, self._warned, self.problem = True, False, None
        self._receiver.on_resumed(None)

    async def _check(self) -> None:
        """Check the connection periodically. Raises `TimeoutError` when a loopback message is overdue."""
        while True:
            async with asyncio.timeout(self._interval):
                await self._hear_oneself()
            if self._listening:
                self._failures = 0  # Only a connection that lasts resets the back-off, not one that flaps.
            else:
                self._note_resumption()
            await asyncio.sleep(self._interval)

    async def _send_all(self) -> None:
        while True:
            hints = await self._outbox.take()
            try:
                await self._send(hints)
            except BaseException:
                # The hints may not have been sent. Sending them twice is safe.
                self._outbox.put(hints)
                raise
            self.sent += len(hints.seqs)
            if not len(self._outbox):
                self._all_sent.set()

    def _heard(self, text: str) -> bool:
        """Handle a message: pass on another process's hints. Return whether this process sent it."""
        if text.startswith(self._own_prefix):
            return True
        try:
            hints = decode(text).hints
        except ValueError as error:
            if not self._warned:
                self._warned = True
                logger.warning("a malformed message on the backplane", error=str(error))
            self._receiver.on_resumed(None)
            return False
        self.received += len(hints.seqs)
        if hints.everything:
            self._receiver.on_resumed(None)
        if hints.seqs:
            self._receiver.on_hint(hints.seqs)
        if hints.ended:
            self._receiver.on_ended(hints.ended)
        return False

    @abstractmethod
    def _connected(self) -> AbstractAsyncContextManager[None]:
        """Connect and subscribe while the block runs."""

    @abstractmethod
    async def _listen(self) -> None:
        """Call `_heard` with each message until the connection is lost, then raise one of `failures`."""

    @abstractmethod
    async def _hear_oneself(self) -> None:
        """Send a loopback message and return when it arrives."""

    @abstractmethod
    async def _send(self, hints: Hints) -> None:
        """Send hints to the other processes."""

    @abstractmethod
    def follow(self, user_id: int) -> None:
        """Start listening for a user."""

    @abstractmethod
    def forget(self, user_id: int) -> None:
        """Stop listening for a user."""


def _cause(session: asyncio.Task[None]) -> BaseException:
    """Return one of the errors that ended a session. A lost connection fails in several tasks at once."""
    cause = None if session.cancelled() else session.exception()
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause or ConnectionError("the connection has ended")
