"""What a process does with a commit of its own, and in which order."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.delivery.announcer import Announcer
from gateway.observability.metrics import Metrics
from gateway.protocol.items import Content, Counts, Item
from gateway.store.entries import Entry
from gateway.store.transaction import Committed


class Told:
    """A tail, a hub and a backplane that write down what they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def record(self, entries: Iterable[Entry], counts: Mapping[int, Counts]) -> None:
        self.calls.append(("record", ([entry.committed_at > 0 for entry in entries], counts)))

    def wake(self, seqs: Mapping[int, int], entries: Iterable[Entry]) -> None:
        self.calls.append(("wake", (seqs, [entry.user_id for entry in entries])))

    def publish(self, seqs: Mapping[int, int]) -> None:
        self.calls.append(("publish", seqs))

    def sockets_of(self, user_id: int) -> int:
        return 3 if user_id == 1 else 0

    def charge(self, user_id: int, kib: int) -> None:
        self.calls.append(("charge", (user_id, kib)))


def test_a_commit_enters_memory_before_sockets_wake_and_hints_are_published() -> None:
    told, metrics = Told(), Metrics(max_sockets=1)
    content = Content(
        "0198c3a0-0000-7000-8000-000000000001", "Ping", None, "general", "normal", None, None, 0
    )
    counts = Counts(3, 1, 1, 0)
    committed = Committed([], [Entry(7, counts, (Item(content, 3, 3),), fresh=True)], {7: counts}, 1, 1, 0.1)
    Announcer(told, told, told, metrics, told).announce(committed)  # type: ignore[arg-type]
    assert told.calls == [("record", ([True], {7: counts})), ("wake", ({7: 3}, [7])), ("publish", {7: 3})]
    assert metrics.registry.get_sample_value("gateway_posts_total") == 1


def test_a_change_is_charged_for_each_socket_that_receives_it() -> None:
    told, metrics = Told(), Metrics(max_sockets=1)
    announcer = Announcer(told, told, told, metrics, told)  # type: ignore[arg-type]
    announcer.announce(Committed([], [], {}, sent_on={1: 3000, 2: 3000, 3: 0, 4: 500}))
    # The sockets of 2 may all be in another process.
    assert [call for call in told.calls if call[0] == "charge"] == [("charge", (1, 8)), ("charge", (2, 2))]
