"""The newest entries in memory: what it has is without a gap, and what it has not is read from the log."""

import tracemalloc
from typing import Self
from uuid import uuid4

import pytest

from gateway.delivery.recent_entries import BURST_BYTES, RecentEntries
from gateway.delivery.resume_point import BATCH_BYTES
from gateway.protocol import items, packing, times
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content, Counts, Item
from gateway.store import log
from gateway.store.entries import Entry
from gateway.store.inbox import NEWEST_UNREAD

CONTENT = Content("00000000-0000-7000-8000-000000000001", "Hello", None, "default", "normal", None, None, 0)


def entry(user_id: int, seq: int) -> Entry:
    return Entry(user_id, Counts(seq, seq, seq, 0), (Item(CONTENT, seq, seq),), fresh=True)


def seqs(recent: RecentEntries, user_id: int, cursor: int) -> list[int] | None:
    entries = recent.after(user_id, cursor)
    return None if entries is None else [entry.counts.seq for entry in entries]


def kept(*numbers: int, budget: int = 10**6) -> RecentEntries:
    recent = RecentEntries(budget)
    recent.follow(7)
    for number in numbers:
        recent.record([entry(7, number)], {7: Counts(number, 0, 0, 0)})
    return recent


def test_entries_after_the_cursor_are_returned_in_order() -> None:
    recent = kept(4, 5, 6)
    assert seqs(recent, 7, 3) == [4, 5, 6]
    assert seqs(recent, 7, 5) == [6]


def test_many_entries_are_returned_in_parts_without_a_gap() -> None:
    recent = kept(*range(1, 1001), budget=10**9)
    cursor, state = 0, 0
    while entries := recent.after(7, cursor):
        assert sum(entry.size for entry in entries) <= BURST_BYTES
        assert [entry.counts.seq for entry in entries] == list(range(cursor + 1, cursor + 1 + len(entries)))
        cursor, state = cursor + len(entries), state + 1
    assert (cursor, state > 1) == (1000, True)


def test_reads_for_a_socket_are_at_most_256_kib() -> None:
    assert max(BURST_BYTES, log.PAGE_BYTES) <= 64 * 1024
    assert BATCH_BYTES <= 256 * 1024


def test_short_newest_items_fit_in_one_batch() -> None:
    short = Item(CONTENT._replace(title="Your order", body="It has left our warehouse today."), 1, 1)
    assert NEWEST_UNREAD * Entry(7, Counts(1, 0, 0, 0), (short,)).size <= BATCH_BYTES


def test_at_least_one_entry_is_returned_however_large() -> None:
    recent = RecentEntries(10**9)
    recent.follow(7)
    large = Item(CONTENT._replace(body="x" * BURST_BYTES), 1, 1)
    for seq in (1, 2):
        recent.record([Entry(7, Counts(seq, 0, 0, 0), (large,))], {})
    assert (seqs(recent, 7, 0), seqs(recent, 7, 1)) == ([1], [2])


def test_a_cursor_before_or_at_the_end_of_the_cached_entries_needs_the_log() -> None:
    recent = kept(4, 5, 6)
    assert seqs(recent, 7, 2) is None
    assert seqs(recent, 7, 6) is None
    assert seqs(RecentEntries(100), 7, 0) is None


def test_entries_before_a_gap_are_not_returned() -> None:
    recent = kept(4, 5, 8)
    assert seqs(recent, 7, 4) is None
    assert seqs(recent, 7, 7) == [8]


def test_only_entries_of_followed_users_are_cached_until_they_are_forgotten() -> None:
    recent = kept(1)
    recent.record([entry(8, 1)], {8: Counts(1, 0, 0, 0)})
    assert seqs(recent, 8, 0) is None
    assert recent.counts(8) is None
    recent.forget(7)
    assert 7 not in recent
    assert (seqs(recent, 7, 0), recent.counts(7)) == (None, None)
    recent.follow(7)
    assert seqs(recent, 7, 0) is None


def test_the_oldest_entries_are_evicted_when_the_budget_is_full() -> None:
    size = entry(7, 1).size
    recent = kept(1, 2, 3, 4, budget=2 * size)
    assert seqs(recent, 7, 1) is None
    assert seqs(recent, 7, 2) == [3, 4]
    recent.forget(7)
    recent.follow(7)
    recent.record([entry(7, number) for number in (5, 6)], {})
    assert seqs(recent, 7, 4) == [5, 6]


def test_a_budget_of_zero_caches_no_entries() -> None:
    assert seqs(kept(1, 2, budget=0), 7, 1) is None


def test_a_late_read_from_the_log_neither_duplicates_entries_nor_reverts_counts() -> None:
    recent = kept(4, 5, 6)
    recent.record([entry(7, number) for number in (3, 5, 6)], {7: Counts(5, 9, 9, 0)})
    assert seqs(recent, 7, 3) == [4, 5, 6]
    assert recent.counts(7) == Counts(6, 0, 0, 0)
    recent.record([], {7: Counts(6, 0, 0, 2)})
    assert recent.counts(7) == Counts(6, 0, 0, 2)


def long_text(character: str, length: int = 4000) -> str:
    """Return a text of its own, as a row of the database brings one: a literal would be shared."""
    return "".join([character] * length)


