"""UTC months, written yyyymm."""

from datetime import UTC, datetime, timedelta

from core.domain.usage import day_of


def month_of(at: datetime) -> int:
    """The month of a moment."""
    return at.year * 100 + at.month


def month_after(month: int, by: int = 1) -> int:
    """The month so many months later, or earlier for a negative number."""
    index = month // 100 * 12 + month % 100 - 1 + by
    return index // 12 * 100 + index % 12 + 1


def months_between(month: int, later: int) -> int:
    """The number of months from one to the other; 0 when it is not later."""
    return max((later // 100 - month // 100) * 12 + later % 100 - month % 100, 0)


def first_of(month: int) -> datetime:
    """Its first moment."""
    return datetime(month // 100, month % 100, 1, tzinfo=UTC)


def end_of(month: int) -> datetime:
    """The first moment of the month after it."""
    return first_of(month_after(month))


def days_of(month: int) -> list[int]:
    """Its days as yyyymmdd."""
    first = first_of(month)
    return [day_of(first + timedelta(days=number)) for number in range((end_of(month) - first).days)]
