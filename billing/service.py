"""Bills of an operator from stored usage; implements ``core.ports.billing.Billing``.

Rules: an open month is worked out afresh at each asking; a closed one is worked out once, kept for ever,
and read from there. Rows are billed to the operator that they carry, whoever owns the SIM now.
"""

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec

from billing.export import to_csv
from billing.metering import records_of
from billing.rating import Charge, rate
from billing.statement import Statement, make_statement
from billing.tariff import Tariff
from core.domain.usage import day_of
from core.ports.billing import Amount, Bill, DailyAmount
from core.ports.clock import Clock
from core.ports.object_store import ObjectStore
from core.ports.store import PAGE_MAX, Usage

CLOSING_DELAY = timedelta(hours=72)
"""A month closes this long after its end: late reports have come in by then (facts: 1-3 business days)."""


class BillingService:
    """One tariff for everybody."""

    def __init__(self, *, usage: Usage, objects: ObjectStore, clock: Clock, tariff: Tariff) -> None:
        self._usage = usage
        self._objects = objects
        self._clock = clock
        self._tariff = tariff

    async def bill(self, operator_id: str, month: int) -> Bill:
        """The bill of a month (yyyymm)."""
        statement = await self.statement(operator_id, month)
        return Bill(
            operator_id=operator_id,
            month=month,
            amount=Amount(statement.total_minor_units, statement.currency),
            quantity_bytes=statement.quantity_bytes,
            closed=self._is_closed(month),
            evaluated=self._clock.now(),
        )

    async def daily(self, operator_id: str, month: int) -> list[DailyAmount]:
        """Day by day, days without usage left out."""
        statement = await self.statement(operator_id, month)
        return [DailyAmount(day, nano, statement.currency) for day, nano in statement.by_day.items()]

    async def export(self, operator_id: str, month: int) -> str:
        """Write the month's CSV under a key made from its content; the same content is written once."""
        content = to_csv(await self.statement(operator_id, month))
        digest = hashlib.sha256(content).hexdigest()[:16]
        key = f"bills/{operator_id}/{month}/{digest}.csv"
        await self._objects.put(key, content)
        return key

    async def statement(self, operator_id: str, month: int) -> Statement:
        """The statement of a month, kept for ever once the month is closed."""
        if not self._is_closed(month):
            return await self._work_out(operator_id, month)
        key = f"statements/{operator_id}/{month}.json"
        kept = await self._objects.get(key)
        if kept is None:
            await self._objects.put(key, msgspec.json.encode(await self._work_out(operator_id, month)))
            kept = await self._objects.get(key)
        assert kept is not None, "what was put is there"
        return msgspec.json.decode(kept, type=Statement)

    async def _work_out(self, operator_id: str, month: int) -> Statement:
        charges: list[Charge] = []
        for day in _days_of(month, self._clock.now()):
            async for imsi in self._imsis(operator_id, day):
                charges += await self._charges_of_day(operator_id, imsi, day)
        return make_statement(operator_id, month, self._tariff.currency, self._tariff.version, charges)

    async def _charges_of_day(self, operator_id: str, imsi: str, day: int) -> list[Charge]:
        segments = [row for row in await self._usage.of_days(imsi, [day]) if row.operator_id == operator_id]
        return [rate(record, self._tariff) for record in records_of(segments)]

    async def _imsis(self, operator_id: str, day: int) -> AsyncIterator[str]:
        after = ""
        while True:
            page = await self._usage.imsis_of(operator_id, day, after=after, limit=PAGE_MAX)
            for imsi in page.items:
                yield imsi
            if not page.next_key:
                return
            after = page.next_key

    def _is_closed(self, month: int) -> bool:
        return self._clock.now() >= _first_of_next(month) + CLOSING_DELAY


def _first_of(month: int) -> datetime:
    return datetime(month // 100, month % 100, 1, tzinfo=UTC)


def _first_of_next(month: int) -> datetime:
    return (_first_of(month) + timedelta(days=31)).replace(day=1)


def _days_of(month: int, now: datetime) -> list[int]:
    """The days of the month up to now, which may have usage."""
    end = min(_first_of_next(month), now + timedelta(days=1))
    days: list[int] = []
    at = _first_of(month)
    while at < end:
        days.append(day_of(at))
        at += timedelta(days=1)
    return days
