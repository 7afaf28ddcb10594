"""A stream in memory, over a disk that outlives it.

Rules: the meaning is ``LogStream``'s; what ``put`` returned as accepted is on the disk, what it has not yet
returned may be or not. A simulated crash drops the ``MemoryStream`` and makes another over the same disk.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from core.adapters.stream.rules import (
    THROTTLED,
    ShardMap,
    check_limit,
    check_put,
    start_position,
)
from core.domain.message import StreamRecord
from core.errors import ConfigurationError, Unavailable
from core.ports.clock import Clock
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, StoredRecord

DISK_RECORDS_MAX = 4_000_000
"""Records that one disk accepts; further puts are throttled."""


@dataclass(slots=True)
class MemoryDisk:
    """What survives a crash: each shard's records."""

    shards: list[list[StoredRecord]] = field(default_factory=list)
    records_max: int = DISK_RECORDS_MAX

    @property
    def record_count(self) -> int:
        """Records in all shards."""
        return sum(map(len, self.shards))


class MemoryStream:
    """Implements ``Stream``; ``latency_s`` passes before a put is stored."""

    def __init__(self, *, disk: MemoryDisk, clock: Clock, shards: int = 4, latency_s: float = 0.0) -> None:
        if not disk.shards:
            disk.shards.extend([] for _ in range(shards))
        if len(disk.shards) != shards:
            raise ConfigurationError(
                f"stream.shards: {shards}, but the stream has {len(disk.shards)} shards; set it to that"
            )
        self._disk = disk
        self._clock = clock
        self._map = ShardMap(shards)
        self._latency_s = latency_s
        self._closed = False

    keeps_order = True

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """Store records, all at one instant."""
        check_put(records)
        await asyncio.sleep(self._latency_s)
        if self._closed:
            raise Unavailable("the stream is closed")
        room = self._disk.records_max - self._disk.record_count
        now = self._clock.now()
        stored = [self._append(record, now) for record in records[:room]]
        return stored + [PutResult(error=THROTTLED)] * (len(records) - len(stored))

    async def shards(self) -> Sequence[Shard]:
        """The shards, by hash range."""
        return self._map.shards

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """An opaque iterator to start from; raises ``PositionLost``, ``SourceGone``."""
        shard = self._disk.shards[self._map.index_of_source(shard_id)]
        position = start_position(kind, sequence_number, next_position=len(shard) + 1)
        return self._map.iterator(shard_id, position)

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """Up to ``limit`` records from there."""
        check_limit(limit)
        index, position = self._map.resolve(iterator)
        first = max(position, 1)
        records = tuple(self._disk.shards[index][first - 1 : first - 1 + limit])
        following = self._map.iterator(self._map.shards[index].shard_id, first + len(records))
        return ReadResult(records, following)

    async def aclose(self) -> None:
        """Let go; idempotent."""
        self._closed = True

    def _append(self, record: StreamRecord, now: datetime) -> PutResult:
        index = self._map.index_of_key(record.partition_key)
        shard_id = self._map.shards[index].shard_id
        shard = self._disk.shards[index]
        number = str(len(shard) + 1)
        shard.append(
            StoredRecord(shard_id, number, record.partition_key, record.data, now),
        )
        return PutResult(shard_id, number)
