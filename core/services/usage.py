"""From the user plane's counters to durable usage.

Rules:

- Reports carry cumulative values; a report that fails is simply made again later with newer values.
- A segment ends when the UTC day or its label changes, and not before the segment before it is durable.
- A slot is given back (``discard``) only when its session is known to be over, durably.
"""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta

from core.domain.usage import SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.store import Usage
from core.ports.user_plane import Counters, Segment, UserPlane

REPORTS_PER_WRITE_MAX = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UsageMeter:
    """Reports every session with change at each interval, and a session's last value when it closes."""

    def __init__(self, *, user_plane: UserPlane, usage: Usage, clock: Clock, interval_s: float) -> None:
        self._user_plane = user_plane
        self._usage = usage
        self._clock = clock
        self._interval_s = interval_s
        self._durable: dict[str, tuple[int, Volume]] = {}
        self._labels: dict[str, SegmentLabel] = {}
        self.reports_durable = 0

    async def run(self) -> None:
        """Sweep at each interval, for ever; a store that is away only makes reports late."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Unavailable:
                continue

    async def sweep(self) -> None:
        """Report every session with change and cut segments that are due."""
        pending: list[Counters] = []
        for counters in self._user_plane.all_counters():
            if self._changed(counters):
                pending.append(counters)
            if len(pending) == REPORTS_PER_WRITE_MAX:
                await self._report(pending)
                pending = []
        await self._report(pending)
        self._cut_due_segments()

    async def report_last(self, session_id: str) -> None:
        """Make a closed session's final value durable; raises ``Unavailable``."""
        counters = self._user_plane.counters(session_id)
        if counters is not None:
            await self._report([counters])

    def relabel(self, session_id: str, label: SegmentLabel) -> None:
        """Count what follows under another label, from the next sweep on."""
        self._labels[session_id] = label

    def discard(self, session_id: str) -> None:
        """The session is over and durable (or never was): give its slot back."""
        self._user_plane.close(session_id)
        self._user_plane.free(session_id)
        self._durable.pop(session_id, None)
        self._labels.pop(session_id, None)

    async def settle_orphans(self, alive: Collection[str]) -> None:
        """After a restart: report slots whose session was closed just before the kill, then free them."""
        orphans = list(self._user_plane.all_counters(but_of=alive))
        await self._report(orphans)
        for counters in orphans:
            self.discard(counters.session_id)

    def _changed(self, counters: Counters) -> bool:
        return self._durable.get(counters.session_id) != _state(counters)

    async def _report(self, batch: list[Counters]) -> None:
        reports: list[UsageReport] = []
        for counters in batch:
            if counters.previous is not None and not self._is_previous_durable(counters):
                reports.append(self._to_report(counters, counters.previous))
            reports.append(self._to_report(counters, counters.current))
        reports = [report for report in reports if not report.volume.is_zero]
        if reports:
            await self._usage.record(reports)
            self.reports_durable += len(reports)
        for counters in batch:
            if self._user_plane.counters(counters.session_id) is not None:
                self._durable[counters.session_id] = _state(counters)

    def _is_previous_durable(self, counters: Counters) -> bool:
        durable = self._durable.get(counters.session_id)
        return durable is not None and durable[0] >= counters.current.number

    def _cut_due_segments(self) -> None:
        now = self._clock.now()
        for counters in list(self._user_plane.all_counters()):
            current = counters.current
            label = self._labels.get(counters.session_id, current.label)
            due = day_of(current.begun) != day_of(now) or label != current.label
            durable = self._durable.get(counters.session_id)
            if due and counters.is_open and durable is not None and durable[0] == current.number:
                self._user_plane.begin_segment(counters.session_id, label, now)

    def _to_report(self, counters: Counters, segment: Segment) -> UsageReport:
        rising = _EPOCH + counters.timestamp_us * _MICROSECOND  # a clock set back leads to no earlier slot
        at = min(max(rising, segment.begun), _end_of_day(segment.begun))
        return UsageReport(
            imsi=counters.imsi,
            session_id=counters.session_id,
            operator_id=counters.operator_id,
            epoch=counters.epoch,
            segment=segment.number,
            label=segment.label,
            day=day_of(segment.begun),
            slot=slot_of(at),
            volume=segment.volume,
            timestamp_us=counters.timestamp_us,
        )


def _state(counters: Counters) -> tuple[int, Volume]:
    return counters.current.number, counters.current.volume


def _end_of_day(at: datetime) -> datetime:
    midnight = datetime.combine(at.date(), time.min, tzinfo=UTC)
    return midnight + timedelta(days=1) - timedelta(microseconds=1)
