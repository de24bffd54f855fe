"""Groups of connections under a key: those of a user, and those of a session."""

from collections.abc import Collection, Iterator, KeysView
from typing import Generic, TypeVar

K = TypeVar("K")
M = TypeVar("M")


class Groups(Generic[K, M]):
    """A set of members for each key that has any. A member is no set and no tuple.

    Nearly all groups have one member. A set for it would outweigh everything else that is kept for it, so
    the member itself stands under its key.
    """

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[K, M | set[M]] = {}

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._members)

    def __iter__(self) -> Iterator[K]:
        return iter(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def of(self, key: K) -> Collection[M]:
        """Return the members under a key. The collection may change when the group does."""
        found = self._members.get(key, ())
        return found if isinstance(found, set | tuple) else (found,)

    def keys(self) -> KeysView[K]:
        """Return the keys that have members, as a view."""
        return self._members.keys()

    def add(self, key: K, member: M) -> None:
        """Add a member under a key."""
        others = self._members.setdefault(key, member)
        if others is member:
            return
        if isinstance(others, set):
            others.add(member)
        else:
            self._members[key] = {others, member}

    def remove(self, key: K, member: M) -> None:
        """Remove a member. Raises KeyError if it isn't under this key."""
        others = self._members[key]
        if others is member:
            del self._members[key]
        elif isinstance(others, set):
            others.remove(member)
            if not others:
                del self._members[key]
        else:
            raise KeyError(member)
