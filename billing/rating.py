"""From stored usage to a statement: report → usage record → charge → statement. Pure, integer.

Rules:

- Reports hold cumulative values, one for each segment here, its highest (``core.domain.usage.fold``); a day
  is their sum. The order of the reports changes nothing.
- The quantity is rounded when it is priced, money never before the total, which is rounded once, half up, to
  the minor unit of the currency: lines and days keep their unrounded nano-units, and add up.
- Lines have one order, which input cannot change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.domain.billing import Tariff
from core.domain.usage import UsageReport, Volume

DATA_TRAFFIC = "dataTrafficCharge"
NANO = 1_000_000_000
NANO_PER_MINOR_UNIT: Mapping[str, int] = {"USD": NANO // 100, "EUR": NANO // 100, "JPY": NANO}
"""Nano-units in a currency's minor unit (ISO 4217: cents, cents, whole yen)."""


@dataclass(frozen=True, slots=True, order=True)
class UsageRecord:
    """What one IMSI used on one UTC day (yyyymmdd) under one speed class."""

    imsi: str
    day: int
    speed_class: str
    up_bytes: int
    down_bytes: int
    packets: int


def records_of(segments: Iterable[UsageReport]) -> list[UsageRecord]:
    """The records of some segments of one operator, in order; without those that are zero."""
    used: dict[tuple[str, int, str], Volume] = {}
    for segment in segments:
        key = (segment.imsi, segment.day, segment.label.speed_class)
        used[key] = used.get(key, Volume()) + segment.volume
    return [
        UsageRecord(*key, volume.up_bytes, volume.down_bytes, volume.up_packets + volume.down_packets)
        for key, volume in sorted(used.items(), key=lambda item: item[0])
        if not volume.is_zero
    ]


@dataclass(frozen=True, slots=True, order=True)
class Charge:
    """One priced line: quantity in octets, money in nano-units."""

    imsi: str
    day: int
    bill_item: str
    quantity_bytes: int
    unit_price_nano: int
    amount_nano: int


def rate(record: UsageRecord, tariff: Tariff) -> Charge:
    """Price one usage record; its quantity is rounded up to the tariff's unit."""
    used = record.up_bytes + record.down_bytes + record.packets * tariff.overhead_bytes
    units = -(-used // tariff.unit_bytes)
    quantity = units * tariff.unit_bytes
    return Charge(
        imsi=record.imsi,
        day=record.day,
        bill_item=f"{DATA_TRAFFIC}.{record.speed_class}",
        quantity_bytes=quantity,
        unit_price_nano=tariff.nano_per_byte,
        amount_nano=quantity * tariff.nano_per_byte,
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """An operator's charges of one UTC month (yyyymm)."""

    operator_id: str
    month: int
    currency: str
    tariff_version: int
    charges: tuple[Charge, ...]

    @property
    def total_nano(self) -> int:
        """Unrounded."""
        return sum(charge.amount_nano for charge in self.charges)

    @property
    def total_minor_units(self) -> int:
        """Rounded once, half up: cents of USD and EUR, whole JPY."""
        return to_minor_units(self.total_nano, self.currency)

    @property
    def quantity_bytes(self) -> int:
        """All octets charged."""
        return sum(charge.quantity_bytes for charge in self.charges)

    @property
    def by_day(self) -> dict[int, int]:
        """Nano-units of each day with charges, in order."""
        days: dict[int, int] = {}
        for charge in sorted(self.charges, key=lambda charge: charge.day):
            days[charge.day] = days.get(charge.day, 0) + charge.amount_nano
        return days


def make_statement(
    operator_id: str, month: int, currency: str, tariff_version: int, charges: Iterable[Charge]
) -> Statement:
    """In the one order that statements have: IMSI, day, item."""
    return Statement(operator_id, month, currency, tariff_version, tuple(sorted(charges)))


def to_minor_units(amount_nano: int, currency: str) -> int:
    """Half up (amounts are never negative)."""
    nano_per_minor = NANO_PER_MINOR_UNIT[currency]
    return (amount_nano + nano_per_minor // 2) // nano_per_minor
