"""What every store must do with folded days."""

import asyncio
from datetime import timedelta

import pytest

from core.adapters.store.engine import SCAN_ROWS_MAX
from core.adapters.store.tables import SLOT_LIFE_S
from core.domain.usage import RollupProgress
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.store import Usage
from tests.contract.stores import World, report_of

IMSI = "001010000000001"


def as_port(world: World) -> Usage:
    return world.store.usage


async def test_a_rolled_up_day_is_the_highest_of_each_segment_and_outlives_its_slots(world: World) -> None:
    usage = as_port(world)
    await usage.record([report_of(5, slot=1), report_of(9, slot=2), report_of(3, slot=2, session="s2")])
    await usage.record([replace(report_of(4), day=20261201)])
    slots_say = await usage.of_days(IMSI, [20261130, 20261201])
    assert [(row.day, row.session_id, row.volume.up_bytes) for row in slots_say] == [
        (20261130, "s1", 9),
        (20261130, "s2", 3),
        (20261201, "s1", 4),
    ]
    await usage.put_rollup_progress(RollupProgress(begun=20261128, sealed=20261130, folded=20261129))
    await asyncio.gather(*(usage.roll_up(IMSI, 20261130) for _ in range(4)))
    await world.reopen()
    usage = world.store.usage
    assert await usage.of_days(IMSI, [20261130, 20261201]) == slots_say
    world.clock.at += timedelta(seconds=SLOT_LIFE_S)
    assert await usage.of_day(IMSI, 20261130) == []
    await usage.record([report_of(7, slot=9), report_of(2, slot=9, session="s3")])
    found = await usage.of_days(IMSI, [20261130, 20261201])
    assert [(row.session_id, row.volume.up_bytes) for row in found] == [("s1", 9), ("s2", 3), ("s3", 2)]


async def test_a_rolled_up_day_may_have_more_rows_than_a_scan(world: World) -> None:
    rows = [report_of(n, slot=7, segment=n) for n in range(1, SCAN_ROWS_MAX + 200)]
    await world.store.usage.record([*rows, replace(report_of(1), day=20261129)])
    await world.store.usage.put_rollup_progress(
        RollupProgress(begun=20261128, sealed=20261130, folded=20261129)
    )
    await world.store.usage.roll_up(IMSI, 20261130)
    found = await world.store.usage._days.read(IMSI, 20261130, 20261130)
    assert [row.volume.up_bytes for row in found] == list(range(1, SCAN_ROWS_MAX + 200))


async def test_whose_usage_is_to_be_rolled_up(world: World) -> None:
    usage = as_port(world)
    await usage.record([replace(report_of(1), operator_id=f"OP{n}", session_id=f"s{n}") for n in (3, 1, 2)])
    await usage.record([replace(report_of(1), operator_id="OP9", day=20261201)])
    page = await usage.operators_of(20261130, limit=2)
    assert page.items == ("OP1", "OP2")
    assert (await usage.operators_of(20261130, after=page.next_key)).items == ("OP3",)
    assert (await usage.operators_of(20261129)).items == ()


async def test_how_far_folding_has_come_is_compared_and_set(world: World) -> None:
    usage = as_port(world)
    assert await usage.rollup_progress() is None
    begun = RollupProgress(begun=20261130, sealed=0, folded=20260911)
    tries = (usage.put_rollup_progress(begun) for _ in range(3))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, RollupProgress) for result in results) == 1
    stored = await usage.rollup_progress()
    assert stored == replace(begun, version=1)
    after = await usage.put_rollup_progress(replace(stored, folded=20261130, operator_id="OP1", imsi="0010"))
    with pytest.raises(StaleVersion):
        await usage.put_rollup_progress(stored)
    await world.reopen()
    assert await world.store.usage.rollup_progress() == after
