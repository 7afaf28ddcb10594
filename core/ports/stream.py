"""A stream of records in shards, with Kinesis' meaning of the words.

Rules:

- ``put`` returns when each accepted record is durable; a record that was not accepted says why, and its
  neighbours are not touched by it. Within one call and one partition key, order is kept.
- A record's shard is where MD5(partition key), as a 128-bit number, falls in the shards' hash ranges.
- Sequence numbers rise within a shard; they are decimal text and compared as numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol

from core.domain.message import StreamRecord

RECORDS_PER_PUT_MAX = 500
"""Kinesis PutRecords takes at most this many records a call."""
RECORD_BYTES_MAX = 1_048_576
"""Data and partition key of one record together."""
PUT_BYTES_MAX = 5_242_880
"""All records of one call together."""


class PutResult(NamedTuple):
    """What became of one record: a place in a shard, or an error code (``error`` non-empty).

    ``is_poison``: the stream will never take this record, however often it is put.
    """

    shard_id: str = ""
    sequence_number: str = ""
    error: str = ""
    is_poison: bool = False


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it is read back."""

    shard_id: str
    sequence_number: str
    partition_key: str
    data: bytes
    arrived: datetime


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard and its range of hash keys, both ends included.

    A shard that was split or merged is no longer ``is_open``: it takes nothing in, what it holds can be read.
    ``parents`` are the shards that it came of; their records come before its own.
    """

    shard_id: str
    hash_key_start: int
    hash_key_end: int
    parents: tuple[str, ...] = ()
    is_open: bool = True


class IteratorType(Enum):
    """Where reading begins (Kinesis ShardIteratorType)."""

    TRIM_HORIZON = "TRIM_HORIZON"
    LATEST = "LATEST"
    AT_SEQUENCE_NUMBER = "AT_SEQUENCE_NUMBER"
    AFTER_SEQUENCE_NUMBER = "AFTER_SEQUENCE_NUMBER"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Some records of one shard in order, and the iterator to go on from; empty where a closed one ends.

    ``lost``: records among or before these that are damaged and were passed over, at least so many.
    """

    records: tuple[StoredRecord, ...]
    next_iterator: str
    lost: int = 0


class Stream(Protocol):
    """One named stream."""

    @property
    def keeps_order(self) -> bool:
        """Whether a record that ``put`` did not accept has nothing accepted behind it in its call.

        Then several records of one key may share a call; Kinesis promises no such thing.
        """
        ...

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """Store records; one result each, in their order. At most 500 records and 5 MiB a call.

        Raises ``Unavailable`` when nothing is known of any of them.
        """
        ...

    async def shards(self) -> Sequence[Shard]:
        """Every shard that can be read, by id; raises ``SourceGone``, ``Unavailable``."""
        ...

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """An opaque iterator to start from.

        Raises ``PositionLost`` for a sequence number that is none of this shard's, lies beyond its end, or
        when what comes after it was trimmed; ``SourceGone`` for a shard that is not there; ``Unavailable``.
        """
        ...

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """Up to ``limit`` records from there; empty when there is nothing yet.

        Raises ``PositionLost`` when what comes next was trimmed, ``SourceGone``, ``Unavailable``; an iterator
        expires: make another one after the last record.
        """
        ...

    async def aclose(self) -> None:
        """Finish what was accepted, then let go; idempotent."""
        ...
