"""Bounded tables that many parties fill: a party's flood takes its own places, not the others'.

Rule: one party has ``PART_OF_ONE`` of the places at most; the rest is always for the others.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

PART_OF_ONE = 0.75
"""The share of the places that one party may have: most, as many installations have a single party."""

Key = TypeVar("Key")
Value = TypeVar("Value")


def share_of(capacity: int) -> int:
    """The most places of one party."""
    return max(1, int(capacity * PART_OF_ONE))


class Places:
    """Places; when there is none left, one more is refused."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._share = share_of(capacity)
        self._taken: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many are taken."""
        return self._count

    def is_free(self, party: str) -> bool:
        """Whether there is one for this party."""
        taken = self._taken[party] if party in self._taken else 0
        return self._count < self._capacity and taken < self._share

    def take(self, party: str) -> bool:
        """Take one, if there is one for this party."""
        taken = self._taken[party] if party in self._taken else 0
        if self._count >= self._capacity or taken >= self._share:
            return False
        self._taken[party] = taken + 1
        self._count += 1
        return True

    def give_back(self, party: str) -> None:
        """Return a place that was taken."""
        self._count -= 1
        if self._taken[party] > 1:
            self._taken[party] -= 1
        else:
            del self._taken[party]


class Kept(Generic[Key, Value]):
    """Values by key, in the order in which they were put. Beyond its share a party's own oldest value is
    dropped, beyond ``capacity`` the oldest of all.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._share = share_of(capacity)
        self._items: OrderedDict[Key, tuple[str, Value]] = OrderedDict()
        self._of: dict[str, OrderedDict[Key, None]] = {}

    def __len__(self) -> int:
        """The number of values."""
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def get(self, key: Key) -> Value | None:
        """What is remembered under a key."""
        return self._items[key][1] if key in self._items else None

    def put(self, key: Key, party: str, value: Value) -> Value | None:
        """Set the value of a key; returns the value that is dropped for it."""
        if key in self._items:
            self.pop(key)
        self._items[key] = (party, value)
        if party not in self._of:
            self._of[party] = OrderedDict()
        of_party = self._of[party]
        of_party[key] = None
        if len(of_party) > self._share:
            return self.pop(next(iter(of_party)))
        return self.pop(next(iter(self._items))) if len(self._items) > self._capacity else None

    def values(self) -> Iterator[Value]:
        """All values, the oldest first; do not change the table meanwhile."""
        return (value for _, value in self._items.values())

    def pop(self, key: Key) -> Value | None:
        """Remove a key; returns its value."""
        item = self._items.pop(key, None)
        if item is None:
            return None
        party, value = item
        of_party = self._of[party]
        del of_party[key]
        if not of_party:
            del self._of[party]
        return value

    def oldest(self) -> Value | None:
        """The oldest value."""
        return next(iter(self._items.values()))[1] if self._items else None

    def pop_oldest(self) -> Value | None:
        """Remove the oldest value and return it; ``None`` if the table is empty."""
        return self.pop(next(iter(self._items))) if self._items else None
