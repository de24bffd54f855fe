"""The newest entries in memory: what it has is without a gap, and what it has not is read from the log."""

import tracemalloc
from typing import Self
from uuid import uuid4

import pytest

from gateway.delivery.tail import BURST_BYTES, Tail
from gateway.protocol import items
from gateway.protocol.items import Content, Counts, Item
from gateway.store.entries import Entry

CONTENT = Content("00000000-0000-7000-8000-000000000001", "Hello", None, "default", "normal", None, None, 0)


def entry(user_id: int, seq: int) -> Entry:
    return Entry(user_id, Counts(seq, seq, seq, 0), (Item(CONTENT, seq, seq),), fresh=True)


def seqs(tail: Tail, user_id: int, cursor: int) -> list[int] | None:
    entries = tail.after(user_id, cursor)
    return None if entries is None else [entry.counts.seq for entry in entries]


def kept(*numbers: int, budget: int = 10**6) -> Tail:
    tail = Tail(budget)
    tail.follow(7)
    for number in numbers:
        tail.record([entry(7, number)], {7: Counts(number, 0, 0, 0)})
    return tail


def test_what_follows_the_cursor_is_returned_in_order() -> None:
    tail = kept(4, 5, 6)
    assert seqs(tail, 7, 3) == [4, 5, 6]
    assert seqs(tail, 7, 5) == [6]


def test_what_is_large_is_returned_in_parts_and_without_a_gap() -> None:
    tail = kept(*range(1, 1001), budget=10**9)
    cursor, parts = 0, 0
    while entries := tail.after(7, cursor):
        assert sum(entry.size for entry in entries) <= BURST_BYTES
        assert [entry.counts.seq for entry in entries] == list(range(cursor + 1, cursor + 1 + len(entries)))
        cursor, parts = cursor + len(entries), parts + 1
    assert (cursor, parts > 1) == (1000, True)


def test_one_entry_is_returned_however_large_it_is() -> None:
    tail = Tail(10**9)
    tail.follow(7)
    large = Item(CONTENT._replace(body="x" * BURST_BYTES), 1, 1)
    for seq in (1, 2):
        tail.record([Entry(7, Counts(seq, 0, 0, 0), (large,))], {})
    assert (seqs(tail, 7, 0), seqs(tail, 7, 1)) == ([1], [2])


def test_a_cursor_before_what_is_kept_or_at_its_end_needs_the_log() -> None:
    tail = kept(4, 5, 6)
    assert seqs(tail, 7, 2) is None
    assert seqs(tail, 7, 6) is None
    assert seqs(Tail(100), 7, 0) is None


def test_a_gap_makes_what_was_before_it_useless() -> None:
    tail = kept(4, 5, 8)
    assert seqs(tail, 7, 4) is None
    assert seqs(tail, 7, 7) == [8]


def test_nobody_elses_entries_are_kept_and_a_user_who_left_is_forgotten() -> None:
    tail = kept(1)
    tail.record([entry(8, 1)], {8: Counts(1, 0, 0, 0)})
    assert seqs(tail, 8, 0) is None
    assert tail.counts(8) is None
    tail.forget(7)
    assert 7 not in tail
    assert (seqs(tail, 7, 0), tail.counts(7)) == (None, None)
    tail.follow(7)
    assert seqs(tail, 7, 0) is None


def test_the_oldest_go_first_when_the_budget_is_spent() -> None:
    size = entry(7, 1).size
    tail = kept(1, 2, 3, 4, budget=2 * size)
    assert seqs(tail, 7, 1) is None
    assert seqs(tail, 7, 2) == [3, 4]
    tail.forget(7)
    tail.follow(7)
    tail.record([entry(7, number) for number in (5, 6)], {})
    assert seqs(tail, 7, 4) == [5, 6]


def test_no_budget_keeps_nothing() -> None:
    assert seqs(kept(1, 2, budget=0), 7, 1) is None


def test_what_was_read_from_the_log_late_neither_doubles_nor_sets_back() -> None:
    tail = kept(4, 5, 6)
    tail.record([entry(7, number) for number in (3, 5, 6)], {7: Counts(5, 9, 9, 0)})
    assert seqs(tail, 7, 3) == [4, 5, 6]
    assert tail.counts(7) == Counts(6, 0, 0, 0)
    tail.record([], {7: Counts(6, 0, 0, 2)})
    assert tail.counts(7) == Counts(6, 0, 0, 2)


