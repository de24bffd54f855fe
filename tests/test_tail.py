"""The newest entries in memory: what it has is without a gap, and what it has not is read from the log."""

from gateway.log import Entry
from gateway.protocol import Content, Counts, Item
from gateway.tail import BURST_BYTES, Tail

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
