"""How long what has failed waits before it is tried again."""

import pytest

from gateway.observability.backoff import pause_after, spread


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 4), (10_000, 4)]
)
def test_a_pause_doubles_with_each_failure_up_to_the_longest(failures: int, seconds: float) -> None:
    assert pause_after(failures, 0.1, 4) == pytest.approx(seconds)


def test_those_who_failed_together_wait_half_of_the_pause_or_more_and_not_equally_long() -> None:
    pauses = {spread(4) for _ in range(100)}
    assert len(pauses) > 50
    assert all(2 <= pause <= 4 for pause in pauses)