def new_item(seq: int, text: str | None, number: int = 1) -> Item:
    """Return an item with nothing that another one has."""
    data = None if text is None else dumps({"k": text})
    title, category = long_text(text[0] if text else "t", 200), long_text("c", 64)
    content = Content(str(uuid4()), title, text, category, long_text("normal", 1), None, data, 10**12 + seq)
    return Item(content, 10**9 + number, 10**9 + seq, 10**12 + number, 10**12 + number + 1)


def encoded(user_id: int, seq: int, items: list[Item]) -> Entry:
    entry = Entry(user_id, Counts(seq, 10**6, 10**6, 0), items, fresh=len(items) == 1)
    assert entry.message.packed_frame
    return entry


class Held:
    """The bytes that are held since the block began."""

    def __enter__(self) -> Self:
        self.bytes()
        # Python 3.11 keeps 2,000 freed tuples of 20 elements, as the row of an item is, and reuses none.
        rows = [tuple(range(start, start + 20)) for start in range(2_000)]
        del rows
        tracemalloc.start()
        return self

    def bytes(self) -> int:
        items._encode_new.cache_clear()
        times.timestamp.cache_clear()
        packing._pack_content.cache_clear()
        packing._packer.cache_clear()  # It keeps a buffer as large as the largest message, for all of them.
        return tracemalloc.get_traced_memory()[0]

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


@pytest.mark.no_cover  # It measures memory, of which the tracer takes some.
@pytest.mark.parametrize("number", [1, 28])
@pytest.mark.parametrize("text", ["", "x", "\n", '"', "\x01", "é", "€", "😀", "😀\x01"], ids=ascii)
def test_an_entry_never_uses_more_memory_than_its_size(text: str, number: int) -> None:
    # The first entry of a process also makes caches that stay.
    encoded(7, 10**9, [new_item(1, "x", 0)])
    with Held() as held:
        items = [new_item(1, long_text(text) if text else None, one) for one in range(number)]
        entry = encoded(7, 10**9, items)
        assert held.bytes() <= entry.size


@pytest.mark.no_cover
def test_an_entry_longer_in_messagepack_never_uses_more_memory_than_its_size() -> None:
    encoded(7, 10**9, [new_item(1, "x", 0)])
    with Held() as held:
        item = new_item(1, None)
        content = item.content._replace(data=dumps({"k": [0.5] * 2000}))
        entry = encoded(7, 10**9, [item._replace(content=content)])
        assert len(entry.message.packed_frame) > 2 * len(entry.message.frame)
        assert held.bytes() <= entry.size


@pytest.mark.no_cover
def test_recent_entries_stay_within_their_budget_whichever_items_a_change_starts_with() -> None:
    for seq in range(1, 21):
        encoded(7, 10**9, [new_item(seq, "x", one) for one in range(28)])
    budget = 4 * 1024 * 1024
    recent = RecentEntries(budget)
    with Held() as held:
        for user_id in (7, 8):
            recent.follow(user_id)
        for seq in range(1, 21):
            for user_id in (7, 8):
                items = [new_item(seq, long_text("é") if one else None, one) for one in range(28)]
                recent.record([encoded(user_id, seq, items)], {})
        del items
        assert budget / 4 < held.bytes() <= budget
        assert seqs(recent, 7, 19) == [20]
        recent.forget(7)
        recent.forget(8)
        assert held.bytes() < 10_000


def test_the_budget_of_a_forgotten_user_is_free_for_other_users_at_once() -> None:
    recent = shared(8, 8, 7, 7)
    recent.forget(7)
    recent.record([entry(8, 3), entry(8, 4)], {})
    assert seqs(recent, 8, 0) == [1, 2, 3, 4]
    recent.follow(7)
    recent.record([entry(7, 5)], {})
    assert (seqs(recent, 8, 0), seqs(recent, 8, 1), seqs(recent, 7, 4)) == (None, [2, 3, 4], [5])


def test_the_budget_of_entries_before_a_gap_is_free_for_other_users() -> None:
    recent = shared(8, 8, 7, 7)
    recent.record([entry(7, 5), entry(8, 3)], {})
    assert (seqs(recent, 7, 4), seqs(recent, 8, 0)) == ([5], [1, 2, 3])


def shared(*users: int) -> RecentEntries:
    """Return a tail that has room for as many entries as these users get."""
    recent = RecentEntries(len(users) * entry(7, 1).size)
    for user_id in set(users):
        recent.follow(user_id)
    for index, user_id in enumerate(users):
        recent.record([entry(user_id, 1 + users[:index].count(user_id))], {})
    return recent


def test_forgotten_users_leave_no_memory_behind() -> None:
    recent = RecentEntries(10**9)
    recent.follow(8)
    recent.record([entry(8, 1)], {})
    with Held() as held:
        for seq in range(1, 20_001):
            recent.follow(7)
            recent.record([entry(7, seq)], {})
            recent.forget(7)
        assert held.bytes() < 3_000_000
    assert seqs(recent, 8, 0) == [1]


def test_entries_are_not_returned_if_the_log_is_known_to_go_on_after_them() -> None:
    """What comes later may withdraw the content of one of them."""
    recent = kept(4, 5, 6)
    assert [entry.counts.seq for entry in recent.after(7, 4, 6) or ()] == [5, 6]
    assert recent.after(7, 4, 7) is None
