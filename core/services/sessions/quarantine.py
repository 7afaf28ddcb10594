"""Quarantined usage: reported by NASes, stored and not billed; an operator reviews it.

Rules:

- One row for each session and UTC day on which it is reported, with the highest counters of that day and the
  first reason; a repeated, late or lower report changes nothing.
- Rows are bounded for each client and in all; beyond that a report is not acknowledged.
- Implausible usage is audited too; usage without a session is only stored and counted.
"""

import asyncio
from collections import Counter

from core.domain.session import Nas
from core.domain.usage import SegmentLabel, UsageReport, Volume, day_of, slot_of
from core.ports.clock import Clock
from core.ports.store import Quarantined, Usage
from core.services.running.audit import AuditTrail

KEPT_MAX = 100_000
"""Rows of a day that this gateway knows: some 300 bytes each."""
KEPT_OF_CLIENT_MAX = 10_000
EPOCH = 0
NO_SIM = "unknown"
"""Instead of an IMSI, for a user without one."""
_Key = tuple[str, str]


class UsageQuarantine:
    """The quarantine of one gateway instance's NASes."""

    def __init__(self, *, usage: Usage, audit: AuditTrail, clock: Clock) -> None:
        self._usage = usage
        self._audit = audit
        self._clock = clock
        self._day = 0
        self._kept: dict[_Key, tuple[Volume, str]] = {}
        self._of_client: Counter[str] = Counter()
        self._lock = asyncio.Lock()

    async def keep(
        self,
        *,
        client: str,
        nas: Nas,
        imsi: str,
        volume: Volume,
        why: str,
        session_id: str = "",
        operator_id: str = "",
        is_alarm: bool = False,
    ) -> bool:
        """Store counters apart, if there are any; false when there is no more room. ``session_id`` is empty
        for a session that is not one of ours. Raises ``Unavailable``.
        """
        if volume.is_zero:
            return True
        now = self._clock.now()
        key = (imsi or NO_SIM, session_id or " ".join((nas.network, nas.identifier, nas.acct_session_id)))
        async with self._lock:
            if self._day != (day := day_of(now)):
                await self._begin(day)
            before = self._kept.get(key)
            if before is None and not self._has_room(client):
                return False
            if before is not None:
                volume, why = before[0].highest(volume), before[1]
            if (volume, why) == before:
                return True
            report = UsageReport(
                imsi=key[0],
                session_id=key[1],
                operator_id=operator_id,
                epoch=EPOCH,
                segment=0,
                label=SegmentLabel(""),
                day=day,
                slot=slot_of(now),
                volume=volume,
                timestamp_us=0,  # a part of the row's key: there is one of each session
            )
            if is_alarm and before is None:
                await self._audit.usage_quarantined(client, f"IMSI {imsi}, session {key[1]}: {why}")
            await self._usage.quarantine(Quarantined(report, why, client, nas, now))
            self._know(client, key, volume, why)
            return True

    async def _begin(self, day: int) -> None:
        """A new day, or a new lease term: its rows are read once."""
        found = await self._usage.quarantined(day)
        self._day = day
        self._kept.clear()
        self._of_client.clear()
        for item in found:
            if item.nas is not None:
                key = (item.report.imsi, item.report.session_id)
                self._know(item.client, key, item.report.volume, item.why)

    def _has_room(self, client: str) -> bool:
        return len(self._kept) < KEPT_MAX and self._of_client[client] < KEPT_OF_CLIENT_MAX

    def _know(self, client: str, key: _Key, volume: Volume, why: str) -> None:
        if key not in self._kept:
            self._of_client[client] += 1
        self._kept[key] = (volume, why)
