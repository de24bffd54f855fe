"""The in-memory backplane: it reaches the gateways in one process that share `peers`, without delay."""

import asyncio
from collections.abc import Collection, Mapping

from gateway.backplane.base import Receiver


class MemoryBackplane:
    """A backplane without a server. A single worker has no peers; gateways in one process share them."""

    def __init__(self, peers: "dict[MemoryBackplane, Receiver] | None" = None) -> None:
        self._peers = {} if peers is None else peers
        self.sent = 0
        self.received = 0
        self.address = "this process"
        self.problem: str | None = None

    @property
    def listening(self) -> bool:
        """Always true: no server can be unavailable."""
        return True

    async def run(self, receiver: Receiver) -> None:
        """Receive the peers' hints until cancelled."""
        self._peers[self] = receiver
        receiver.on_resumed(None)
        try:
            await asyncio.Event().wait()
        finally:
            del self._peers[self]

    async def drain(self) -> None:
        """Return at once: hints never wait."""

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Call the receivers of all peers."""
        for peer, receiver in self._peers.items():
            if peer is not self:
                self.sent += len(seqs)
                peer.received += len(seqs)
                if seqs:
                    receiver.on_hint(seqs)
                if ended:
                    receiver.on_ended(ended)

    def follow(self, user_id: int) -> None:
        """Do nothing: every hint is received."""

    def forget(self, user_id: int) -> None:
        """Do nothing: every hint is received."""
