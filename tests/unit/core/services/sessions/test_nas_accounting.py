"""Counters of NASes: reports that come together are one write; a damaged row of one is not the others'."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

import pytest

from core.domain.session import Access, Nas, Session
from core.domain.usage import UsageReport, Volume
from core.errors import Unavailable, Unreadable
from core.services.sessions.nas_accounting import TOGETHER_MAX, Ceiling, NasAccounting

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
CEILING = Ceiling(1_000_000, unseen_s=3_600)


class Clock:
    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return 7_200.0


class Usage:
    """Keeps each write; one with a session of ``damaged`` fails, and so do all while ``is_away``."""

    def __init__(self) -> None:
        self.writes: list[list[UsageReport]] = []
        self.damaged: set[str] = set()
        self.is_away = False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.begun = asyncio.Event()

    async def record(self, reports: Sequence[UsageReport]) -> None:
        self.writes.append(list(reports))
        self.begun.set()
        await self.is_open.wait()
        if self.is_away:
            raise Unavailable("the store is away")
        if self.damaged.intersection(report.session_id for report in reports):
            raise Unreadable("a row is damaged")

    async def of_day(self, imsi: str, day: int) -> Sequence[UsageReport]:
        await asyncio.sleep(0)
        return []


def session(number: int) -> Session:
    return Session(
        session_id=f"{number:032x}",
        sim_id=str(number),
        imsi=f"{number:015}",
        operator_id="OP0000000001",
        access=Access.RADIUS,
        apn="apn",
        ue_address=IPv4Address(number),
        gateway_id="vg-1",
        opened=NOON,
        speed_class="s1.standard",
        nas=Nas("127.0.3.0/24", "nas", "127.0.3.1", str(number)),
    )


def accounting_over(usage: Usage) -> NasAccounting:
    none: Any = None
    stand: Any = usage
    return NasAccounting(usage=stand, index=none, modifier=none, clock=Clock(), late_s=0)


async def tell(
    accounting: NasAccounting, numbers: Sequence[int], up_bytes: int
) -> list[bool | BaseException]:
    told = (accounting.report(session(number), Volume(up_bytes), CEILING) for number in numbers)
    return await asyncio.gather(*told, return_exceptions=True)


async def test_what_comes_in_one_turn_is_one_write() -> None:
    accounting = accounting_over(usage := Usage())
    assert await tell(accounting, range(1, 9), 100) == [True] * 8
    assert [len(write) for write in usage.writes] == [8]
    assert accounting.reports_durable == 8
    assert await tell(accounting, range(1, 9), 100) == [True] * 8
    assert len(usage.writes) == 1, "a repeat changes nothing"


async def test_a_write_takes_some_and_the_next_the_rest() -> None:
    accounting = accounting_over(usage := Usage())
    assert set(await tell(accounting, range(1, TOGETHER_MAX + 3), 100)) == {True}
    assert sorted(len(write) for write in usage.writes) == [2, TOGETHER_MAX]


async def test_a_damaged_row_of_one_is_not_the_others() -> None:
    accounting = accounting_over(usage := Usage())
    usage.damaged.add(session(2).session_id)
    first, second, third = await tell(accounting, (1, 2, 3), 100)
    assert (first, third) == (True, True)
    assert isinstance(second, Unavailable)
    assert [len(write) for write in usage.writes] == [3, 1, 1, 1]
    usage.damaged.clear()
    assert await tell(accounting, (1, 2, 3), 100) == [True] * 3
    assert [report.session_id for report in usage.writes[-1]] == [session(2).session_id]


async def test_nothing_is_acknowledged_while_the_store_is_away() -> None:
    accounting = accounting_over(usage := Usage())
    usage.is_away = True
    assert all(isinstance(each, Unavailable) for each in await tell(accounting, range(1, 9), 100))
    assert accounting.reports_durable == 0
    assert [len(write) for write in usage.writes] == [8], "the store is not asked again for each"
    usage.is_away = False
    assert await tell(accounting, range(1, 9), 100) == [True] * 8


async def test_a_cancelled_write_is_acknowledged_to_none() -> None:
    """The first, which writes for all, is cancelled while it does."""
    accounting = accounting_over(usage := Usage())
    usage.is_open.clear()
    first, second = (
        asyncio.create_task(accounting.report(session(number), Volume(100), CEILING)) for number in (1, 2)
    )
    await usage.begun.wait()
    first.cancel()
    usage.is_open.set()
    with pytest.raises(Unavailable):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await tell(accounting, (1, 2), 100) == [True] * 2


async def test_reports_of_one_session_are_recorded_one_by_one() -> None:
    accounting = accounting_over(usage := Usage())
    assert await tell(accounting, (1,), 100) == [True]
    told = (accounting.report(session(1), Volume(up_bytes), CEILING) for up_bytes in (300, 200, 400))
    assert await asyncio.gather(*told) == [True] * 3
    written = [report.volume.up_bytes for write in usage.writes for report in write]
    assert written == [100, 300, 400], "the one below changes nothing"
    stamps = [report.timestamp_us for write in usage.writes for report in write]
    assert stamps == sorted(set(stamps))


async def test_more_than_the_line_carries_is_not_recorded() -> None:
    accounting = accounting_over(usage := Usage())
    assert await tell(accounting, (1,), 10**15) == [False]
    assert usage.writes == []
    assert await tell(accounting, (1,), 10**6) == [True]
