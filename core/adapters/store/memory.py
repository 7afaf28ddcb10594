"""The store in memory, for tests and simulations: the same meaning as every other engine.

Rules: what a call wrote is on the ``Disk`` when it returns; a crash is throwing the engine away and opening
another one on the same ``Disk``. No thread, no file, no clock but the port.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Awaitable, Generator, Sequence
from dataclasses import dataclass, field
from types import coroutine

from msgspec import Struct

from core.adapters.store.engine import (
    SCAN_ROWS_MAX,
    Batch,
    Key,
    Put,
    Row,
    RowKey,
    check_scan,
    check_unconditional,
    expiry_us,
    holds,
    hot_keys,
    microseconds,
)
from core.adapters.store.hot_entities import HotEntities
from core.adapters.store.tables import Table
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock


class _Stored(Struct, frozen=True, gc=False):
    row: Row
    written_us: int
    expires_us: int


@dataclass(slots=True)
class _Partition:
    rows: dict[Key, _Stored] = field(default_factory=dict)
    order: list[Key] = field(default_factory=list)


class Disk:
    """What survives a crash."""

    def __init__(self) -> None:
        self.partitions: defaultdict[tuple[str, Key], _Partition] = defaultdict(_Partition)


class MemoryEngine:
    """Implements ``Engine`` over dictionaries on a ``Disk``, which other engines may share."""

    def __init__(self, *, disk: Disk, clock: Clock, is_shared: bool = True) -> None:
        self.hot = None if is_shared else HotEntities()
        self._disk = disk
        self._clock = clock
        self._is_closed = False

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """The rows with these keys."""
        await self._turn()
        partitions = self._disk.partitions
        return [self._live(partitions.get((table.name, key.partition)), key.clustering) for key in keys]

    async def scan(
        self,
        table: Table,
        partition: Key,
        *,
        prefix: Key = (),
        above: Key = (),
        below: Key = (),
        limit: int = SCAN_ROWS_MAX,
        reverse: bool = False,
    ) -> Sequence[Row]:
        """Rows of one partition in clustering order."""
        check_scan(table, prefix, above, below, limit)
        await self._turn()
        found: list[Row] = []
        stored = self._disk.partitions.get((table.name, partition), _Partition())
        for key in reversed(stored.order) if reverse else stored.order:
            if len(found) == limit:
                break
            if _is_within(key, prefix, above, below) and (row := self._live(stored, key)):
                found.append(row)
        return found

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """Rows of several partitions."""
        return [await self.scan(table, each, prefix=prefix, limit=limit) for each in partitions]

    async def write(self, *batches: Batch) -> None:
        """Write batches in this order."""
        keys = hot_keys(batches) if self.hot is not None else None
        on_end = self.hot.begin_write(keys) if self.hot is not None and keys else None
        try:
            await self._turn()
            for batch in batches:
                self._apply(batch)
        finally:
            if on_end is not None:
                on_end()

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write unconditional batches."""
        check_unconditional(batches)
        await self.write(*batches)

    async def aclose(self) -> None:
        """Refuse every later call."""
        self._is_closed = True

    def _turn(self) -> Awaitable[None]:
        # Others run between a call and its effect, as they do before a store that takes time.
        if self._is_closed:
            raise Unavailable("the store is closed")
        return _let_others_run()

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    def _live(self, partition: _Partition | None, clustering: Key) -> Row | None:
        stored = partition.rows.get(clustering) if partition is not None else None
        if stored is None or (stored.expires_us and stored.expires_us <= self._now_us()):
            return None
        return stored.row

    def _apply(self, batch: Batch) -> None:
        table, partition = batch.table, self._disk.partitions[batch.table.name, batch.partition]
        if (condition := batch.condition) is not None:
            row = self._live(partition, condition.clustering)
            if not holds(condition, row.version if row else None):
                raise StaleVersion(f"{table.name} {batch.partition} {condition.clustering}")
        now_us = self._now_us() if table.ttl_s else 0
        for write in batch.writes:
            if type(write) is Put:
                _put(table, partition, write, now_us)
            elif partition.rows.pop(write.clustering, None):
                partition.order.remove(write.clustering)


def _put(table: Table, partition: _Partition, put: Put, now_us: int) -> None:
    rows = partition.rows
    if put.clustering not in rows:
        insort(partition.order, put.clustering)
    elif put.timestamp_us is not None and put.timestamp_us <= rows[put.clustering].written_us:
        return
    row = Row(put.clustering, put.values, put.version)
    expires_us = expiry_us(table, put, now_us) if table.ttl_s else put.expires_us
    rows[put.clustering] = _Stored(row, put.timestamp_us or 0, expires_us)


@coroutine
def _let_others_run() -> Generator[None, None, None]:
    yield


def _is_within(key: Key, prefix: Key, above: Key, below: Key) -> bool:
    rest = key[len(prefix) :]
    return (
        key[: len(prefix)] == prefix
        and (not above or rest[: len(above)] > above)
        and (not below or rest[: len(below)] < below)
    )
