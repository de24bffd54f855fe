"""What the backplanes with a server have in common: a connection that is kept up, and checked by ear."""

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
"""How often a process checks that it hears itself, and how long that may take, in seconds."""

FIRST_PAUSE, MAX_PAUSE = 0.1, 4.0
"""The times between two attempts to connect, in seconds: after the first failure, and at most."""

DRAIN = 1.0
"""How long a stop waits for the last hints to go out, in seconds."""


class Outdated(ConnectionError):
    """The server is there, and may no longer be the one that others are on: connect anew."""


class Link(ABC):
    """A backplane on a server at `address`. `failures` are what its driver raises when the server is away.

    A connection that is half open, or that has lost its subscription, looks well for ever: so the process
    sends a message to itself through the server, and expects to hear it. That takes two intervals at most.
    """

    failures: tuple[type[Exception], ...] = (OSError, TimeoutError)

    def __init__(self, address: str, *, check_interval: float = CHECK_INTERVAL) -> None:
        self.address = address
        self._interval = check_interval
        self._origin = secrets.token_hex(8)
        self._mine = prefix_of(self._origin)
        self._outbox = Outbox()
        self._told = asyncio.Event()
        self._told.set()
        self._receiver = Receiver(lambda _: None, lambda _: None, lambda _: None)
        self._listening = False
        self._warned = False
        self._failures = 0
        self.problem: str | None = None
        self.sent = 0
        self.received = 0

    @property
    def listening(self) -> bool:
        """Whether this process has heard itself lately."""
        return self._listening

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Tell the others, together with what waits already."""
        self._outbox.put(Hints(seqs, ended))
        self._told.clear()

    async def drain(self) -> None:
        """Wait for what was published to go out, for a second at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN if self._listening else 0):
                await self._told.wait()

    async def run(self, receiver: Receiver) -> None:
        """Keep a connection up until cancelled. What is published while there is none waits for the next."""
        self._receiver = receiver
        while True:
            # A task of its own: in Python 3.11 a group whose tasks fail while it is being cancelled forgets
            # that it was, and this loop would go on.
            session = asyncio.create_task(self._serve())
            try:
                await asyncio.wait([session])
            finally:
                session.cancel()
                await asyncio.wait([session])
                was_listening, self._listening = self._listening, False
            self._lost(_cause(session), was_listening=was_listening)
            # Many processes that lose one server do not come back to it all at once.
            await asyncio.sleep(spread(pause_after(self._failures, FIRST_PAUSE, MAX_PAUSE)))

    async def _serve(self) -> None:
        async with self._connected(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._check())
            tasks.create_task(self._send_all())

    def _lost(self, error: BaseException, *, was_listening: bool) -> None:
        """Note why there is no connection: once for each time that it is lost."""
        if isinstance(error, Outdated):
            # Nothing is away: hints wait for the next connection, which is made at once.
            return
        problem = reason(error)
        if not isinstance(error, self.failures):
            logger.error("the backplane has failed", exc_info=error)
        elif was_listening or self.problem is None:
            logger.warning(
                "the backplane is away: others are told late", reason=problem, backplane=self.address
            )
        self.problem = problem
        self._failures += 1

    def _resumed(self) -> None:
        if self.problem is not None:
            logger.info("the backplane is back", backplane=self.address)
        self._listening, self._warned, self.problem = True, False, None
        self._receiver.on_resumed(None)

    async def _check(self) -> None:
        """Hear oneself every so often. Raises `TimeoutError` when that takes too long."""
        while True:
            async with asyncio.timeout(self._interval):
                await self._hear_oneself()
            if self._listening:
                self._failures = 0  # The connection has lasted; one that flaps is not opened ever faster.
            else:
                self._resumed()
            await asyncio.sleep(self._interval)

    async def _send_all(self) -> None:
        while True:
            hints = await self._outbox.take()
            try:
                await self._send(hints)
            except BaseException:
                # It may not have gone out, and to be told twice is no harm.
                self._outbox.put(hints)
                raise
            self.sent += len(hints.seqs)
            if not len(self._outbox):
                self._told.set()

    def _heard(self, text: str) -> bool:
        """Pass on what another process says; return whether it was this process that said it."""
        if text.startswith(self._mine):
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
        """Be connected and subscribed while the block runs."""

    @abstractmethod
    async def _listen(self) -> None:
        """Call `_heard` with what comes, until the connection is lost. Raises one of `failures` then."""

    @abstractmethod
    async def _hear_oneself(self) -> None:
        """Send a message to oneself and return when it has come back."""

    @abstractmethod
    async def _send(self, hints: Hints) -> None:
        """Send hints to the others."""

    @abstractmethod
    def follow(self, user_id: int) -> None:
        """Begin to listen for a user."""

    @abstractmethod
    def forget(self, user_id: int) -> None:
        """Stop listening for a user."""


def _cause(session: asyncio.Task[None]) -> BaseException:
    """Return one of the reasons why a session is over: a connection that is lost fails for all who use it."""
    cause = None if session.cancelled() else session.exception()
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause or ConnectionError("the connection has ended")
