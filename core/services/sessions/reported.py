"""Usage that a peer counts and reports: a NAS's absolute counters become durable usage.

Rules (RFC 2866 §5.3, RFC 2869 §5.1):

- A counter is a value, not an increment: the highest that was ever told counts, so a repeated, late or
  reordered report changes nothing.
- ``report`` returns when it is durable; only then may it be acknowledged.
- What was not charged to an earlier day is charged to the day on which it is told. What earlier days were
  charged stands in the session itself, so a restart reads one day of usage, whatever the session's age.
- What goes beyond its ceiling, the most that can have been carried since the last durable report, is not
  recorded; a later report that does not is.
- A day ends only when all that may have been stored for it is known to be: also what a dead holder had under
  way, which may arrive for ``late_s`` after this tenure began. What is read before then is read again.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core.domain.ids import time_of_id
from core.domain.requests import ModifySession
from core.domain.session import Nas, Session
from core.domain.usage import SLOT_S, SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.ports.clock import Clock
from core.ports.store import Usage
from core.services.sessions.index import SessionIndex
from core.services.sessions.modify import SessionModifier

EPOCH = 0
"""A peer's counters live in one epoch of their own; a virtual gateway's begin with 1."""
SLACK_S = 60.0
"""By so much a report may be ahead of the line's rate: bursts, and what comes sooner than the one before."""
UNSEEN_S_MAX = 86_400.0
"""Nobody but its NAS says for how long a session went on of which nothing was heard: so long is believed."""
LAST_SLOT = 86_400 // SLOT_S - 1


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
    """Whether it was read when nothing of a holder before could arrive any more."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How much a session can have carried: ``kbps`` in each direction. ``unseen_s``: for how long it may have
    gone on before it was opened here.
    """

    kbps: int
    unseen_s: float = 0.0


class ReportedUsage:
    """The counters that peers report for sessions of this node."""

    def __init__(
        self, *, usage: Usage, index: SessionIndex, modifier: SessionModifier, clock: Clock, late_s: float
    ) -> None:
        self._usage = usage
        self._index = index
        self._modifier = modifier
        self._clock = clock
        self._settled_at = clock.monotonic() + late_s
        self._counted: dict[str, _Counted] = {}
        self.reports_durable = 0

    def __len__(self) -> int:
        """How many sessions' counters are held."""
        return len(self._counted)

    async def report(self, session: Session, told: Volume, ceiling: Ceiling) -> bool:
        """Make a session's counters durable; false, and nothing is changed, when they are above the ceiling.

        Raises ``Unavailable``, ``Refused(UNKNOWN_SESSION)``.
        """
        assert session.nas is not None, "only a NAS's session is reported"
        counted = self._counted.get(session.session_id)
        if counted is None:
            loaded = await self._load(session, session.nas, ceiling)
            counted = self._counted.setdefault(session.session_id, loaded)
        async with counted.lock:
            total = counted.total.highest(told)
            if total == counted.total:
                return True
            now, now_s = self._clock.now(), self._clock.monotonic()
            known = counted.tried  # what a tenure before this one stored, or a try of this one, is paid for
            paid_until = counted.paid_until + _busy_s(known.highest(total) - known, ceiling)
            if paid_until > now_s + SLACK_S:
                return False
            if not counted.is_settled and self._is_settled:
                await self._read_again(session, counted)
            if counted.is_settled and day_of(now) > counted.day:
                if counted.tried != counted.total:
                    await self._record(session, counted, counted.tried, now)
                await self._begin_day(session, counted, day_of(now))
            counted.paid_until = max(paid_until, now_s)
            await self._record(session, counted, total, now)
            return True

    def discard(self, session_id: str) -> None:
        """The session is over: nothing is reported of it any more."""
        self._counted.pop(session_id, None)

    @property
    def _is_settled(self) -> bool:
        return self._clock.monotonic() >= self._settled_at

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
        day, is_settled = nas.day or day_of(session.opened), self._is_settled
        that_day, timestamp_us = await self._stored(session, day)
        tried = nas.before + that_day  # whoever wrote it may have died before the day was folded with it
        since = max(_began(session, ceiling), timestamp_us / 1_000_000)
        paid_until = self._clock.monotonic() - max(0.0, self._clock.now().timestamp() - since)
        return _Counted(day, nas.before, nas.before, tried, timestamp_us, paid_until, is_settled)

    async def _record(self, session: Session, counted: _Counted, total: Volume, now: datetime) -> None:
        counted.timestamp_us = max(_microseconds(now), counted.timestamp_us + 1)
        counted.tried = total = counted.tried.highest(total)
        await self._usage.record([_row(session, counted, total)])
        counted.total = total
        self.reports_durable += 1

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
    """From when a session can have carried anything: its id is made when access is asked for."""
    opened = session.opened.timestamp()
    unseen_s = max(opened - time_of_id(session.session_id).timestamp(), ceiling.unseen_s)
    return opened - min(unseen_s, UNSEEN_S_MAX)


def _busy_s(added: Volume, ceiling: Ceiling) -> float:
    """How long a line of this rate is busy with what is new."""
    return max(added.up_bytes, added.down_bytes) * 8 / (ceiling.kbps * 1_000)


def _row(session: Session, counted: _Counted, total: Volume) -> UsageReport:
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
    """By the time that only rises: a clock set back leads to no earlier slot."""
    at = datetime.fromtimestamp(counted.timestamp_us / 1_000_000, UTC)
    if day_of(at) == counted.day:
        return slot_of(at)
    return LAST_SLOT if day_of(at) > counted.day else 0


def _microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)
