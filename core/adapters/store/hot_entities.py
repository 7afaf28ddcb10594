"""Entities in memory that are read far more often than written: whose IMSI it is, what a SIM may do.

Rules: only for a store that this process alone writes; an entity is kept only if no write of its row began
or ended while it was read, so a read after a write was answered never returns what was before it. What is not
there is not kept: unknown IMSIs must not crowd out the known.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from core.adapters.store.tables import Table

HOT_ENTITIES_MAX = 100_000
"""Of one table; beyond it all of that table are forgotten and read again."""

_Key = tuple[str | int | bytes, ...]
Place = tuple[_Key, _Key]
"""Partition and clustering key."""
HotKey = tuple[str, Place]
"""Name of the table, and place."""


class HotEntities:
    """The entities, by table, and what is being read and written of them just now."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[Place, Any]] = {}
        self._reading: dict[HotKey, object] = {}
        self._writing: Counter[HotKey] = Counter()

    def kept_of(self, table: Table) -> dict[Place, Any]:
        """What is kept of a table; to look at, not to change."""
        return self._kept.setdefault(table.name, {})

    def begin_read(self, table: Table, places: Sequence[Place]) -> object:
        """Their rows are read now; the token is for ``end_read``."""
        token = object()
        for place in places:
            self._reading[table.name, place] = token
        return token

    def end_read(
        self, table: Table, places: Sequence[Place], token: object, entities: Sequence[object]
    ) -> None:
        """They were read, or none if there are no entities; each is kept if nothing came in between."""
        kept, reading = self._kept[table.name], self._reading
        for at, place in enumerate(places):
            key = (table.name, place)
            if reading.get(key) is not token:
                continue
            del reading[key]
            if entities and entities[at] is not None and key not in self._writing:
                if len(kept) >= HOT_ENTITIES_MAX:
                    kept.clear()
                kept[place] = entities[at]

    def begin_write(self, keys: Sequence[HotKey]) -> Callable[[], None]:
        """These are written now; the caller calls what is returned when that is over, however it ended."""
        self._forget(keys)
        self._writing.update(keys)

        def end_write() -> None:
            self._forget(keys)
            for key in keys:
                self._writing[key] -= 1
                if not self._writing[key]:
                    del self._writing[key]

        return end_write

    def _forget(self, keys: Sequence[HotKey]) -> None:
        for name, place in keys:
            self._kept.get(name, {}).pop(place, None)
            self._reading.pop((name, place), None)
