"""How many messages each SIM sent, counted from the stream itself.

Rules: a message counts once, on the UTC day of its arrival, on whichever node and however often it is read:
the count and the place up to which it was counted are one row, written under a condition. A record that was
stored twice comes twice in a row among its SIM's records (a queue puts nothing else before it is accepted),
so that the last record id of each SIM shows it. Other records are passed over and counted: events of
sessions, and records of other producers, whatever is in them.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from core.domain.message import MessageCount
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.ports.store import MessageCounts
from core.ports.stream import StoredRecord

MESSAGE_METER = "message-meter"
"""The application as which all nodes together count messages."""
WRITES_MAX = 64
"""Rows that are written at a time."""
TRIES_MAX = 16


_Imsi = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{6,15}\Z")]
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9-]{1,64}\Z")]


class _Envelope(msgspec.Struct):
    imsi: _Imsi
    operatorId: _Id
    recordId: _Id
    timestamp: int
    payloads: msgspec.Raw


class _Event(msgspec.Struct):
    imsi: _Imsi
    recordId: _Id
    sessionEvent: dict[str, msgspec.Raw]


class MessageMeter:
    """The effect of a consumer; ``counted`` is what this process counted, ``passed_over`` the rest."""

    def __init__(self, *, counts: MessageCounts) -> None:
        self._counts = counts
        self._decoder = msgspec.json.Decoder(_Envelope)
        self._events = msgspec.json.Decoder(_Event)
        self.counted = 0
        self.passed_over = Counter[str]()

    async def count(self, records: Sequence[StoredRecord]) -> None:
        """Count some records of one shard, in their order; raises ``Unavailable``."""
        by_row: dict[tuple[str, int], list[tuple[StoredRecord, _Envelope]]] = {}
        others = Counter[str]()
        for record in records:
            try:
                envelope = self._decoder.decode(record.data)
                day = day_of(datetime.fromtimestamp(envelope.timestamp / 1_000, UTC))
            except (msgspec.DecodeError, ValueError, OverflowError, OSError, RecursionError):
                others["event" if self._is_event(record.data) else "foreign"] += 1
                continue
            by_row.setdefault((envelope.imsi, day), []).append((record, envelope))
        gate = asyncio.Semaphore(WRITES_MAX)

        async def count_row(imsi: str, day: int, of_row: list[tuple[StoredRecord, _Envelope]]) -> int:
            async with gate:
                return await self._count_row(imsi, day, of_row)

        counting = (count_row(imsi, day, of_row) for (imsi, day), of_row in by_row.items())
        outcomes = await asyncio.gather(*counting, return_exceptions=True)
        self.counted += sum(outcome for outcome in outcomes if isinstance(outcome, int))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        self.passed_over += others

    def _is_event(self, data: bytes) -> bool:
        try:
            self._events.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        return True

    async def _count_row(self, imsi: str, day: int, of_row: list[tuple[StoredRecord, _Envelope]]) -> int:
        for _ in range(TRIES_MAX):
            before = await self._counts.get(imsi, day) or MessageCount(imsi, day, of_row[0][1].operatorId)
            after = before
            for record, envelope in of_row:
                after = _counted(after, record, envelope.recordId)
            if after is before:
                return 0
            try:
                await self._counts.put(after)
            except StaleVersion:
                continue
            return after.count - before.count
        raise Unavailable(f"messages of {imsi}: another node counts them too")


def _counted(row: MessageCount, record: StoredRecord, record_id: str) -> MessageCount:
    number = int(record.sequence_number)
    if row.shard_id == record.shard_id and number <= int(row.sequence_number):
        return row  # read again after a restart
    place = replace(
        row, shard_id=record.shard_id, sequence_number=record.sequence_number, record_id=record_id
    )
    return place if row.record_id == record_id else replace(place, count=row.count + 1)
