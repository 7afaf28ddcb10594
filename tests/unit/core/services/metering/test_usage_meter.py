"""The meter asks for what moved, and still everything that was counted becomes durable on its own day."""

import asyncio
from datetime import timedelta

import pytest

from core.adapters.store.engine import Batch
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.usage import WideUsage
from core.errors import Unavailable
from core.services.metering.usage import SEGMENTS_PER_TURN, UsageMeter
from tests.contract.test_user_plane import CAPACITY, FAST, UdpRig, bearer, up

MONDAY, TUESDAY = 20261130, 20261201


class EngineThatGoesAway(MemoryEngine):
    """Takes nothing while it is away."""

    is_away = False

    async def write(self, *batches: Batch) -> None:
        if self.is_away:
            raise Unavailable("away")
        await super().write(*batches)


class Stand:
    """A user plane and its meter over a store in memory."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.rig = UdpRig(capacity)
        self.engine = EngineThatGoesAway(disk=Disk(), clock=self.rig.clock)
        self.usage = WideUsage(engine=self.engine, clock=self.rig.clock)
        self.meter = UsageMeter(
            user_plane=self.rig.plane, usage=self.usage, clock=self.rig.clock, interval_s=5.0
        )

    async def octets(self, number: int, day: int) -> int:
        """What a bill would have of that day."""
        reports = await self.usage.of_days(bearer(number).imsi, [day])
        return sum(report.volume.up_bytes for report in reports)


async def started(capacity: int = CAPACITY) -> Stand:
    stand = Stand(capacity)
    await stand.rig.start()
    for number in (1, 2):
        stand.rig.plane.install(bearer(number))
    return stand


async def test_what_moved_is_reported_and_what_did_not_is_not_reported_again() -> None:
    stand = await started()
    up(stand.rig, bearer(1), 100)
    await stand.meter.sweep()
    await stand.meter.sweep()
    assert (await stand.octets(1, MONDAY), await stand.octets(2, MONDAY)) == (100, 0)
    assert stand.meter.reports_durable == 1
    up(stand.rig, bearer(1), 100)
    await stand.meter.sweep()
    assert await stand.octets(1, MONDAY) == 200


async def test_a_session_that_was_idle_over_midnight_counts_into_the_new_day() -> None:
    stand = await started()
    up(stand.rig, bearer(1), 100)
    await stand.meter.sweep()
    stand.rig.clock.at += timedelta(hours=12)
    await stand.meter.sweep()
    for number in (1, 2):
        up(stand.rig, bearer(number), 70)
    await stand.meter.sweep()
    assert [await stand.octets(number, MONDAY) for number in (1, 2)] == [100, 0]
    assert [await stand.octets(number, TUESDAY) for number in (1, 2)] == [70, 70]


async def test_a_new_label_begins_a_segment_and_what_came_before_is_told_under_the_old_one() -> None:
    stand = await started()
    up(stand.rig, bearer(1), 100)
    stand.meter.relabel(bearer(1).session_id, FAST)
    await stand.meter.sweep()
    up(stand.rig, bearer(1), 50)
    await stand.meter.sweep()
    reports = await stand.usage.of_days(bearer(1).imsi, [MONDAY])
    assert [(report.label, report.volume.up_bytes) for report in reports] == [
        (bearer(1).label, 100),
        (FAST, 50),
    ]


async def test_the_label_that_a_session_is_counted_under_is_no_change() -> None:
    stand = await started()
    up(stand.rig, bearer(1), 100)
    stand.meter.relabel(bearer(1).session_id, FAST)
    stand.meter.relabel(bearer(1).session_id, bearer(1).label)
    await stand.meter.sweep()
    stand.meter.relabel(bearer(1).session_id, bearer(1).label)
    up(stand.rig, bearer(1), 50)
    await stand.meter.sweep()
    (report,) = await stand.usage.of_days(bearer(1).imsi, [MONDAY])
    assert (report.label, report.segment, report.volume.up_bytes) == (bearer(1).label, 1, 150)


async def test_others_have_their_turn_while_many_sessions_are_looked_at() -> None:
    stand = await started(4 * SEGMENTS_PER_TURN)
    for number in range(3, 4 * SEGMENTS_PER_TURN):
        stand.rig.plane.install(bearer(number))
        stand.meter.relabel(bearer(number).session_id, FAST)
    sweeping = asyncio.create_task(stand.meter.sweep())
    turns = 0
    while not sweeping.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2 * 4 - 1  # once while they are looked at, and once while they are cut


async def test_a_report_that_failed_is_made_again_though_nothing_moved() -> None:
    stand = await started()
    up(stand.rig, bearer(1), 100)
    stand.engine.is_away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await stand.meter.sweep()
    stand.engine.is_away = False
    await stand.meter.sweep()
    assert await stand.octets(1, MONDAY) == 100
