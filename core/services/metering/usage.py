"""From the user plane's counters to durable usage.

Rules:

- Reports carry cumulative values; a report that fails is simply made again later with newer values.
- A segment ends when the UTC day or its label changes, and not before the segment before it is durable.
- A slot is given back (``discard``) only when its session is known to be over, durably.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, datetime, time, timedelta

from core.domain.usage import SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.store import Usage
from core.ports.user_plane import Counters, Segment, UserPlane

REPORTS_PER_WRITE_MAX = 1_000
SEGMENTS_PER_TURN = 100
"""Looked at before the loop has its turn: a millisecond."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UsageMeter:
    """Reports every session with change at each interval, and a session's last value when it closes."""

    def __init__(self, *, user_plane: UserPlane, usage: Usage, clock: Clock, interval_s: float) -> None:
        self._user_plane = user_plane
        self._usage = usage
        self._clock = clock
        self._interval_s = interval_s
        self._due: dict[str, None] = {}
        self._to_cut: dict[str, None] = {}
        self._day = 0
        self._durable: dict[str, tuple[int, Volume]] = {}
        self._labels: dict[str, SegmentLabel] = {}
        self._handle_moved: Callable[[Collection[str]], None] = lambda _: None
        self.reports_durable = 0

    def on_moved(self, handle: Callable[[Collection[str]], None]) -> None:
        """Call ``handle(session_ids)`` with the sessions that had packets since; it must not raise."""
        self._handle_moved = handle

    async def run(self) -> None:
        """Sweep at each interval, until cancelled; a store that is away only makes reports late."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Unavailable:
                continue

    async def sweep(self) -> None:
        """Report every session with change and cut segments that are due."""
        for moved in self._user_plane.moved():
            self._due.update(dict.fromkeys(moved))
            self._handle_moved(moved)
            await asyncio.sleep(0)
        due = list(self._due)
        for start in range(0, len(due), REPORTS_PER_WRITE_MAX):
            part = due[start : start + REPORTS_PER_WRITE_MAX]
            await self._report(await self._changed_of(part))
            for session_id in part:
                self._due.pop(session_id, None)
        await self._cut_due_segments()

    async def report_last(self, session_id: str) -> None:
        """Make a closed session's final value durable; raises ``Unavailable``."""
        counters = self._user_plane.counters(session_id)
        if counters is not None:
            await self._report([counters])

    def relabel(self, session_id: str, label: SegmentLabel) -> None:
        """Count what follows under this label, from the next sweep on; nothing without a slot."""
        if self._user_plane.label(session_id) in (None, label):
            self._labels.pop(session_id, None)
            return
        self._labels[session_id] = label
        self._to_cut[session_id] = self._due[session_id] = None

    def discard(self, session_id: str) -> None:
        """The session is over and durable (or never was): give its slot back."""
        self._user_plane.close(session_id)
        self._user_plane.free(session_id)
        self._durable.pop(session_id, None)
        self._labels.pop(session_id, None)
        self._due.pop(session_id, None)
        self._to_cut.pop(session_id, None)

    async def report_orphans(self, alive: Collection[str]) -> None:
        """After a restart: report slots whose session was closed just before the kill, then free them."""
        orphans = list(self._user_plane.all_counters(apart_from=alive))
        await self._report(orphans)
        for counters in orphans:
            self.discard(counters.session_id)

    async def _changed_of(self, session_ids: list[str]) -> list[Counters]:
        changed = []
        for number, session_id in enumerate(session_ids, 1):
            counters = self._user_plane.counters(session_id)
            if counters is not None and self._durable.get(session_id) != _state(counters):
                changed.append(counters)
            if number % SEGMENTS_PER_TURN == 0:
                await asyncio.sleep(0)
        return changed

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
            if self._user_plane.label(counters.session_id) is not None:
                self._durable[counters.session_id] = _state(counters)

    def _is_previous_durable(self, counters: Counters) -> bool:
        durable = self._durable.get(counters.session_id)
        return durable is not None and durable[0] >= counters.current.number

    async def _cut_due_segments(self) -> None:
        """Those of relabelled sessions, and on a new day all; one that cannot be cut yet is cut next time."""
        now = self._clock.now()
        if (today := day_of(now)) != self._day:
            self._day = today
            for number, counters in enumerate(self._user_plane.all_counters()):
                self._cut_if_due(counters, now)
                if number % SEGMENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        for number, session_id in enumerate(list(self._to_cut)):
            if (found := self._user_plane.counters(session_id)) is not None:
                self._cut_if_due(found, now)
            if number % SEGMENTS_PER_TURN == 0:
                await asyncio.sleep(0)

    def _cut_if_due(self, counters: Counters, now: datetime) -> None:
        session_id, current = counters.session_id, counters.current
        label = self._labels.get(session_id, current.label)
        is_due = day_of(current.begun) != day_of(now) or label != current.label
        if is_due and counters.is_open and not self._is_current_durable(counters):
            self._to_cut[session_id] = self._due[session_id] = (
                None  # reported first, though nothing came since
            )
            return
        if is_due and counters.is_open:
            self._user_plane.begin_segment(session_id, label, now)
            if session_id in self._durable:
                self._due[session_id] = None  # what came since its report is reported too
        self._to_cut.pop(session_id, None)
        self._labels.pop(session_id, None)

    def _is_current_durable(self, counters: Counters) -> bool:
        """Whether the segment is durable, or has nothing to report."""
        durable = self._durable.get(counters.session_id)
        if durable is None:
            return counters.previous is None and counters.current.volume.is_zero
        return durable[0] == counters.current.number

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
