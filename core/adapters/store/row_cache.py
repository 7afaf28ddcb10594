"""Rows in memory that are read far more often than written: whose IMSI it is, what a SIM may do.

Rules: only for a store that this process alone writes; a row is kept only if nobody began or ended to write
it while it was read, so whoever asks after a write was answered never sees what was before it. What is not
there is not kept: strangers must not crowd out those who are known.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from core.adapters.store.checksums import is_damaged
from core.adapters.store.engine import Batch, Row, RowKey
from core.adapters.store.tables import Table

HOT_ROWS_MAX = 200_000
"""Beyond it all are forgotten and read again."""

_Place = tuple[str, RowKey]


def is_hot(table: Table, key: RowKey) -> bool:
    """Whether the table's declaration wants such rows kept."""
    prefix = table.hot
    return prefix is not None and key.clustering[: len(prefix)] == prefix


def _nothing() -> None:
    """Nothing that is kept was written."""


class RowCache:
    """The rows, and what is being read and written of them just now."""

    def __init__(self) -> None:
        self._rows: dict[_Place, Row] = {}
        self._reading: dict[_Place, object] = {}
        self._writing: Counter[_Place] = Counter()

    def get(self, table: Table, key: RowKey) -> Row | None:
        """The row, if it is kept."""
        return self._rows.get((table.name, key))

    def begin_read(self, table: Table, key: RowKey) -> object:
        """It is read from below now; what comes back is for ``end_read``."""
        token = object()
        self._reading[table.name, key] = token
        return token

    def end_read(self, table: Table, key: RowKey, token: object, row: Row | None) -> None:
        """It was read; keep it if nothing came in between."""
        place = (table.name, key)
        if self._reading.get(place) is not token:
            return
        del self._reading[place]
        if row is not None and place not in self._writing and not is_damaged(row):
            if len(self._rows) >= HOT_ROWS_MAX:
                self._rows.clear()
            self._rows[place] = row

    def begin_write(self, batches: Iterable[Batch]) -> Callable[[], None]:
        """These are written now; call what comes back when that is over, however it ended."""
        places = [
            (batch.table.name, RowKey(batch.partition, write.clustering))
            for batch in batches
            if (hot := batch.table.hot) is not None
            for write in batch.writes
            if write.clustering[: len(hot)] == hot
        ]
        if not places:
            return _nothing
        self._forget(places)
        self._writing.update(places)

        def end_write() -> None:
            self._forget(places)
            for place in places:
                self._writing[place] -= 1
                if not self._writing[place]:
                    del self._writing[place]

        return end_write

    def _forget(self, places: list[_Place]) -> None:
        for place in places:
            self._rows.pop(place, None)
            self._reading.pop(place, None)
