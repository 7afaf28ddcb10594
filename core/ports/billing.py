"""Bills, as the API reads them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Amount:
    """Money in minor units of its currency (ISO 4217): cents of USD, whole JPY."""

    minor_units: int
    currency: str


@dataclass(frozen=True, slots=True)
class Bill:
    """An operator's bill of one UTC month. ``closed`` bills never change again."""

    operator_id: str
    month: int
    amount: Amount
    quantity_bytes: int
    closed: bool
    evaluated: datetime


@dataclass(frozen=True, slots=True)
class DailyAmount:
    """What one UTC day (yyyymmdd) cost; the days of a month add up to its unrounded total."""

    day: int
    amount_nano: int
    currency: str


class Billing(Protocol):
    """Bills of an operator, computed from stored usage when they are requested."""

    async def bill(self, operator_id: str, month: int) -> Bill:
        """The bill of a month (yyyymm)."""
        ...

    async def daily(self, operator_id: str, month: int) -> list[DailyAmount]:
        """One entry per day with usage, in order."""
        ...

    async def export(self, operator_id: str, month: int) -> str:
        """Write the month's CSV into the object store; returns its key. The same usage gives the same
        bytes.
        """
        ...
