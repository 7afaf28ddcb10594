"""What an engine does: rows of partitions, and one atomic batch in one partition at a time.

Rules:

- A ``Batch`` names its table and partition once, so that it cannot span two; it is checked when it is made,
  and a malformed batch raises ``LocalProtocolError``: a bug on this side, never an answer of the far side.
- An expired row is absent: for a read, a scan and a condition.
- An engine is a plain class behind ``Engine``; a class with these methods can wrap another engine (a
  simulation's slow or failing store).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from msgspec import Struct

from core.adapters.store.hot_entities import HotEntities, HotKey
from core.adapters.store.tables import Column, Table
from core.errors import LocalProtocolError

Value = str | int | bytes
Key = tuple[Value, ...]

BATCH_WRITES_MAX = 100
"""Rows of one batch; Cassandra refuses batches above 50 kB."""
SCAN_ROWS_MAX = 1_001
"""Rows of one scan: the largest page and one more, which shows whether another page follows."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BIGINT_MAX = 2**63 - 1


class RowKey(Struct, frozen=True, gc=False):
    """Where a row is: partition key and clustering key, both whole."""

    partition: Key
    clustering: Key = ()


class Row(Struct, frozen=True, gc=False):
    """A row as read."""

    clustering: Key
    values: Key
    version: int


class Put(Struct, frozen=True, gc=False):
    """Write a row whole.

    With ``timestamp_us`` the row with the highest one stays (USING TIMESTAMP); of two different rows with
    the same one either may stay, so callers never write such rows. ``expires_us`` is the time of expiry in
    microseconds since 1970; 0: by the table's ``ttl_s``.
    """

    clustering: Key
    values: Key
    version: int = 0
    timestamp_us: int | None = None
    expires_us: int = 0


class Delete(Struct, frozen=True, gc=False):
    """Remove a row; idempotent."""

    clustering: Key


class Condition(Struct, frozen=True, gc=False):
    """The row must be there with this version; 0: must not be there."""

    clustering: Key
    version: int


class Batch(Struct, frozen=True):
    """Writes to one partition, atomic and only if the condition holds."""

    table: Table
    partition: Key
    writes: tuple[Put | Delete, ...]
    condition: Condition | None = None

    def __post_init__(self) -> None:
        table, writes, condition = self.table, self.writes, self.condition
        partition, clustering, columns = table.types
        if tuple(map(type, self.partition)) != partition or "" in self.partition:
            raise _malformed(table, table.partition, self.partition)
        if table.bigints[0]:
            _check_range(table, table.bigints[0], self.partition)
        if not 0 < len(writes) <= BATCH_WRITES_MAX:
            raise LocalProtocolError(f"{table.name}: a batch of {len(writes)} writes")
        for write in writes:
            key = write.clustering
            if type(write) is Put:
                row = key + write.values
                if tuple(map(type, row)) != columns or "" in key:
                    raise _malformed(table, table.clustering + table.values, row)
                if condition is not None and write.timestamp_us is not None:
                    raise LocalProtocolError(f"{table.name}: a condition excludes a timestamp")
                if table.bigints[1]:
                    _check_range(table, table.bigints[1], row)
            elif tuple(map(type, key)) != clustering or "" in key:
                raise _malformed(table, table.clustering, key)
        if condition is not None:
            if tuple(map(type, condition.clustering)) != clustering or "" in condition.clustering:
                raise _malformed(table, table.clustering, condition.clustering)
            if condition.version and all(write.clustering != condition.clustering for write in writes):
                raise LocalProtocolError(f"{table.name}: a version is demanded of a row that is not written")


class Engine(Protocol):
    """A store of partitions."""

    @property
    def hot(self) -> HotEntities | None:
        """What is kept of it in memory; ``None``: other processes write it, too."""
        ...

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """The rows with these keys, in their order. Raises ``Unavailable``."""
        ...

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
        """Rows of one partition in clustering order, at most ``limit`` (1–``SCAN_ROWS_MAX``).

        ``prefix`` fixes the first clustering columns; ``above`` and ``below`` bound the columns after it,
        both exclusive, comparing as many columns as they name. Raises ``Unavailable``.
        """
        ...

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """``scan`` of several partitions in one read, in their order. Raises ``Unavailable``."""
        ...

    async def write(self, *batches: Batch) -> None:
        """Write batches in this order, each atomic; durable on return.

        Raises ``StaleVersion`` when a batch's condition fails: those before it stay, it and those after it
        are not written. After ``Unavailable`` a first part of them may be written if it is ambiguous.
        """
        ...

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write unconditional batches in any order, each atomic; durable on return."""
        ...

    async def aclose(self) -> None:
        """Finish what was accepted, then let go; idempotent."""
        ...


def check_scan(table: Table, prefix: Key, above: Key, below: Key, limit: int) -> None:
    """Raise ``LocalProtocolError`` for a scan that names columns the table does not have."""
    longest = len(prefix) + max(len(above), len(below))
    if longest > len(table.clustering) or not 1 <= limit <= SCAN_ROWS_MAX:
        raise LocalProtocolError(f"{table.name}: a scan of {longest} columns, {limit} rows")


def check_unconditional(batches: Sequence[Batch]) -> None:
    """Raise ``LocalProtocolError`` if one has a condition."""
    for batch in batches:
        if batch.condition is not None:
            raise LocalProtocolError(f"{batch.table.name}: a condition needs an order")


def hot_keys(batches: Sequence[Batch]) -> list[HotKey]:
    """Which hot rows are written."""
    return [
        (batch.table.name, (batch.partition, write.clustering))
        for batch in batches
        if (hot := batch.table.hot) is not None
        for write in batch.writes
        if not hot or write.clustering[0] == hot
    ]


def holds(condition: Condition, version: int | None) -> bool:
    """Whether a condition holds for a row of this version (``None``: no row)."""
    return version is None if condition.version == 0 else version == condition.version


def microseconds(at: datetime) -> int:
    """Since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def expiry_us(table: Table, put: Put, now_us: int) -> int:
    """When the row's life ends; 0: never."""
    if put.expires_us or not table.ttl_s:
        return put.expires_us
    return now_us + table.ttl_s * 1_000_000


def _check_range(table: Table, bigints: tuple[int, ...], values: Key) -> None:
    for at in bigints:
        if not -_BIGINT_MAX <= values[at] <= _BIGINT_MAX:  # type: ignore[operator]  # its type was looked at
            raise LocalProtocolError(f"{table.name}: {values[at]!r} exceeds 64 bits")


def _malformed(table: Table, columns: tuple[Column, ...], values: Key) -> LocalProtocolError:
    wanted = ", ".join(f"{column.name} {column.type.cql}" for column in columns)
    return LocalProtocolError(f"{table.name}: {values!r} for ({wanted}), of whose key nothing may be empty")
