"""NAS accounting: a NAS's cumulative counters become durable usage.

Rules (RFC 2866 §5.3, RFC 2869 §5.1):

- A counter is a value, not an increment: the highest that was reported counts, so a repeated, late or
  reordered report changes nothing.
- ``report`` returns when the counters are durable; only then may they be acknowledged.
- What was not charged to an earlier day is charged to the day on which it is reported. The session itself
  keeps what was charged to earlier days, so a restart reads one day of usage, however old the session is.
- Counters above the ceiling, the most that the line can have carried since the last durable report, are not
  recorded; a later report that is below it is.
- A day ends only when all that may have been stored for it is known. A write of the gateway's previous holder
  may still arrive for ``late_s`` after this lease term began: what was read before then is read again.
- Reports that come in one turn of the event loop are one write to the store. If it meets a damaged row, each
  is written by itself: the others do not suffer from it.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec import Struct

from core.domain.ids import time_of_id
from core.domain.requests import ModifySession
from core.domain.session import Nas, Session
from core.domain.usage import SLOT_S, SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.errors import Unavailable, Unreadable
from core.ports.clock import Clock
from core.ports.store import Usage
from core.services.sessions.index import SessionIndex
from core.services.sessions.modify import SessionModifier

EPOCH = 0
"""A NAS's counters have one epoch; those of a gateway instance begin with 1."""
SLACK_S = 60.0
"""By so much a report may be ahead of the line rate: bursts, and the delay of the report before."""
UNSEEN_S_MAX = 86_400.0
"""How long a session is believed to have lasted before it was opened here: only its NAS knows."""
LAST_SLOT = 86_400 // SLOT_S - 1
TOGETHER_MAX = 256
"""Reports in one write."""


@dataclass(slots=True)
class _Counted:
    """What is durable of one session: ``total`` since it began, ``before`` of it on days before ``day``.

    ``tried`` is above ``total`` while a write may have been stored whose answer was lost. ``paid_until``: the
    monotonic time up to which the line was busy with what is durable, or when that was stored: a wall clock
    that is set back leaves no usage unbilled.
    """

    day: int
    before: Volume
    total: Volume
    tried: Volume
    timestamp_us: int
    paid_until: float
    is_settled: bool
    """Whether it was read when no write of a previous holder could arrive any more."""
    busy: asyncio.Event | None = None
    """Set when the report that is being recorded is over; those of one session are recorded one by one."""


@dataclass(slots=True, eq=False)
class _Together:
    """Reports that are one write. The first writes; the others wait for its outcome: what failed, or
    ``None``.
    """

    reports: list[UsageReport]
    others: list[asyncio.Future[Unavailable | None]] = field(default_factory=list)


class Ceiling(Struct, frozen=True):
    """How much a session can have carried: ``kbps`` in each direction. ``unseen_s``: how long it may have
    lasted before it was opened here.
    """

    kbps: int
    unseen_s: float = 0.0


