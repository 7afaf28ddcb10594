"""Folded days: of each segment the highest report, under the timestamp of that report.

Rules:

- A folded row is a report like any other: an absolute value, the highest timestamp wins. So it may be written
  again, by several at once and by one that comes too late, and nothing is ever added up in the store.
- It is joined with what stands there, so it outlives the rows that it was made from.
- How far folding has come is one row, written under conditions only. Whoever stores a report asks for it
  after its row is durable, and knows it to ``FOLDING_FRESH_S``.
"""

import asyncio
from collections.abc import Iterable, Sequence

from core.adapters.store.checksums import CorruptRow
from core.adapters.store.engine import BATCH_WRITES_MAX, SCAN_ROWS_MAX, Batch, Condition, Engine, Key, Put
from core.adapters.store.rows import BodyReader, body_of, get_row
from core.adapters.store.tables import FOLDING, USAGE_DAY
from core.domain.usage import Folding, SegmentLabel, UsageReport, Volume, fold
from core.domain.values import replace
from core.ports.clock import Clock
from core.ports.store import FOLDING_FRESH_S

_NAME = ("usage",)
_NOT_BEGUN = Folding(begun=0, sealed=0, folded=0)


class UsageDays:
    """The folded rows and how far they go."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._bodies = BodyReader(FOLDING, Folding)
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
        stored = {_key(row): row for row in await self.read(imsi, day, day)}
        joined, _ = fold([*stored.values(), *reports])
        puts = [_put(row, stored.get(_key(row))) for row in joined if row != stored.get(_key(row))]
        batches = [
            Batch(USAGE_DAY, (imsi, day // 100), tuple(puts[start : start + BATCH_WRITES_MAX]))
            for start in range(0, len(puts), BATCH_WRITES_MAX)
        ]
        if batches:
            await self._engine.write_all(batches)

    async def folding(self) -> Folding | None:
        """How far it has come, as stored."""
        return self._bodies.read_optional(_NAME, await get_row(self._engine, FOLDING, _NAME))

    async def put_folding(self, folding: Folding) -> Folding:
        """Write if the stored version is ``folding.version``."""
        stored = replace(folding, version=folding.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(Batch(FOLDING, _NAME, (put,), Condition((), folding.version)))
        return stored

    async def known(self) -> Folding:
        """How far it had come ``FOLDING_FRESH_S`` ago, or further."""
        if self._clock.monotonic() > self._fresh_until:
            async with self._asking:
                began = self._clock.monotonic()
                if began > self._fresh_until:
                    self._known = await self.folding() or _NOT_BEGUN
                    self._fresh_until = began + FOLDING_FRESH_S
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


def _key(report: UsageReport) -> Key:
    return (report.day, report.session_id, report.epoch, report.segment)


def _put(report: UsageReport, stored: UsageReport | None) -> Put:
    """A contradiction may raise a value without a later timestamp: it must win all the same."""
    stamp = report.timestamp_us if stored is None else max(report.timestamp_us, stored.timestamp_us + 1)
    report = replace(report, timestamp_us=stamp)
    return Put(_key(report), (report.slot, *values_of(report)), timestamp_us=stamp)
