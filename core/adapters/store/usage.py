"""Usage rows: typed columns, the highest timestamp wins. By slots, as they are reported, and rolled up by
days.

Rules:

- A row's key is all that identifies a segment's slot, so a duplicate is the same row; nothing is read before
  a report is written. Rows of ``insert_if_absent`` belong to sessions that no gateway reports.
- A report whose day is sealed is marked as late and rolled up before it counts as durable.
- A rolled up row is the highest report of its segment, with that report's timestamp: an absolute value like
  any other. So it may be written repeatedly, concurrently and late, and the store never adds values. It is
  merged with the stored row, so that it outlives the reports that it was made from.
- The progress of rollup is one row, written conditionally. A node that stores a report reads it after its row
  is durable, and its copy is at most ``ROLLUP_FRESH_S`` old.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta

from core.adapters.store.checksums import CorruptRow
from core.adapters.store.engine import (
    BATCH_WRITES_MAX,
    SCAN_ROWS_MAX,
    Batch,
    Condition,
    Engine,
    Key,
    Put,
    microseconds,
)
from core.adapters.store.rows import BodyReader, body_of, get_row
from core.adapters.store.tables import (
    QUARANTINE,
    ROLLUP,
    USAGE,
    USAGE_BY_OPERATOR,
    USAGE_DAY,
    USAGE_LATE,
    USAGE_OPERATOR,
)
from core.domain.billing import EPOCH, LateMark
from core.domain.usage import RollupProgress, SegmentLabel, UsageReport, Volume, roll_up
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.clock import Clock
from core.ports.store import ROLLUP_FRESH_S, Page, Quarantined

INDEXED_MAX = 1_000_000
"""Index rows remembered as written; beyond it they are forgotten and written again, which changes nothing."""
READ_AT_A_TIME = 31
"""Days of one IMSI that are read at once."""
ROLLUPS_AT_A_TIME = 4
"""Late days that are rolled up side by side: each costs the event loop some milliseconds."""
_FOLDING_KEY = ("usage",)
_NOT_BEGUN = RollupProgress(begun=0, sealed=0, folded=0)


class WideUsage:
    """Implements ``Usage``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._days = UsageDays(engine=engine, clock=clock)
        self._indexed: set[tuple[str, int, str]] = set()
        self._quarantined = BodyReader(QUARANTINE, Quarantined)

    async def record(self, reports: Sequence[UsageReport]) -> None:
        """One batch each, for their order is their timestamp; all of them durable on return."""
        batches = [
            Batch(
                USAGE,
                (report.imsi, report.day),
                (Put(_key(report), values_of(report), timestamp_us=report.timestamp_us),),
            )
            for report in reports
        ]
        new = self._not_indexed(reports)
        if new:
            await self._engine.write(*_index_batches(new), *batches)
            self._remember(new)
        elif batches:
            await self._engine.write_all(batches)
        await self._roll_up_late(reports)

    async def of_day(self, imsi: str, day: int) -> Sequence[UsageReport]:
        """All rows of one IMSI and day, by slot, session, epoch, segment."""
        reports: list[UsageReport] = []
        above: Key = ()
        while True:
            rows = await self._engine.scan(USAGE, (imsi, day), above=above)
            reports += [report_from(imsi, day, (*row.clustering, *row.values)) for row in rows]
            if len(rows) < SCAN_ROWS_MAX:
                return reports
            above = rows[-1].clustering

    async def of_each_day(self, imsi: str, days: Sequence[int]) -> Sequence[Sequence[UsageReport]]:
        """The same of each of several days, some days in one read."""
        found: list[Sequence[UsageReport]] = []
        for start in range(0, len(days), READ_AT_A_TIME):
            some = days[start : start + READ_AT_A_TIME]
            scans = await self._engine.scan_each(USAGE, [(imsi, day) for day in some])
            for day, rows in zip(some, scans, strict=True):
                if len(rows) == SCAN_ROWS_MAX:
                    found.append(await self.of_day(imsi, day))
                else:
                    found.append([report_from(imsi, day, (*row.clustering, *row.values)) for row in rows])
        return found

    async def of_days(self, imsi: str, days: Sequence[int]) -> Sequence[UsageReport]:
        """The highest report of each segment: rolled up rows, and slots where these do not say everything."""
        known = await self._days.known()
        months: dict[int, list[int]] = {}
        for day in days:
            if day <= known.sealed:
                months.setdefault(day // 100, []).append(day)
        spans = [(min(of_month), max(of_month)) for of_month in months.values()]
        folded = await asyncio.gather(*(self._days.read(imsi, first, last) for first, last in spans))
        wanted = set(days)
        rows = [row for of_month in folded for row in of_month if row.day in wanted]
        open_days = [day for day in days if not known.is_whole(day)]
        for of_day in await self.of_each_day(imsi, open_days):
            rows += of_day
        return roll_up(rows)[0]

    async def roll_up(self, imsi: str, day: int) -> None:
        """Raise the rolled up rows to what the slots say; contradictions are put aside."""
        segments, contradictions = roll_up(await self.of_day(imsi, day))
        for report in contradictions:
            await self.quarantine(Quarantined(report, "below an earlier slot of its segment"))
        await self._days.join(imsi, day, segments)

    async def rollup_progress(self) -> RollupProgress | None:
        """How far rollup has come."""
        return await self._days.rollup_progress()

    async def put_rollup_progress(self, rollup_progress: RollupProgress) -> RollupProgress:
        """Write if the stored version is ``rollup_progress.version``."""
        return await self._days.put_rollup_progress(rollup_progress)

    async def _roll_up_late(self, reports: Iterable[UsageReport]) -> None:
        """The rollup job reads a day at least ``ROLLUP_FRESH_S`` after its seal, so it sees all reports that
        were durable before the seal was known. Later ones are marked and rolled up here.
        """
        sealed = (await self._days.known()).sealed
        late = [report for report in reports if report.day <= sealed]
        if late:
            await self._engine.write_all(_late_batches(late, microseconds(self._clock.now())))
        places = sorted({(report.imsi, report.day) for report in late})
        for start in range(0, len(places), ROLLUPS_AT_A_TIME):
            some = places[start : start + ROLLUPS_AT_A_TIME]
            await asyncio.gather(*(self.roll_up(imsi, day) for imsi, day in some))

    async def late_of(self, month: int) -> AsyncIterator[LateMark]:
        """Marks of a month, by operator and IMSI."""
        above: Key = ()
        while True:
            rows = await self._engine.scan(USAGE_LATE, (month,), above=above)
            for row in rows:
                operator_id, imsi = map(str, row.clustering)
                yield LateMark(operator_id, imsi, EPOCH + timedelta(microseconds=int(row.values[0])))
            if len(rows) < SCAN_ROWS_MAX:
                return
            above = rows[-1].clustering

    async def operators_of(self, day: int, *, after: str = "", limit: int = 100) -> Page[str]:
        """The operators with rows of a UTC day, in order."""
        above = (after,) if after else ()
        rows = await self._engine.scan(USAGE_OPERATOR, (day,), above=above, limit=limit)
        operators = tuple(str(row.clustering[0]) for row in rows)
        return Page(operators, operators[-1] if len(operators) == limit else "")

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
        batch = Batch(USAGE, (report.imsi, report.day), (Put(key, values_of(report)),), Condition(key, 0))
        is_new = True
        try:
            await self._engine.write(*_index_batches(new), batch)
            self._remember(new)
        except StaleVersion:
            is_new = False
        await self._roll_up_late([report])
        return is_new

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


def _index_batches(new: set[tuple[str, int, str]]) -> list[Batch]:
    operators = sorted({(day, operator_id) for operator_id, day, _ in new})
    return [
        *(Batch(USAGE_OPERATOR, (day,), (Put((operator_id,), ()),)) for day, operator_id in operators),
        *(
            Batch(USAGE_BY_OPERATOR, (operator_id, day), (Put((imsi,), ()),))
            for operator_id, day, imsi in sorted(new)
        ),
    ]


def _late_batches(late: Iterable[UsageReport], now_us: int) -> list[Batch]:
    marked = sorted({(report.day // 100, report.operator_id, report.imsi) for report in late})
    return [Batch(USAGE_LATE, (month,), (Put((who, imsi), (now_us,)),)) for month, who, imsi in marked]


def _key(report: UsageReport) -> Key:
    return (report.slot, report.session_id, report.epoch, report.segment)


class UsageDays:
    """The rolled up rows and how far they go."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._bodies = BodyReader(ROLLUP, RollupProgress)
        self._known = _NOT_BEGUN
        self._fresh_until = float("-inf")
        self._asking = asyncio.Lock()

    async def read(self, imsi: str, first: int, last: int) -> list[UsageReport]:
        """The rows of an IMSI's days from ``first`` to ``last``, which are of one month."""
        reports: list[UsageReport] = []
        above: Key = (first - 1,)
        while True:
            rows = await self._engine.scan(USAGE_DAY, (imsi, first // 100), above=above, below=(last + 1,))
            for row in rows:
                day, *segment = row.clustering
                slot, *values = row.values
                reports.append(report_from(imsi, day, (slot, *segment, *values)))
            if len(rows) < SCAN_ROWS_MAX:
                return reports
            above = rows[-1].clustering

    async def join(self, imsi: str, day: int, reports: Iterable[UsageReport]) -> None:
        """Raise an IMSI's day to these reports; what is higher there stays."""
        stored = {_day_key(row): row for row in await self.read(imsi, day, day)}
        joined, _ = roll_up([*stored.values(), *reports])
        puts = [
            _day_put(row, stored.get(_day_key(row))) for row in joined if row != stored.get(_day_key(row))
        ]
        batches = [
            Batch(USAGE_DAY, (imsi, day // 100), tuple(puts[start : start + BATCH_WRITES_MAX]))
            for start in range(0, len(puts), BATCH_WRITES_MAX)
        ]
        if batches:
            await self._engine.write_all(batches)

    async def rollup_progress(self) -> RollupProgress | None:
        """How far it has come, as stored."""
        return self._bodies.read_optional(_FOLDING_KEY, await get_row(self._engine, ROLLUP, _FOLDING_KEY))

    async def put_rollup_progress(self, rollup_progress: RollupProgress) -> RollupProgress:
        """Write if the stored version is ``rollup_progress.version``."""
        stored = replace(rollup_progress, version=rollup_progress.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(Batch(ROLLUP, _FOLDING_KEY, (put,), Condition((), rollup_progress.version)))
        return stored

    async def known(self) -> RollupProgress:
        """How far it had come ``ROLLUP_FRESH_S`` ago, or further."""
        if self._clock.monotonic() > self._fresh_until:
            async with self._asking:
                began = self._clock.monotonic()
                if began > self._fresh_until:
                    self._known = await self.rollup_progress() or _NOT_BEGUN
                    self._fresh_until = began + ROLLUP_FRESH_S
        return self._known


def values_of(report: UsageReport) -> Key:
    """The values of a report's row."""
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


def report_from(imsi: str, day: object, columns: Sequence[object]) -> UsageReport:
    """A report from slot, session, epoch, segment and values; raises ``CorruptRow``."""
    match (day, *columns):
        case (
            int(day),
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
    raise CorruptRow(f"usage of {imsi}, day {day}: {columns}")


def _day_key(report: UsageReport) -> Key:
    return (report.day, report.session_id, report.epoch, report.segment)


def _day_put(report: UsageReport, stored: UsageReport | None) -> Put:
    """A contradiction may raise a value without a later timestamp: it must win all the same."""
    stamp = report.timestamp_us if stored is None else max(report.timestamp_us, stored.timestamp_us + 1)
    report = replace(report, timestamp_us=stamp)
    return Put(_day_key(report), (report.slot, *values_of(report)), timestamp_us=stamp)
