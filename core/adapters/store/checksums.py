"""The checksum of a stored row: over its table, its key and all stored columns.

Rules:

- It is one number: in its upper bits the format and the number of columns that the row was written with, then
  CRC-32, which includes both. So a later version may add value columns at the end: an older row is still
  checked over its own columns.
- A row without one (0, or null) is of 0.2.0 or older and is accepted; it gets one when it is next written.
- A row with a wrong checksum is returned, and raises an error with its table and key when anything except its
  version is read: it is never absent, and its values are never used.
- The octets are MessagePack, which delimits the values.
"""

from typing import NoReturn
from zlib import crc32

import msgspec

from core.adapters.store.engine import Key, Row, Value
from core.adapters.store.tables import Column, ColumnType, Table
from core.errors import Unreadable

Kept = tuple[int, ...]

CHECKSUM = Column("checksum", ColumnType.BIGINT)
"""Kept beside a row's version."""
FORMAT = 1
_CRC_BITS, _COUNT_BITS = 32, 8
_encode = msgspec.msgpack.Encoder().encode


class CorruptRow(Unreadable):
    """A stored row that cannot be read; the message names table and key."""


class _Damaged(tuple[Value, ...]):
    """Key or values of a row that its checksum contradicts; ``stored`` is what they seem to be."""

    why: str
    stored: Key

    def _tell(self, *_: object) -> NoReturn:
        raise CorruptRow(self.why)

    __getitem__ = __iter__ = __eq__ = __ne__ = __hash__ = __len__ = _tell


def checksum_of(table: Table, partition: Key, row: Key, kept: Kept) -> int:
    """Of a row, clustering key and values, and of the numbers that an engine keeps with it."""
    head = FORMAT << _COUNT_BITS | len(row)
    return head << _CRC_BITS | crc32(_encode((head, table.name, partition, row, kept)))


def is_intact(checksum: object, table: Table, partition: Key, row: Key, kept: Kept) -> bool:
    """Whether a row is as it was written, or of a version that wrote no checksums."""
    if not checksum:
        return checksum in (0, None)
    if type(checksum) is not int or checksum < 0:
        return False
    head = checksum >> _CRC_BITS
    written = row[: head & (1 << _COUNT_BITS) - 1]
    try:
        return checksum == head << _CRC_BITS | crc32(_encode((head, table.name, partition, written, kept)))
    except ValueError:  # a text that is none
        return False


def damaged_row(table: Table, partition: Key, clustering: Key, values: Key, version: int) -> Row:
    """In place of a row that its checksum contradicts."""
    key = ", ".join(map(str, partition + clustering))
    why = f"table {table.name}, key ({key}): what is stored contradicts its checksum"
    return Row(_damaged(why, clustering), _damaged(why, values), version)


def is_damaged(row: Row) -> bool:
    """Whether its checksum contradicts it."""
    return type(row.values) is _Damaged


def why_damaged(row: Row) -> str:
    """Which row it is, if it is damaged."""
    return row.values.why if isinstance(row.values, _Damaged) else ""


def as_stored(row: Row) -> Row:
    """What it seems to say, though it be damaged."""
    if isinstance(row.values, _Damaged) and isinstance(row.clustering, _Damaged):
        return Row(row.clustering.stored, row.values.stored, row.version)
    return row


def _damaged(why: str, stored: Key) -> _Damaged:
    damaged = _Damaged(stored)
    damaged.why, damaged.stored = why, stored
    return damaged
