"""Groups of members under keys."""

import pytest

from gateway.delivery.groups import Groups


def test_a_group_has_its_members_until_the_last_one_is_removed() -> None:
    groups: Groups[int, str] = Groups()
    assert (groups.of(1), 1 in groups, len(groups), list(groups)) == ((), False, 0, [])
    groups.add(1, "a")
    groups.add(1, "a")
    assert (list(groups.of(1)), 1 in groups, list(groups.keys())) == (["a"], True, [1])
    groups.add(1, "b")
    groups.add(2, "c")
    assert (set(groups.of(1)), list(groups.of(2)), len(groups)) == ({"a", "b"}, ["c"], 2)
    groups.remove(1, "a")
    assert list(groups.of(1)) == ["b"]
    groups.add(1, "d")
    assert set(groups.of(1)) == {"b", "d"}
    groups.remove(1, "b")
    groups.remove(1, "d")
    assert (list(groups.of(1)), 1 in groups, list(groups)) == ([], False, [2])


def test_a_member_that_is_not_in_its_group_cannot_be_removed() -> None:
    groups: Groups[int, str] = Groups()
    with pytest.raises(KeyError):
        groups.remove(1, "a")
    groups.add(1, "a")
    with pytest.raises(KeyError):
        groups.remove(1, "b")
    groups.add(1, "b")
    with pytest.raises(KeyError):
        groups.remove(1, "c")
    assert set(groups.of(1)) == {"a", "b"}
