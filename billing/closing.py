"""Closing months: which one is due, the progress, and late usage.

Rules:

- A month is closed 72 hours after its end and once all of its days are rolled up, operator after operator,
  whether or not its bills are read; after downtime, every month that ended meanwhile. Progress is durable
  after each operator, and written only if it is still as it was read.
- Only rolled up days are read: usage is either in the statement, or was marked as late when it was stored
  (``core.services.metering.rollup``). Late usage is counted, logged and audited; it is in no bill.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from billing.rating import Charge
from billing.service import BillingService
from core.domain.billing import ClosedMonth, Closing, LateUsage, Tariff, closes_at, tariff_of
from core.domain.months import days_of, month_after, month_of, months_between
from core.domain.values import replace
from core.ports.clock import Clock
from core.ports.store import Bills, Usage
from core.services.running.audit import AuditTrail

LOOK_S = 60
"""Interval of checks whether a month is due."""
LATE_LOOK_S = 600
"""Interval at which late usage is counted."""
INDEXED = timedelta(days=80)
"""How long the operators with usage on a day are indexed (``core.adapters.store.tables.USAGE_OPERATOR``)."""
LATE_MONTHS = 18
"""The newest closed months, which late usage is searched for in."""
CLOCKS_DIFFER = timedelta(days=1)
"""Marks of another node's wall clock count from so long before the month was closed."""

_log = logging.getLogger(__name__)


class MonthCloser:
    """Closes what is due. ``closed`` counts operators' months closed by this process; ``months_behind`` is
    how many months were due and not closed, ``late`` what was late, when it last looked.
    """

    def __init__(
        self, *, billing: BillingService, usage: Usage, bills: Bills, clock: Clock, audit: AuditTrail
    ) -> None:
        self._billing = billing
        self._usage = usage
        self._bills = bills
        self._clock = clock
        self._audit = audit
        self._looked_at: float | None = None
        self.closed = 0
        self.months_behind = 0
        self.late: list[LateUsage] = []

    async def step(self) -> float:
        """Close the next operator's month; seconds until there may be more to do: as many as it took.

        Raises ``Unavailable``, and ``StaleVersion`` when another node closes too.
        """
        await self._billing.tariffs()
        began, now = self._clock.monotonic(), self._clock.now()
        closing = await self._bills.closing()
        if closing is None:
            begun = month_of(now - INDEXED)
            closing = await self._bills.put_closing(Closing(begun=begun, closed=begun))
        month = month_after(closing.closed)
        self.months_behind = _months_behind(closing, now)
        if not self.months_behind or not await self._is_rolled_up(month):
            await self._count_late(closing, began)
            return LOOK_S
        operator_id = await self._operator_after(month, closing.operator_id)
        if operator_id:
            await self._billing.close(operator_id, month)
            self.closed += 1
            await self._bills.put_closing(replace(closing, operator_id=operator_id))
        else:
            await self._bills.put_closing(replace(closing, closed=month, operator_id=""))
        return self._clock.monotonic() - began

    async def state(self) -> dict[str, Any]:
        """Versions of the tariff, progress and late usage, read from the store; raises ``Unavailable``."""
        versions = await self._billing.tariffs()
        closing = await self._bills.closing()
        late = [late async for late in late_usage(self._billing, self._usage, closing)] if closing else []
        begins = [version.valid_from.isoformat() for version in versions]
        return {
            "closed_until": closing.closed if closing else None,
            "tariffs": [
                {**asdict(version), "valid_from": begin, "valid_until": end}
                for version, begin, end in zip(versions, begins, [*begins[1:], None], strict=True)
            ],
            "late": [asdict(each) for each in late],
        }

    async def _is_rolled_up(self, month: int) -> bool:
        rollup_progress = await self._usage.rollup_progress()
        return rollup_progress is not None and rollup_progress.folded >= days_of(month)[-1]

    async def _operator_after(self, month: int, operator_id: str) -> str:
        """The next operator with usage in a month, or none."""
        found: set[str] = set()
        for day in days_of(month):
            found.update((await self._usage.operators_of(day, after=operator_id, limit=1)).items)
        return min(found, default="")

    async def _count_late(self, closing: Closing, now_s: float) -> None:
        if self._looked_at is not None and now_s < self._looked_at + LATE_LOOK_S:
            return
        known = {(late.operator_id, late.month): late for late in self.late}
        found = [late async for late in late_usage(self._billing, self._usage, closing)]
        for late in found:
            if late != known.get((late.operator_id, late.month)):
                _log.warning("%s", _in_words(late))
                await self._audit.late_usage(late.operator_id, _in_words(late))
        self.late, self._looked_at = found, now_s


async def late_usage(billing: BillingService, usage: Usage, closing: Closing) -> AsyncIterator[LateUsage]:
    """What came after months were closed, by month and operator, the newest month first.

    Raises ``Unavailable``.
    """
    for back in range(LATE_MONTHS):
        month = month_after(closing.closed, -back)
        marked: dict[str, dict[str, datetime]] = {}
        async for mark in usage.late_of(month):
            marked.setdefault(mark.operator_id, {})[mark.imsi] = mark.at
        for operator_id, imsis in marked.items():
            closed = await billing.closed_month(operator_id, month)
            assert closed is not None, "the month is among those that are closed"
            since = closed.closed - CLOCKS_DIFFER
            late = await _late_of(billing, closed, [imsi for imsi, at in imsis.items() if at >= since])
            if late.quantity_bytes:
                yield late


async def _late_of(billing: BillingService, closed: ClosedMonth, imsis: list[str]) -> LateUsage:
    """What these IMSIs used, less what they were billed."""
    imsis_late, octets, nano = 0, 0, 0
    if imsis:
        statement = await billing.charges_of(closed)
        billed: dict[str, list[Charge]] = {}
        for charge in statement.charges:
            billed.setdefault(charge.imsi, []).append(charge)
        tariff = _tariff_of(closed, statement.charges, await billing.tariffs())
        for imsi in imsis:
            now = await billing.charges_of_sim(closed.operator_id, imsi, days_of(closed.month), tariff)
            before = billed.get(imsi, [])
            more = sum(c.quantity_bytes for c in now) - sum(c.quantity_bytes for c in before)
            imsis_late += more > 0
            octets += more
            nano += sum(c.amount_nano for c in now) - sum(c.amount_nano for c in before)
    return LateUsage(closed.operator_id, closed.month, imsis_late, octets, nano, closed.currency)


def _tariff_of(closed: ClosedMonth, charges: tuple[Charge, ...], versions: Sequence[Tariff]) -> Tariff:
    """What priced a closed month; before versions were kept its own lines say it."""
    for tariff in versions:
        if tariff.version == closed.tariff_version:
            return tariff
    price = charges[0].unit_price_nano if charges else 0
    return replace(tariff_of(versions, closed.month), currency=closed.currency, nano_per_byte=price)


def _months_behind(closing: Closing, now: datetime) -> int:
    last = month_after(month_of(now), -1)
    return months_between(closing.closed, last if now >= closes_at(last) else month_after(last, -1))


def _in_words(late: LateUsage) -> str:
    return (
        f"{late.month} of {late.operator_id}: {late.quantity_bytes} bytes of {late.imsis} SIMs arrived"
        f" after the month was closed and are in no bill; they would cost {late.amount_nano}"
        f" nano-{late.currency}"
    )
