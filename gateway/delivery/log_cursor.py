"""The cursor of a client over its user's log: it sends entries, and advances with each."""

from collections.abc import Sequence

from gateway.delivery.outgoing import Outgoing
from gateway.delivery.parts import Parts
from gateway.protocol import messages
from gateway.protocol.items import Counts
from gateway.store.entries import Entry


class LogCursor:
    """The part of a connection that sends the entries of the log. `ClientConnection` sets the attributes.

    `counts` are those of the last message. `_live` says that the client has got everything once.
    """

    __slots__ = ("_cursor", "_live", "_parts", "closed", "counts", "outgoing")

    _cursor: int
    _live: bool
    _parts: Parts
    closed: bool
    counts: Counts
    outgoing: Outgoing

    def _write_all(self, entries: Sequence[Entry]) -> bool:
        """Write entries without a gap before them at once, unless the client lags or has gone."""
        if not self.outgoing.write([entry.message for entry in entries]):
            return False
        self.counts = entries[-1].counts
        self._cursor = self.counts.seq
        if self._live and (since := entries[0].committed_at):
            self._parts.metrics.delivered(self._parts.clock() - since)
        return True

    async def _send_all(self, entries: Sequence[Entry]) -> bool:
        """Send entries until the client lags behind, at least one message. Return whether all were sent."""
        began = self._cursor
        for entry in entries:
            if self._live and self._cursor + 1 < entry.counts.seq:
                await self._fill_to(entry, began)
            if self._lags(began):
                return False
            await self.outgoing.send(entry.message)
            self._cursor = entry.counts.seq
            self.counts = entry.counts
        if self._live and entries and (since := entries[0].committed_at):
            self._parts.metrics.delivered(self._parts.clock() - since)
        return True

    def _lags(self, began: int) -> bool:
        """Whether to send no more: the client doesn't keep up, and has got something since `began`."""
        return self.closed or (not self.outgoing.keeps_up and self._cursor > began)

    async def _fill_to(self, entry: Entry, began: int) -> None:
        """Send an empty `changed` for each `seq` between the cursor and this entry.

        The items of such a `seq` have all changed again since, so the log has no entry for it. Only a slow
        client, which catches up from the log, meets these gaps. After `live` a client may rely on receiving
        every `seq`.
        """
        while self._cursor + 1 < entry.counts.seq and not self._lags(began):
            self._cursor += 1
            await self.outgoing.send(messages.changed((), self._cursor, entry.counts))
