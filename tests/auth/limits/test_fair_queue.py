"""A queue that callers share: turns, shares, and heavy work that is taken alone."""

import random

from gateway.auth.limits.fair_queue import FairQueue


def filled(*work: tuple[int, int, str]) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(1000)
    for caller, weight, name in work:
        assert queue.put(caller, weight, name)
    return queue


def drained(queue: FairQueue[str], limit: int = 10) -> list[list[str]]:
    batches = []
    while queue:
        batches.append(queue.take(limit))
    return batches


def test_callers_take_turns_and_each_keeps_its_order() -> None:
    queue = filled((1, 1, "a0"), (1, 1, "a1"), (1, 1, "a2"), (2, 1, "b0"), (3, 1, "c0"), (2, 1, "b1"))
    assert drained(queue) == [["a0", "b0", "c0", "a1", "b1", "a2"]]


def test_a_batch_never_exceeds_the_weight_limit_except_for_one_heavy_item() -> None:
    chance = random.Random(1)
    for _ in range(200):
        queue: FairQueue[tuple[int, int]] = FairQueue(10**6)
        put = [(chance.randrange(5), chance.choice([1, 3, 8, 11, 30])) for _ in range(40)]
        for number, (caller, weight) in enumerate(put):
            assert queue.put(caller, weight, (number, weight))
        seen: list[int] = []
        while queue:
            batch = queue.take(10)
            assert batch
            assert sum(weight for _, weight in batch) <= 10 or len(batch) == 1
            seen += [number for number, _ in batch]
        assert sorted(seen) == list(range(40))
        for caller in range(5):
            mine = [number for number in seen if put[number][0] == caller]
            assert mine == sorted(mine)


def test_work_that_does_not_fit_is_first_in_the_next_batch() -> None:
    assert drained(filled((1, 6, "a"), (2, 6, "b"), (3, 4, "c"))) == [["a", "c"], ["b"]]


def test_heavy_work_does_not_run_twice_in_a_row_while_light_work_waits() -> None:
    heavy = [(caller, 50, f"heavy {caller}") for caller in (1, 2, 3)]
    assert drained(filled(*heavy, (4, 1, "light"))) == [["heavy 1"], ["light"], ["heavy 2"], ["heavy 3"]]


def test_one_caller_can_fill_at_most_half_of_the_free_space() -> None:
    queue: FairQueue[int] = FairQueue(1000)
    taken = {caller: sum(queue.put(caller, 1, n) for n in range(2000)) for caller in (1, 2, 3)}
    assert taken == {1: 500, 2: 250, 3: 125}


def test_taking_work_frees_space_in_the_queue() -> None:
    queue: FairQueue[int] = FairQueue(10)
    for _ in range(3):
        assert [queue.put(1, 5, 0), queue.put(1, 5, 0)] == [True, False]
        assert queue.take(10) == [0]
    assert not queue
