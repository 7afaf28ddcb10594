"""What every embedded stream has in common: hash ranges, the limits of a put, iterators.

Rules: a put that breaks a limit of Kinesis' PutRecords raises ``ValueError`` and stores nothing, for there
the whole call is refused (ValidationException, InvalidArgumentException); what only fails for some
records comes back as their errors. An iterator is opaque to its user and holds no state here.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence

from core.domain.message import StreamRecord
from core.errors import PositionLost, SourceGone
from core.ports.stream import (
    PUT_BYTES_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_PUT_MAX,
    IteratorType,
    Shard,
)

PARTITION_KEY_CHARACTERS_MAX = 256
HASH_KEYS = 1 << 128
READ_RECORDS_MAX = 10_000
"""GetRecords' greatest limit."""
THROTTLED = "ProvisionedThroughputExceededException"
FAILED = "InternalFailure"


def shard_ranges(count: int) -> tuple[Shard, ...]:
    """``count`` shards that share the 128-bit hash keys evenly, as CreateStream does."""
    width = HASH_KEYS // count
    ends = [width * (n + 1) - 1 for n in range(count - 1)] + [HASH_KEYS - 1]
    return tuple(Shard(f"shardId-{n:012d}", width * n, end) for n, end in enumerate(ends))


def hash_key(partition_key: str) -> int:
    """MD5 of the key as a 128-bit number."""
    return int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest(), "big")


class ShardMap:
    """Which shard a partition key falls into, and which shard an id or an iterator names."""

    def __init__(self, count: int) -> None:
        self.shards = shard_ranges(count)
        self._starts = [shard.hash_key_start for shard in self.shards]
        self._indexes = {shard.shard_id: n for n, shard in enumerate(self.shards)}

    def index_of_key(self, partition_key: str) -> int:
        """The shard's index."""
        return bisect_right(self._starts, hash_key(partition_key)) - 1

    def index_of_shard(self, shard_id: str) -> int:
        """The shard's index; raises ``ValueError`` for an unknown id."""
        index = self._indexes.get(shard_id)
        if index is None:
            raise ValueError(f"no shard {shard_id!r}")
        return index

    def index_of_source(self, shard_id: str) -> int:
        """The same for an id that is not ours; raises ``SourceGone``."""
        try:
            return self.index_of_shard(shard_id)
        except ValueError as error:
            raise SourceGone(str(error)) from None

    def iterator(self, shard_id: str, position: int) -> str:
        """An iterator to the record with this number, or the first one after it."""
        self.index_of_shard(shard_id)
        return f"{shard_id}:{position}"

    def resolve(self, iterator: str) -> tuple[int, int]:
        """Shard index and position; raises ``ValueError`` for what we did not give out."""
        shard_id, _, position = iterator.rpartition(":")
        return self.index_of_shard(shard_id), parse_sequence_number(position)


def start_position(kind: IteratorType, text: str, *, next_position: int) -> int:
    """Where an iterator of this kind begins; ``next_position`` is the number of the next record to come.

    Raises ``PositionLost`` when a sequence number is needed and is none, or one not yet given out.
    """
    if kind is IteratorType.TRIM_HORIZON:
        return 0
    if kind is IteratorType.LATEST:
        return next_position
    try:
        number = parse_sequence_number(text)
    except ValueError as error:
        raise PositionLost(str(error)) from None
    if number >= next_position:
        raise PositionLost(f"no record has sequence number {text}")
    return number + 1 if kind is IteratorType.AFTER_SEQUENCE_NUMBER else number


def parse_sequence_number(text: str) -> int:
    """A sequence number as the number it is; raises ``ValueError``."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ValueError(f"not a sequence number: {text[:40]!r}")
    return int(text)


def check_put(records: Sequence[StreamRecord]) -> list[int]:
    """Each record's bytes, key and data; raises ``ValueError`` for a call that breaks PutRecords' limits."""
    if not 1 <= len(records) <= RECORDS_PER_PUT_MAX:
        raise ValueError(f"{len(records)} records in one put; 1 to {RECORDS_PER_PUT_MAX} are allowed")
    sizes: list[int] = []
    for record in records:
        if not 1 <= len(record.partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
            raise ValueError(f"a partition key has 1 to {PARTITION_KEY_CHARACTERS_MAX} characters")
        size = len(record.partition_key.encode()) + len(record.data)
        if size > RECORD_BYTES_MAX:
            raise ValueError(f"a record of {size} bytes; at most {RECORD_BYTES_MAX}")
        sizes.append(size)
    total = sum(sizes)
    if total > PUT_BYTES_MAX:
        raise ValueError(f"{total} bytes in one put; at most {PUT_BYTES_MAX}")
    return sizes


def check_limit(limit: int) -> None:
    """Raise ``ValueError`` for a read of nothing or of too many records at once."""
    if not 1 <= limit <= READ_RECORDS_MAX:
        raise ValueError(f"limit {limit}; 1 to {READ_RECORDS_MAX} are allowed")
