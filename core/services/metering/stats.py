"""How much a SIM used, by five minutes, day or month (UTC), from stored usage.

Rules:

- Days and months are sums of what segments used (``core.domain.usage.fold``), rolled up or not.
- Values of a (session, epoch, segment) are cumulative: a slot's usage is the highest value up to and
  including it minus the highest before it; a segment never crosses a UTC day, so a day needs its rows alone.
- Rows belong to the operator that they carry, also when the SIM has another owner now.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from core.domain.reasons import RequestRefusal
from core.domain.usage import SLOT_S, SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.errors import Refused
from core.ports.clock import Clock
from core.ports.store import Usage

MINUTES_WINDOW = timedelta(days=32)
DAYS_WINDOW = timedelta(days=549)
"""18 months."""

ByClass = Mapping[str, Volume]


class Period(Enum):
    """The length of a line of statistics."""

    MINUTES = "minutes"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Line:
    """What was used in the period that begins at ``begins``, by speed class."""

    begins: datetime
    by_class: ByClass


class Stats:
    """Reads usage and, for the sandbox, writes some."""

    def __init__(self, *, usage: Usage, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock

    async def of_imsis(
        self, operator_id: str, imsis: Iterable[str], period: Period, since: datetime, until: datetime
    ) -> list[Line]:
        """Lines of the periods that touch [since, until], oldest first; those without usage left out.

        What is asked for beyond the window that is kept is not there: minutes 32 days, else 18 months.
        Raises ``Refused(INVALID_FIELD)`` when ``until`` is before ``since``.
        """
        if until < since:
            raise Refused(RequestRefusal.INVALID_FIELD, "to: must not be before from")
        now = self._clock.now()
        since = max(since, now - (MINUTES_WINDOW if period is Period.MINUTES else DAYS_WINDOW))
        until = min(until, now + timedelta(days=1))
        first, last = _begin(since, period), until
        lines: dict[datetime, dict[str, Volume]] = {}
        days = _days(first, _end(until, period))
        read = self._read_slots if period is Period.MINUTES else self._read_days
        for imsi in imsis:
            for at, by_class in await read(operator_id, imsi, days):
                begins = _begin(at, period)
                if first <= begins <= last:
                    _add(lines.setdefault(begins, {}), by_class)
        return [Line(begins, lines[begins]) for begins in sorted(lines)]

    async def insert(self, operator_id: str, imsi: str, at: datetime, volumes: Mapping[str, Volume]) -> None:
        """Add usage at a moment, once (sandbox); raises ``Refused(ALREADY_EXISTS, INVALID_FIELD)``."""
        now = self._clock.now()
        if not now - DAYS_WINDOW <= at <= now + timedelta(days=1):
            raise Refused(RequestRefusal.INVALID_FIELD, "unixtime: outside of the last 18 months")
        inserted = [
            await self._usage.insert_if_absent(
                UsageReport(
                    imsi=imsi,
                    session_id=f"inserted-{int(at.timestamp())}-{speed_class}",
                    operator_id=operator_id,
                    epoch=0,
                    segment=0,
                    label=SegmentLabel(speed_class),
                    day=day_of(at),
                    slot=slot_of(at),
                    volume=volume,
                    timestamp_us=int(at.timestamp()) * 1_000_000,
                )
            )
            for speed_class, volume in sorted(volumes.items())
        ]
        if inserted and not any(inserted):
            raise Refused(RequestRefusal.ALREADY_EXISTS, "Data with the same timestamp already exists.")

    async def _read_days(
        self, operator_id: str, imsi: str, days: list[datetime]
    ) -> list[tuple[datetime, dict[str, Volume]]]:
        at = {day_of(day): day for day in days}
        segments = await self._usage.of_days(imsi, list(at))
        return [
            (at[segment.day], {segment.label.speed_class: segment.volume})
            for segment in segments
            if segment.operator_id == operator_id
        ]

    async def _read_slots(
        self, operator_id: str, imsi: str, days: list[datetime]
    ) -> list[tuple[datetime, dict[str, Volume]]]:
        """Of at most as many days as the window of minutes has."""
        reports = await self._usage.of_each_day(imsi, [day_of(day) for day in days])
        found: list[tuple[datetime, dict[str, Volume]]] = []
        for day, of_day in zip(days, reports, strict=True):
            rows = [row for row in of_day if row.operator_id == operator_id]
            slots = usage_of_slots(rows)
            found += [(day + timedelta(seconds=slot * SLOT_S), used) for slot, used in slots.items()]
        return found


def usage_of_slots(rows: Iterable[UsageReport]) -> dict[int, dict[str, Volume]]:
    """What one IMSI used in each slot of one day by speed class."""
    highest: dict[tuple[str, int, int], Volume] = {}
    slots: dict[int, dict[str, Volume]] = {}
    for row in sorted(rows, key=lambda row: (row.slot, row.timestamp_us)):
        key = (row.session_id, row.epoch, row.segment)
        before = highest.get(key, Volume())
        now = row.volume.highest(before)
        highest[key] = now
        if now != before:
            _add(slots.setdefault(row.slot, {}), {row.label.speed_class: now - before})
    return slots


def _add(total: dict[str, Volume], more: ByClass) -> None:
    for speed_class, volume in more.items():
        total[speed_class] = total.get(speed_class, Volume()) + volume


def _begin(at: datetime, period: Period) -> datetime:
    midnight = datetime(at.year, at.month, at.day, tzinfo=UTC)
    if period is Period.MINUTES:
        return midnight + timedelta(seconds=slot_of(at) * SLOT_S)
    return midnight if period is Period.DAY else midnight.replace(day=1)


def _end(at: datetime, period: Period) -> datetime:
    """The last moment of the period that ``at`` is in, to the day."""
    if period is not Period.MONTH:
        return at
    return (_begin(at, period) + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _days(first: datetime, last: datetime) -> list[datetime]:
    midnight = _begin(first, Period.DAY)
    return [
        midnight + timedelta(days=n) for n in range((last - midnight).days + 1 if last >= midnight else 0)
    ]