class NasAccounting:
    """The counters that NASes report for the sessions of one gateway instance."""

    def __init__(
        self, *, usage: Usage, index: SessionIndex, modifier: SessionModifier, clock: Clock, late_s: float
    ) -> None:
        self._usage = usage
        self._index = index
        self._modifier = modifier
        self._clock = clock
        self._settled_at = clock.monotonic() + late_s
        self._counted: dict[str, _Counted] = {}
        self._together: _Together | None = None
        self.reports_durable = 0

    def __len__(self) -> int:
        """How many sessions' counters are held."""
        return len(self._counted)

    async def report(self, session: Session, reported: Volume, ceiling: Ceiling) -> bool:
        """Make a session's counters durable; false, and nothing is changed, when they are above the ceiling.

        Raises ``Unavailable``, ``Refused(UNKNOWN_SESSION)``.
        """
        assert session.nas is not None, "only a NAS's session is reported"
        counted = self._counted.get(session.session_id)
        if counted is None:
            loaded = await self._load(session, session.nas, ceiling)
            counted = self._counted.setdefault(session.session_id, loaded)
        while counted.busy is not None:
            await counted.busy.wait()
        if counted.total.highest(reported) == counted.total:
            return True
        counted.busy = busy = asyncio.Event()
        try:
            now, now_s = self._clock.now(), self._clock.monotonic()
            known = counted.tried  # an earlier try or lease term may have stored it: it is paid for
            paid_until = counted.paid_until + _busy_s(known.highest(reported) - known, ceiling)
            if paid_until > now_s + SLACK_S:
                return False
            if not counted.is_settled and now_s >= self._settled_at:
                await self._read_again(session, counted)
            today = day_of(now)
            if counted.is_settled and today > counted.day:
                if counted.tried != counted.total:
                    await self._record(session, counted, counted.tried, now)
                await self._begin_day(session, counted, today)
            counted.paid_until = max(paid_until, now_s)
            await self._record(session, counted, reported, now)
        finally:
            counted.busy = None
            busy.set()
        return True

    def discard(self, session_id: str) -> None:
        """The session is over, and its last counters are durable."""
        self._counted.pop(session_id, None)

    async def _read_again(self, session: Session, counted: _Counted) -> None:
        that_day, timestamp_us = await self._stored(session, counted.day)
        counted.tried = counted.tried.highest(counted.before + that_day)
        counted.timestamp_us = max(counted.timestamp_us, timestamp_us)
        counted.is_settled = True

    async def _stored(self, session: Session, day: int) -> tuple[Volume, int]:
        """What is stored of a session's day, and when that was written."""
        rows = [r for r in await self._usage.of_day(session.imsi, day) if r.session_id == session.session_id]
        that_day = Volume()
        for row in rows:
            that_day = that_day.highest(row.volume)
        return that_day, max((row.timestamp_us for row in rows), default=0)

    async def _load(self, session: Session, nas: Nas, ceiling: Ceiling) -> _Counted:
        day, is_settled = nas.day or day_of(session.opened), self._clock.monotonic() >= self._settled_at
        that_day, timestamp_us = await self._stored(session, day)
        tried = nas.before + that_day  # its writer may have died before the day was rolled up with it
        since = max(_began(session, ceiling), timestamp_us / 1_000_000)
        paid_until = self._clock.monotonic() - max(0.0, self._clock.now().timestamp() - since)
        return _Counted(day, nas.before, nas.before, tried, timestamp_us, paid_until, is_settled)

    async def _record(self, session: Session, counted: _Counted, reported: Volume, now: datetime) -> None:
        now_us = int(now.timestamp() * 1_000_000)
        counted.timestamp_us = now_us if now_us > counted.timestamp_us else counted.timestamp_us + 1
        counted.tried = total = counted.tried.highest(reported)
        report = _report_of(session, counted, total)
        failed = await self._record_together(report)
        if isinstance(failed, Unreadable):
            await self._usage.record([report])
        elif failed is not None:
            raise Unavailable(str(failed), ambiguous=failed.ambiguous)
        counted.total = total
        self.reports_durable += 1

    async def _record_together(self, report: UsageReport) -> Unavailable | None:
        """Write a report with those that come in the same turn of the loop: the first of them writes."""
        together = self._together
        if together is not None and len(together.reports) < TOGETHER_MAX:
            outcome: asyncio.Future[Unavailable | None] = asyncio.get_running_loop().create_future()
            together.reports.append(report)
            together.others.append(outcome)
            return await outcome
        self._together = together = _Together([report])
        failed: Unavailable | None = Unavailable("the write was cancelled", ambiguous=True)
        try:
            await asyncio.sleep(0)
            self._forget_together(together)
            await self._usage.record(together.reports)
            failed = None
        except Unavailable as error:
            failed = error
        finally:
            self._forget_together(together)
            for other in together.others:
                if not other.done():
                    other.set_result(failed)
        return failed

    def _forget_together(self, together: _Together) -> None:
        """No report joins these any more."""
        if self._together is together:
            self._together = None

    async def _begin_day(self, session: Session, counted: _Counted, day: int) -> None:
        """First what the days before were charged, then the new day's first row: a kill between is harmless.

        A session that is over has no row to keep it in; its last reports stay on its last day.
        """
        if session.session_id not in self._index.by_id:
            return
        await self._modifier.modify(
            ModifySession(session_id=session.session_id, charged=(day, counted.total))
        )
        counted.day, counted.before = day, counted.total


def _began(session: Session, ceiling: Ceiling) -> float:
    """From when a session can have carried anything: its id is made at its Access-Request."""
    opened = session.opened.timestamp()
    unseen_s = max(opened - time_of_id(session.session_id).timestamp(), ceiling.unseen_s)
    return opened - min(unseen_s, UNSEEN_S_MAX)


def _busy_s(added: Volume, ceiling: Ceiling) -> float:
    """How long a line of this rate is busy with what is new."""
    return max(added.up_bytes, added.down_bytes) * 8 / (ceiling.kbps * 1_000)


def _report_of(session: Session, counted: _Counted, total: Volume) -> UsageReport:
    return UsageReport(
        imsi=session.imsi,
        session_id=session.session_id,
        operator_id=session.operator_id,
        epoch=EPOCH,
        segment=0,
        label=SegmentLabel(session.speed_class),
        day=counted.day,
        slot=_slot(counted),
        volume=total - counted.before,
        timestamp_us=counted.timestamp_us,
    )


def _slot(counted: _Counted) -> int:
    """By the timestamp, which only rises: a clock that is set back leads to no earlier slot."""
    at = datetime.fromtimestamp(counted.timestamp_us / 1_000_000, UTC)
    if (day := day_of(at)) == counted.day:
        return slot_of(at)
    return LAST_SLOT if day > counted.day else 0
