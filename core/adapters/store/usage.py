"""Usage rows: typed columns, the highest timestamp wins.

Rules: a row's key is all that identifies a segment's slot, so a duplicate is the same row; nothing is read
before a report is written. Rows of ``insert_if_absent`` belong to sessions that no gateway reports.
"""

from collections.abc import Sequence
from dataclasses import replace

from core.adapters.store.engine import (
    SCAN_ROWS_MAX,
    Batch,
    Condition,
    Engine,
    Key,
    Put,
    Row,
)
from core.adapters.store.rows import BodyReader, CorruptRow, body_of, get_row
from core.adapters.store.tables import MESSAGE_COUNT, QUARANTINE, USAGE, USAGE_BY_OPERATOR
from core.domain.message import MessageCount
from core.domain.usage import SegmentLabel, UsageReport, Volume
from core.errors import StaleVersion
from core.ports.store import Page, Quarantined

INDEXED_MAX = 1_000_000
"""Index rows remembered as written; beyond it they are forgotten and written again, which changes nothing."""


class WideUsage:
    """Implements ``Usage``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._indexed: set[tuple[str, int, str]] = set()
        self._quarantined = BodyReader(QUARANTINE, Quarantined)

    async def record(self, reports: Sequence[UsageReport]) -> None:
        """One batch each, for their order is their timestamp; all of them durable on return."""
        batches = [
            Batch(
                USAGE,
                (report.imsi, report.day),
                (Put(_key(report), _values(report), timestamp_us=report.timestamp_us),),
            )
            for report in reports
        ]
        new = self._not_indexed(reports)
        if new:
            await self._engine.write(*_index_batches(new), *batches)
            self._remember(new)
        elif batches:
            await self._engine.write_all(batches)

    async def of_day(self, imsi: str, day: int) -> Sequence[UsageReport]:
        """All rows of one IMSI and day, by slot, session, epoch, segment."""
        reports: list[UsageReport] = []
        above: Key = ()
        while True:
            rows = await self._engine.scan(USAGE, (imsi, day), above=above)
            reports += [_report(imsi, day, row) for row in rows]
            if len(rows) < SCAN_ROWS_MAX:
                return reports
            above = rows[-1].clustering

    async def imsis_of(self, operator_id: str, day: int, *, after: str = "", limit: int = 100) -> Page[str]:
        """The IMSIs with rows of this operator on a UTC day, in order."""
        above = (after,) if after else ()
        rows = await self._engine.scan(USAGE_BY_OPERATOR, (operator_id, day), above=above, limit=limit)
        imsis = tuple(str(row.clustering[0]) for row in rows)
        return Page(imsis, imsis[-1] if len(imsis) == limit else "")

    def _not_indexed(self, reports: Sequence[UsageReport]) -> set[tuple[str, int, str]]:
        return {(r.operator_id, r.day, r.imsi) for r in reports} - self._indexed

    def _remember(self, new: set[tuple[str, int, str]]) -> None:
        if len(self._indexed) + len(new) > INDEXED_MAX:
            self._indexed.clear()
        self._indexed |= new

    async def insert_if_absent(self, report: UsageReport) -> bool:
        """Write a row unless one with its key is there."""
        new = self._not_indexed([report])
        key = _key(report)
        batch = Batch(USAGE, (report.imsi, report.day), (Put(key, _values(report)),), Condition(key, 0))
        try:
            await self._engine.write(*_index_batches(new), batch)
        except StaleVersion:
            return False
        self._remember(new)
        return True

    async def quarantine(self, item: Quarantined) -> None:
        """Keep a contradicting report aside; the same one again is the same row."""
        report = item.report
        key = (report.imsi, report.session_id, report.epoch, report.segment, report.timestamp_us)
        await self._engine.write(Batch(QUARANTINE, (report.day,), (Put(key, (body_of(item),)),)))

    async def quarantined(self, day: int) -> Sequence[Quarantined]:
        """What was put aside of a UTC day's reports."""
        items: list[Quarantined] = []
        above: Key = ()
        while True:
            rows = await self._engine.scan(QUARANTINE, (day,), above=above)
            items += [self._quarantined.read((day,), row) for row in rows]
            if len(rows) < SCAN_ROWS_MAX:
                return items
            above = rows[-1].clustering


class WideMessageCounts:
    """Implements ``MessageCounts``; rows are written under a condition only."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(MESSAGE_COUNT, MessageCount)

    async def get(self, imsi: str, day: int) -> MessageCount | None:
        """The row as stored."""
        row = await get_row(self._engine, MESSAGE_COUNT, (imsi, day))
        return self._bodies.read_optional((imsi, day), row)

    async def put(self, row: MessageCount) -> MessageCount:
        """Write if the stored version is ``row.version``."""
        stored = replace(row, version=row.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(
            Batch(MESSAGE_COUNT, (row.imsi, row.day), (put,), Condition((), row.version))
        )
        return stored


def _index_batches(new: set[tuple[str, int, str]]) -> list[Batch]:
    return [
        Batch(USAGE_BY_OPERATOR, (operator_id, day), (Put((imsi,), ()),))
        for operator_id, day, imsi in sorted(new)
    ]


def _key(report: UsageReport) -> Key:
    return (report.slot, report.session_id, report.epoch, report.segment)


def _values(report: UsageReport) -> Key:
    volume = report.volume
    return (
        report.operator_id,
        report.label.speed_class,
        report.label.plmn,
        volume.up_bytes,
        volume.down_bytes,
        volume.up_packets,
        volume.down_packets,
        report.timestamp_us,
    )


def _report(imsi: str, day: int, row: Row) -> UsageReport:
    match (*row.clustering, *row.values):
        case (
            int(slot),
            str(session_id),
            int(epoch),
            int(segment),
            str(operator_id),
            str(speed_class),
            str(plmn),
            int(up_bytes),
            int(down_bytes),
            int(up_packets),
            int(down_packets),
            int(timestamp_us),
        ):
            return UsageReport(
                imsi=imsi,
                session_id=session_id,
                operator_id=operator_id,
                epoch=epoch,
                segment=segment,
                label=SegmentLabel(speed_class, plmn),
                day=day,
                slot=slot,
                volume=Volume(up_bytes, down_bytes, up_packets, down_packets),
                timestamp_us=timestamp_us,
            )
    raise CorruptRow(f"table usage, key ({imsi}, {day}, {row.clustering}): {row.values}")
