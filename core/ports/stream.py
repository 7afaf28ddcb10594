"""A stream of records in shards; terms as in Amazon Kinesis.

Rules:

- ``put`` returns when each accepted record is durable. A rejected record has its reason, and does not affect
  other records. Within one call and one partition key, order is kept.
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
    """The result of one record: a place in a shard, or an error code (``error`` non-empty).

    ``is_poison``: the stream will never accept this record.
    """

    shard_id: str = ""
    sequence_number: str = ""
    error: str = ""
    is_poison: bool = False


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record read from a shard."""

    shard_id: str
    sequence_number: str
    partition_key: str
    data: bytes
    arrived: datetime


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard and its range of hash keys, both ends included.

    A shard that was split or merged is not ``is_open``: it accepts no records, but can be read. ``parents``
    are the shards that it was made from; their records precede its own.
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
    """Some records of one shard in order, and the iterator to continue from; empty at a closed shard's end.

    ``lost``: at least so many damaged records among or before these were skipped.
    """

    records: tuple[StoredRecord, ...]
    next_iterator: str
    lost: int = 0


class Stream(Protocol):
    """One named stream."""

    @property
    def keeps_order(self) -> bool:
        """Whether ``put`` accepts no record after a rejected one in the same call.

        Then several records of one key may share a call. Kinesis does not guarantee this.
        """
        ...

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """Store records; one result each, in their order. At most 500 records and 5 MiB a call.

        Raises ``Unavailable`` when the result of none of them is known.
        """
        ...

    async def shards(self) -> Sequence[Shard]:
        """Every shard that can be read, by id; raises ``SourceGone``, ``Unavailable``."""
        ...

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """An opaque iterator to start from.

        Raises ``PositionLost`` for a sequence number that is not this shard's or beyond its end, or when the
        records after it were trimmed; ``SourceGone`` for an unknown shard; ``Unavailable``.
        """
        ...

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """Up to ``limit`` records from there; empty when there is nothing yet.

        Raises ``PositionLost`` when the next records were trimmed, ``SourceGone``, ``Unavailable``. An
        iterator expires: get another one after the last record.
        """
        ...

    async def aclose(self) -> None:
        """Finish accepted records, then close; idempotent."""
        ...
