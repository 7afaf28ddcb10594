"""Tariffs and closed months.

Rules: money is integer nano-units of its currency; a tariff is immutable and identified by its
version; a closed month never changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.domain.months import end_of
from core.domain.values import replace

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CLOSING_DELAY = timedelta(hours=72)
"""A month is closed this long after its end, so that late reports are included."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """One price for each octet, from ``valid_from`` until the next version applies.

    ``unit_bytes`` is what a SIM's day is rounded up to; ``overhead_bytes`` is added for each packet.
    """

    version: int = 1
    currency: str = "USD"
    nano_per_byte: int = 200
    unit_bytes: int = 1
    overhead_bytes: int = 0
    valid_from: datetime = EPOCH

    def costs_as(self, other: "Tariff") -> bool:
        """Whether both give the same price for the same usage."""
        return replace(self, version=other.version, valid_from=other.valid_from) == other


def tariff_of(versions: Sequence[Tariff], month: int) -> Tariff:
    """The one in force when the month ends. ``versions`` are in order; the first also applies before
    its ``valid_from``.
    """
    return [versions[0], *(each for each in versions[1:] if each.valid_from < end_of(month))][-1]


def closes_at(month: int) -> datetime:
    """The time from which the month may be closed."""
    return end_of(month) + CLOSING_DELAY


@dataclass(frozen=True, slots=True)
class ClosedMonth:
    """An operator's closed month (yyyymm); its charges are in the object store.

    ``digest`` is the SHA-256 of the stored statement, empty without usage. ``tariff_version`` is 0 for
    a month that was closed before tariffs had versions. ``closed``: when reading its usage began.
    """

    operator_id: str
    month: int
    currency: str
    tariff_version: int
    amount_nano: int
    quantity_bytes: int
    closed: datetime
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """Progress of closing: months (yyyymm) up to ``closed`` are closed for all operators.

    Months up to ``begun`` ended before the first run: each is closed when it is first read. In the month
    after ``closed`` the operators up to ``operator_id`` are done.
    """

    begun: int
    closed: int
    operator_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class LateMark:
    """Usage of a SIM that was stored when its month may have been closed; ``at``: the last time."""

    operator_id: str
    imsi: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LateUsage:
    """Usage that came after an operator's month was closed, and its price: it is in no bill."""

    operator_id: str
    month: int
    imsis: int
    quantity_bytes: int
    amount_nano: int
    currency: str
