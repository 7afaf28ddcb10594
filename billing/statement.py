"""A month's charges as one statement.

Rules: the total is rounded once, half up, to the minor unit of the currency; lines and days keep their
unrounded nano-units, so that they add up to the unrounded total; an order of lines that input cannot change.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from billing.money import NANO_PER_MINOR_UNIT
from billing.rating import Charge


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
