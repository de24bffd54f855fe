"""How long what has failed waits before it is tried again."""

import pytest

from gateway.observability.backoff import pause_after, spread


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 4), (10_000, 4)]
)
def test_the_pause_doubles_with_each_failure_up_to_a_maximum(failures: int, seconds: float) -> None:
    assert pause_after(failures, 0.1, 4) == pytest.approx(seconds)


def test_simultaneous_failures_wait_different_times_from_half_to_the_full_pause() -> None:
    pauses = {spread(4) for _ in range(100)}
    assert len(pauses) > 50
    assert all(2 <= pause <= 4 for pause in pauses)
