"""Bills of an operator from stored usage; implements ``core.ports.billing.Billing``.

Rules:

- The tariff is the newest version stored. A node whose configuration says another one stores it as the next
  version when it starts, so all nodes price alike. A month is priced by the version in force at its end.
- A month is open until ``billing.closing`` closes it; its bill is computed at each reading. A closed month is
  a row of the store, and its charges are a file that never changes.
- Usage is billed to the operator that its row names, even if the SIM has another owner now.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from billing.export import to_csv
from billing.rating import Charge, Statement, make_statement, rate, records_of, to_minor_units
from core.domain.billing import EPOCH, ClosedMonth, Tariff, closes_at, tariff_of
from core.domain.months import days_of
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.ports.billing import Amount, Bill, DailyAmount
from core.ports.clock import Clock
from core.ports.object_store import ObjectStore
from core.ports.store import PAGE_MAX, Bills, Usage


class BillingService:
    """One tariff for all operators; ``configured`` is the tariff from now on."""

    def __init__(
        self, *, usage: Usage, bills: Bills, objects: ObjectStore, clock: Clock, configured: Tariff
    ) -> None:
        self._usage = usage
        self._bills = bills
        self._objects = objects
        self._clock = clock
        self._configured = configured
        self._is_stored = False

    async def bill(self, operator_id: str, month: int) -> Bill:
        """The bill of a month (yyyymm)."""
        closed = await self.closed_month(operator_id, month)
        if closed is None:
            statement = await self._work_out(operator_id, month)
            amount = Amount(statement.total_minor_units, statement.currency)
            quantity_bytes = statement.quantity_bytes
        else:
            amount = Amount(to_minor_units(closed.amount_nano, closed.currency), closed.currency)
            quantity_bytes = closed.quantity_bytes
        return Bill(
            operator_id=operator_id,
            month=month,
            amount=amount,
            quantity_bytes=quantity_bytes,
            closed=closed is not None,
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
        """The statement of a month, as it was closed or as it stands."""
        closed = await self.closed_month(operator_id, month)
        return await (self.charges_of(closed) if closed else self._work_out(operator_id, month))

    # -- tariffs --------------------------------------------------------------------------------------

    async def tariffs(self) -> Sequence[Tariff]:
        """All versions in order; at the first call in a process the configured one is made the last."""
        versions = await self._bills.tariffs()
        while not self._is_stored:
            self._is_stored = bool(versions) and versions[-1].costs_as(self._configured)
            if not self._is_stored:
                with suppress(StaleVersion):  # another node stores its own at the same time
                    await self._bills.add_tariff(self._next_version(versions))
                    self._is_stored = True
                versions = await self._bills.tariffs()
        return versions

    def _next_version(self, versions: Sequence[Tariff]) -> Tariff:
        if not versions:
            return replace(self._configured, version=1, valid_from=EPOCH)
        valid_from = max(self._clock.now(), versions[-1].valid_from)
        return replace(self._configured, version=versions[-1].version + 1, valid_from=valid_from)

    # -- closing --------------------------------------------------------------------------------------

    async def closed_month(self, operator_id: str, month: int) -> ClosedMonth | None:
        """An operator's month if it is closed. One that ended before closing began is closed now."""
        closed = await self._bills.closed_month(operator_id, month)
        if closed is not None:
            return closed
        closing = await self._bills.closing()
        if closing is None or month > closing.closed:
            return None
        if month <= closing.begun:
            return await self.close(operator_id, month)
        tariff = tariff_of(await self.tariffs(), month)
        return ClosedMonth(operator_id, month, tariff.currency, tariff.version, 0, 0, closes_at(month))

    async def close(self, operator_id: str, month: int) -> ClosedMonth:
        """Close a month for good. Of several calls the first decides, also after one that was interrupted.

        The charges are durable before the row that names them. Raises ``Unavailable``.
        """
        closed = await self._bills.closed_month(operator_id, month)
        if closed is not None:
            return closed
        began = self._clock.now()
        content = msgspec.json.encode(await self._work_out(operator_id, month))
        key = _key_of(operator_id, month)
        if not await self._objects.put(key, content):
            content = await self._read(key)
        statement = _decoded(key, content)
        closed = ClosedMonth(
            operator_id=operator_id,
            month=month,
            currency=statement.currency,
            tariff_version=_version_of(statement, await self.tariffs()),
            amount_nano=statement.total_nano,
            quantity_bytes=statement.quantity_bytes,
            closed=began,
            digest=hashlib.sha256(content).hexdigest(),
        )
        try:
            await self._bills.put_closed_month(closed)
        except StaleVersion:
            found = await self._bills.closed_month(operator_id, month)
            assert found is not None, "a closed month is never removed"
            return found
        return closed

    async def charges_of(self, closed: ClosedMonth) -> Statement:
        """The statement of a closed month; raises ``Unavailable`` when it is not what was closed."""
        if not closed.digest:
            return make_statement(
                closed.operator_id, closed.month, closed.currency, closed.tariff_version, ()
            )
        key = _key_of(closed.operator_id, closed.month)
        content = await self._read(key)
        if hashlib.sha256(content).hexdigest() != closed.digest:
            raise Unavailable(f"object {key}: is not the statement that was closed; restore it")
        return _decoded(key, content)

    async def _read(self, key: str) -> bytes:
        content = await self._objects.get(key)
        if content is None:
            raise Unavailable(f"object {key}: is missing; all nodes need the same object store (objects.s3)")
        return content

    # -- working out ----------------------------------------------------------------------------------

    async def _work_out(self, operator_id: str, month: int) -> Statement:
        tariff = tariff_of(await self.tariffs(), month)
        charges: list[Charge] = []
        for imsi, days in (await self._used(operator_id, month)).items():
            charges += await self.charges_of_sim(operator_id, imsi, days, tariff)
        return make_statement(operator_id, month, tariff.currency, tariff.version, charges)

    async def charges_of_sim(
        self, operator_id: str, imsi: str, days: Sequence[int], tariff: Tariff
    ) -> list[Charge]:
        """What an IMSI's days cost, as usage is stored now."""
        segments = [row for row in await self._usage.of_days(imsi, days) if row.operator_id == operator_id]
        return [rate(record, tariff) for record in records_of(segments)]

    async def _used(self, operator_id: str, month: int) -> Mapping[str, list[int]]:
        """Each IMSI with usage of this operator in a month up to now, and on which days."""
        used: dict[str, list[int]] = {}
        present = day_of(self._clock.now())
        for day in (day for day in days_of(month) if day <= present):
            after = ""
            while True:
                page = await self._usage.imsis_of(operator_id, day, after=after, limit=PAGE_MAX)
                for imsi in page.items:
                    used.setdefault(imsi, []).append(day)
                if not (after := page.next_key):
                    break
        return used


def _key_of(operator_id: str, month: int) -> str:
    return f"statements/{operator_id}/{month}.json"


def _decoded(key: str, content: bytes) -> Statement:
    try:
        return msgspec.json.decode(content, type=Statement)
    except msgspec.DecodeError as error:
        raise Unavailable(f"object {key}: {error}; restore it") from error


def _version_of(statement: Statement, versions: Sequence[Tariff]) -> int:
    """The version that priced it; 0 when it was another price of the time before versions were kept."""
    tariff = next((each for each in versions if each.version == statement.tariff_version), None)
    if tariff is None or statement.currency != tariff.currency:
        return 0
    is_its = all(charge.unit_price_nano == tariff.nano_per_byte for charge in statement.charges)
    return tariff.version if is_its else 0
