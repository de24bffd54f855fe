"""The backplane of processes that are one: it reaches those who share `peers`, at once."""

import asyncio
from collections.abc import Collection, Mapping

from gateway.backplane.base import Receiver


class MemoryBackplane:
    """One worker has nobody to tell. Several in one process share `peers`."""

    def __init__(self, peers: "dict[MemoryBackplane, Receiver] | None" = None) -> None:
        self._peers = {} if peers is None else peers
        self.sent = 0
        self.received = 0
        self.address = "this process"
        self.problem: str | None = None

    @property
    def listening(self) -> bool:
        """There is nothing to be away."""
        return True

    async def run(self, receiver: Receiver) -> None:
        """Hear the others until cancelled."""
        self._peers[self] = receiver
        receiver.on_resumed(None)
        try:
            await asyncio.Event().wait()
        finally:
            del self._peers[self]

    async def drain(self) -> None:
        """Nothing waits."""

    def publish(self, seqs: Mapping[int, int], ended: Collection[str] = ()) -> None:
        """Tell the others."""
        for peer, receiver in self._peers.items():
            if peer is not self:
                self.sent += len(seqs)
                peer.received += len(seqs)
                if seqs:
                    receiver.on_hint(seqs)
                if ended:
                    receiver.on_ended(ended)

    def follow(self, user_id: int) -> None:
        """Everything is heard."""

    def forget(self, user_id: int) -> None:
        """Everything is heard."""
