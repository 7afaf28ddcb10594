"""What every store must do with tariffs, closed months and the marks of late usage."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest

from core.adapters.store.engine import SCAN_ROWS_MAX
from core.domain.billing import ClosedMonth, Closing, LateMark, Tariff
from core.domain.usage import RollupProgress
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.store import ROLLUP_FRESH_S, Bills
from tests.contract.stores import World, report_of

OPERATOR = "OP0000000001"


def as_port(world: World) -> Bills:
    return world.store.bills


async def test_each_version_of_the_tariff_is_added_once(world: World) -> None:
    bills = as_port(world)
    assert list(await bills.tariffs()) == []
    first = Tariff()
    later = datetime(2026, 11, 30, 1, 2, 3, 400, tzinfo=UTC)
    versions = [first, *(replace(first, version=n, nano_per_byte=n, valid_from=later) for n in range(2, 12))]
    for version in versions:
        await bills.add_tariff(version)
    with pytest.raises(StaleVersion):
        await bills.add_tariff(replace(first, nano_per_byte=1))
    await world.reopen()
    assert list(await world.store.bills.tariffs()) == versions


async def test_of_several_that_close_a_month_one_does(world: World) -> None:
    bills = as_port(world)
    assert await bills.closed_month(OPERATOR, 202610) is None
    wanted = [ClosedMonth(OPERATOR, 202610, "USD", 1, n, n, world.clock.now(), "d") for n in range(4)]
    outcomes = await asyncio.gather(*map(bills.put_closed_month, wanted), return_exceptions=True)
    assert [type(each) for each in outcomes if each is not None] == 3 * [StaleVersion]
    won = wanted[outcomes.index(None)]
    await world.reopen()
    assert asdict(await world.store.bills.closed_month(OPERATOR, 202610) or won) == asdict(won)
    assert await world.store.bills.closed_month(OPERATOR, 202611) is None
    assert await world.store.bills.closed_month("OP0000000002", 202610) is None


async def test_how_far_closing_has_come_is_compared_and_set(world: World) -> None:
    bills = as_port(world)
    assert await bills.closing() is None
    begun = await bills.put_closing(Closing(begun=202608, closed=202608))
    assert begun.version == 1
    with pytest.raises(StaleVersion):
        await bills.put_closing(Closing(begun=202607, closed=202607))
    after = await bills.put_closing(replace(begun, closed=202609, operator_id=OPERATOR))
    assert await bills.closing() == after


async def test_what_is_stored_after_its_day_was_sealed_is_marked(world: World) -> None:
    usage = world.store.usage
    await usage.record([report_of(5, slot=1)])
    assert [mark async for mark in usage.late_of(202611)] == []
    await usage.put_rollup_progress(RollupProgress(begun=20261128, sealed=20261130, folded=20261129))
    await world.reopen()
    usage = world.store.usage
    other = replace(report_of(1, slot=1), imsi="001010000000009", operator_id="OP0000000002")
    await usage.record([report_of(9, slot=2), other, replace(report_of(4), day=20261201)])
    world.clock.at += timedelta(seconds=2 * ROLLUP_FRESH_S)
    now = world.clock.now()
    inserted = replace(report_of(7, slot=3, session="inserted"), operator_id="OP0000000002")
    assert await usage.insert_if_absent(inserted)
    marks = [mark async for mark in usage.late_of(202611)]
    assert [(mark.operator_id, mark.imsi) for mark in marks] == [
        (OPERATOR, "001010000000001"),
        ("OP0000000002", "001010000000001"),
        ("OP0000000002", "001010000000009"),
    ]
    assert marks[1] == LateMark("OP0000000002", "001010000000001", now)
    assert [mark async for mark in usage.late_of(202612)] == []


async def test_more_marks_than_a_scan_has(world: World) -> None:
    usage = world.store.usage
    await usage.put_rollup_progress(RollupProgress(begun=20261128, sealed=20261130, folded=20261129))
    await world.reopen()
    reports = [replace(report_of(1), imsi=f"00101{number:010}") for number in range(SCAN_ROWS_MAX + 1)]
    await world.store.usage.record(reports)
    marks = [mark.imsi async for mark in world.store.usage.late_of(202611)]
    assert marks == [report.imsi for report in reports]