def long_text(character: str, length: int = 4000) -> str:
    """Return a text of its own, as a row of the database brings one: a literal would be shared."""
    return "".join([character] * length)


def new_item(seq: int, text: str | None, number: int = 1) -> Item:
    """Return an item with nothing that another one has."""
    data = None if text is None else f'{{"k":"{text}"}}'
    title, category = long_text(text[0] if text else "t", 200), long_text("c", 64)
    content = Content(str(uuid4()), title, text, category, long_text("normal", 1), None, data, 10**12 + seq)
    return Item(content, 10**9 + number, 10**9 + seq, 10**12 + number, 10**12 + number + 1)


def encoded(user_id: int, seq: int, items: list[Item]) -> Entry:
    entry = Entry(user_id, Counts(seq, 10**6, 10**6, 0), items, fresh=len(items) == 1)
    assert entry.message
    return entry


class Held:
    """The bytes that are held since the block began."""

    def __enter__(self) -> Self:
        items._encode_content.cache_clear()
        tracemalloc.start()
        return self

    def bytes(self) -> int:
        items._encode_content.cache_clear()
        return tracemalloc.get_traced_memory()[0]

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


@pytest.mark.no_cover  # It measures memory, of which the tracer takes some.
@pytest.mark.parametrize("number", [1, 28])
@pytest.mark.parametrize("text", ["", "x", "\n", '"', "\x01", "é", "€", "😀", "😀\x01"], ids=ascii)
def test_an_entry_never_holds_more_than_its_size(text: str, number: int) -> None:
    with Held() as held:
        items = [new_item(1, long_text(text) if text else None, one) for one in range(number)]
        entry = encoded(7, 10**9, items)
        assert held.bytes() <= entry.size


@pytest.mark.no_cover
def test_what_a_tail_holds_is_within_its_budget_whichever_items_a_change_begins_with() -> None:
    budget = 4 * 1024 * 1024
    tail = Tail(budget)
    with Held() as held:
        for user_id in (7, 8):
            tail.follow(user_id)
        for seq in range(1, 21):
            for user_id in (7, 8):
                items = [new_item(seq, long_text("é") if one else None, one) for one in range(28)]
                tail.record([encoded(user_id, seq, items)], {})
        del items
        assert budget / 4 < held.bytes() <= budget
        assert seqs(tail, 7, 19) == [20]
        tail.forget(7)
        tail.forget(8)
        assert held.bytes() < 10_000


def test_what_a_forgotten_user_held_is_left_to_the_others_at_once() -> None:
    tail = shared(8, 8, 7, 7)
    tail.forget(7)
    tail.record([entry(8, 3), entry(8, 4)], {})
    assert seqs(tail, 8, 0) == [1, 2, 3, 4]
    tail.follow(7)
    tail.record([entry(7, 5)], {})
    assert (seqs(tail, 8, 0), seqs(tail, 8, 1), seqs(tail, 7, 4)) == (None, [2, 3, 4], [5])


def test_what_is_before_a_gap_is_left_to_the_others_too() -> None:
    tail = shared(8, 8, 7, 7)
    tail.record([entry(7, 5), entry(8, 3)], {})
    assert (seqs(tail, 7, 4), seqs(tail, 8, 0)) == ([5], [1, 2, 3])


def shared(*users: int) -> Tail:
    """Return a tail that has room for as many entries as these users get."""
    tail = Tail(len(users) * entry(7, 1).size)
    for user_id in set(users):
        tail.follow(user_id)
    for index, user_id in enumerate(users):
        tail.record([entry(user_id, 1 + users[:index].count(user_id))], {})
    return tail


def test_users_who_come_and_go_leave_nothing_behind() -> None:
    tail = Tail(10**9)
    tail.follow(8)
    tail.record([entry(8, 1)], {})
    with Held() as held:
        for seq in range(1, 20_001):
            tail.follow(7)
            tail.record([entry(7, seq)], {})
            tail.forget(7)
        assert held.bytes() < 3_000_000
    assert seqs(tail, 8, 0) == [1]
