"""Folding usage to days, in virtual time: when, how far, what late reports do, and who does it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps

import pytest

from core.adapters.peers import NoPeers
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.tables import SLOT_LIFE_S, USAGE, USAGE_DAY, USAGE_LIFE_S
from core.adapters.store.usage import WideUsage
from core.adapters.store.wide_column import WideColumnStore
from core.domain.usage import RollupProgress, SegmentLabel, UsageReport, Volume, day_after, roll_up
from core.domain.values import replace
from core.errors import Unavailable
from core.ports.store import ROLLUP_FRESH_S
from core.services.cluster.lease_seeking import GONE_AFTER_S
from core.services.cluster.lease_seeking import LOOK_S as LEASE_LOOK_S
from core.services.cluster.singleton_jobs import SingletonJobs
from core.services.gateway.lease_term import LEASE_S
from core.services.metering import rollup as folding_module
from core.services.metering.rollup import BACK, LOOK_S, SEAL_S, UsageRollup
from core.services.metering.stats import Period, Stats
from core.services.running.faults import Faults
from loadtest.simulation.virtual import VirtualClock, run_virtual

OPERATOR = "OP0000000001"
IMSI = "440100000000001"
DAY, NEXT_DAY = 20261130, 20261201
MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC)


class Stage:
    """A store and two nodes over it, five minutes before midnight; rollup began long ago."""

    def __init__(self) -> None:
        self.clock = VirtualClock(MIDNIGHT - timedelta(minutes=5))
        self.disk = Disk()
        self.usage = self.another()
        self.rollup = UsageRollup(usage=self.usage, clock=self.clock, after_s=0.0)

    def another(self) -> WideUsage:
        """The store as another node has it."""
        return WideUsage(engine=MemoryEngine(disk=self.disk, clock=self.clock), clock=self.clock)

    async def roll_up_until_done(self, folder: UsageRollup | None = None) -> None:
        while (pause_s := await (folder or self.rollup).step()) != LOOK_S:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(pause_s)

    async def rollup_progress(self) -> RollupProgress:
        rollup_progress = await self.usage.rollup_progress()
        assert rollup_progress is not None
        return rollup_progress

    def rows(self, table: str) -> int:
        return sum(len(p.rows) for (name, _), p in self.disk.partitions.items() if name == table)

    async def used(self, usage: WideUsage | None = None, day: int = DAY) -> int:
        return sum(row.volume.up_bytes for row in await (usage or self.usage).of_days(IMSI, [day]))


def played(script: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """Run a script on a stage, in virtual time."""

    @wraps(script)
    def test() -> None:
        async def main() -> None:
            stage = Stage()
            await stage.usage.put_rollup_progress(
                RollupProgress(begun=20261101, sealed=20261129, folded=20261129)
            )
            await script(stage)

        run_virtual(main)

    del test.__wrapped__  # pytest would ask for the stage
    return test


def report(up: int, *, day: int = DAY, imsi: str = IMSI, slot: int = 0, operator: str = OPERATOR,
           session: str = "s1", stamp: int = 0) -> UsageReport:  # fmt: skip
    label = SegmentLabel("s1.standard", "44010")
    return UsageReport(imsi, session, operator, 1, 0, label, day, slot, Volume(up, 0, 1, 0), stamp or up)


@played
async def test_a_day_is_sealed_when_it_is_due_and_rolled_up_when_all_have_heard(stage: Stage) -> None:
    for up in (100, 300, 200):
        await stage.usage.record([report(up, slot=up // 100)])
    assert await stage.rollup.step() == LOOK_S
    await asyncio.sleep(300)
    assert await stage.rollup.step() == SEAL_S
    assert (await stage.rollup_progress()).sealed == DAY
    assert stage.rows("usage_day") == 0
    await asyncio.sleep(SEAL_S)
    assert await stage.rollup.step() == 0.0
    assert (await stage.rollup_progress()).is_whole(DAY)
    (row,) = await stage.usage.of_days(IMSI, [DAY])
    assert (row.volume.up_bytes, row.label.plmn, row.operator_id) == (300, "44010", OPERATOR)
    assert (stage.rollup.rolled_up, stage.rollup.days_behind) == (1, 1)
    assert await stage.rollup.step() == LOOK_S
    assert stage.rollup.days_behind == 0


@played
async def test_folded_days_are_read_without_their_slots(stage: Stage) -> None:
    await stage.usage.record([report(100), report(7, day=NEXT_DAY)])
    await asyncio.sleep(300)
    await stage.roll_up_until_done()
    for key in [key for key in stage.disk.partitions if key[0] == "usage"]:
        del stage.disk.partitions[key]
    assert await stage.used(stage.another()) == 100
    assert await stage.used(stage.another(), NEXT_DAY) == 0
    stats = Stats(usage=stage.usage, clock=stage.clock)
    (line,) = await stats.of_imsis(
        OPERATOR, [IMSI], Period.MONTH, MIDNIGHT - timedelta(days=1), stage.clock.now()
    )
    assert line.by_class["s1.standard"].up_bytes == 100


@played
async def test_a_report_that_comes_days_later_is_in_the_rolled_up_day_when_it_is_durable(
    stage: Stage,
) -> None:
    await stage.usage.record([report(100), report(5, session="s2")])
    await asyncio.sleep(300)
    await stage.roll_up_until_done()
    stage.clock._epoch += timedelta(days=5)
    await stage.another().record([report(130, slot=9)])
    assert await stage.used(stage.another()) == 135
    await stage.roll_up_until_done()
    assert await stage.used(stage.another()) == 135


@played
async def test_a_late_report_adds_to_a_day_whose_slots_are_gone(stage: Stage) -> None:
    await stage.usage.record([report(100), report(5, session="s2")])
    await asyncio.sleep(300)
    await stage.roll_up_until_done()
    stage.clock._epoch += timedelta(seconds=SLOT_LIFE_S)
    await stage.another().record([report(130, slot=9)])
    assert await stage.usage.of_day(IMSI, DAY) == [report(130, slot=9)]
    assert await stage.used(stage.another()) == 135


@played
async def test_who_has_not_heard_of_a_seal_is_seen_by_the_folder(stage: Stage) -> None:
    """The node knows how far rollup has come as it was ROLLUP_FRESH_S ago."""
    other = stage.another()
    await asyncio.sleep(300)
    await other.record([report(100)])
    await stage.rollup.step()
    assert (await stage.rollup_progress()).sealed == DAY
    rollup_progress = asyncio.create_task(stage.roll_up_until_done())
    await asyncio.sleep(ROLLUP_FRESH_S - 0.1)
    await other.record([report(130, slot=9)])
    assert not rollup_progress.done()
    await rollup_progress
    assert await stage.used(stage.another()) == 130


def test_a_folder_that_does_not_wait_for_them_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding_module, "SEAL_S", 0.0)
    with pytest.raises(AssertionError):
        test_who_has_not_heard_of_a_seal_is_seen_by_the_folder()


@played
async def test_a_contradiction_lowers_nothing_and_is_put_aside(stage: Stage) -> None:
    await stage.usage.record([report(100, slot=1, stamp=1)])
    await asyncio.sleep(300)
    await stage.roll_up_until_done()
    await stage.another().record([report(60, slot=2, stamp=2)])
    assert await stage.used(stage.another()) == 100
    assert [item.report.volume.up_bytes for item in await stage.usage.quarantined(DAY)] == [60]
    await stage.another().record([report(110, slot=0, stamp=1)])  # one of before, that was long under way
    assert await stage.used(stage.another()) == 110


@played
async def test_a_row_inserted_into_a_rolled_up_day_is_folded_though_the_answer_was_lost(stage: Stage) -> None:
    await asyncio.sleep(300)
    await stage.roll_up_until_done()
    slots = stage.another()
    assert await slots.insert_if_absent(report(40))
    for key in [key for key in stage.disk.partitions if key[0] == "usage_day"]:
        del stage.disk.partitions[key]  # killed between the slot and its day
    assert not await slots.insert_if_absent(report(40))
    assert await stage.used(stage.another()) == 40


@played
async def test_a_folder_goes_on_where_another_stopped_page_by_page(stage: Stage) -> None:
    operators = ["OP0000000001", "OP0000000002", "OP0000000003"]
    imsis = [f"4401000000000{number:02d}" for number in range(25)]
    for operator in operators:
        await stage.usage.record(
            [report(1 + number, imsi=imsi, operator=operator, session=operator)
             for number, imsi in enumerate(imsis)]
        )  # fmt: skip
    await asyncio.sleep(300)
    await stage.rollup.step()
    await asyncio.sleep(SEAL_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding_module, "PAGE_MAX", 10)
        for _ in range(4):
            await stage.rollup.step()
        assert await stage.rollup_progress() == replace(
            await stage.rollup_progress(), folded=20261129, operator_id=operators[1], imsi=imsis[9]
        )
        heir = UsageRollup(usage=stage.another(), clock=stage.clock, after_s=0.0)
        await stage.roll_up_until_done(heir)
    assert (await stage.rollup_progress()).is_whole(DAY)
    assert (stage.rollup.rolled_up, heir.rolled_up) == (25 + 10, 15 + 25)
    assert stage.rows("usage_day") == 75


@played
async def test_days_without_usage_are_passed_over_and_missed_ones_made_up_for(stage: Stage) -> None:
    await stage.usage.record([report(100), report(9, day=20261203)])
    stage.clock._epoch += timedelta(days=10)
    await stage.rollup.step()
    await asyncio.sleep(SEAL_S)
    steps = 0
    while await stage.rollup.step() == 0.0:
        steps += 1
    assert steps == 3
    assert (await stage.rollup_progress()).folded == 20261209
    assert (await stage.used(), await stage.used(day=20261203)) == (100, 9)


def test_what_was_stored_before_folding_began_is_read_from_its_slots() -> None:
    async def main() -> None:
        stage = Stage()
        old = stage.another()
        old._indexed.add((OPERATOR, DAY, IMSI))  # a version without the index of operators to roll up
        await old.record([report(100)])
        await stage.rollup.step()
        rollup_progress = await stage.rollup_progress()
        assert (rollup_progress.begun, rollup_progress.sealed) == (DAY, 20261129)
        assert rollup_progress.folded == int((stage.clock.now() - BACK).strftime("%Y%m%d"))
        await asyncio.sleep(300)
        await stage.roll_up_until_done()
        assert (await stage.rollup_progress()).folded == DAY
        assert await stage.used(stage.another()) == 100

    run_virtual(main)


@played
async def test_two_folders_do_not_undo_each_other(stage: Stage) -> None:
    heir = UsageRollup(usage=stage.another(), clock=stage.clock, after_s=0.0)
    await stage.usage.record([report(100)])
    await asyncio.sleep(300)
    for folder in (stage.rollup, heir):
        await folder.step()
    await asyncio.sleep(SEAL_S)
    outcomes = await asyncio.gather(stage.rollup.step(), heir.step(), return_exceptions=True)
    assert sorted(str(type(outcome).__name__) for outcome in outcomes) == ["StaleVersion", "float"]
    await stage.roll_up_until_done(heir)
    assert (await stage.rollup_progress()).is_whole(DAY)
    assert await stage.used(stage.another()) == 100


def test_rollup_is_the_same_in_any_order_and_as_often_as_one_likes() -> None:
    rows = [report(up, slot=up // 100, session=s) for up in (100, 300, 200) for s in ("s1", "s2")]
    once, _ = roll_up(rows)
    assert roll_up(reversed(rows))[0] == once == roll_up([*once, *rows[:3]])[0]
    assert [row.volume.up_bytes for row in once] == [300, 300]


def test_lives_and_windows() -> None:
    assert timedelta(seconds=SLOT_LIFE_S) == BACK
    assert (USAGE.ttl_s, USAGE_DAY.ttl_s) == (SLOT_LIFE_S, USAGE_LIFE_S)
    assert [day_after(day) for day in (20261231, 20280228, 20261130)] == [20270101, 20280229, 20261201]


# -- singleton jobs
# -------------------------------------------------------------------------------------------


class CutOffEngine(MemoryEngine):
    """A store that one node may not reach."""

    is_cut_off = False

    async def _turn(self) -> None:
        if self.is_cut_off:
            raise Unavailable("cut off")
        await super()._turn()


class Crew:
    """Nodes that do one job, and who does it at any moment."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.disk = Disk()
        self.at_work: set[str] = set()
        self.together: list[set[str]] = []
        self.steps: list[str] = []
        self.is_away = False
        self.engines: dict[str, CutOffEngine] = {}

    def singleton_jobs(self, name: str) -> SingletonJobs:
        async def step() -> float:
            self.at_work.add(name)
            if len(self.at_work) > 1:
                self.together.append(set(self.at_work))
            try:
                await asyncio.sleep(0.4)
                if self.is_away:
                    raise Unavailable("the store is away")
                self.steps.append(name)
            finally:
                self.at_work.discard(name)
            return 0.5

        self.engines[name] = CutOffEngine(disk=self.disk, clock=self.clock)
        store = WideColumnStore(engine=self.engines[name], clock=self.clock)
        return SingletonJobs(
            leases=store.job_leases,
            peers=NoPeers(),
            clock=self.clock,
            owner=name,
            contact="",
            faults=Faults(clock=self.clock),
            steps={"fold": step},
        )


def test_one_node_does_a_job_and_another_when_it_dies() -> None:
    async def main() -> None:
        crew = Crew()
        one, other = crew.singleton_jobs("one"), crew.singleton_jobs("other")
        running = asyncio.create_task(one.run())
        await asyncio.sleep(5)
        standing_by = asyncio.create_task(other.run())
        await asyncio.sleep(60)
        assert set(crew.steps) == {"one"}
        assert set(one.held) == {"fold"}
        assert not other.held
        running.cancel()
        crew.steps.clear()
        await asyncio.sleep(GONE_AFTER_S + 3 * LEASE_LOOK_S + 1.0)
        assert set(crew.steps) == {"other"}
        assert crew.together == []
        standing_by.cancel()

    run_virtual(main)


def test_who_can_renew_no_more_stops_before_another_begins() -> None:
    async def main() -> None:
        crew = Crew()
        one, other = crew.singleton_jobs("one"), crew.singleton_jobs("other")
        running = [asyncio.create_task(one.run())]
        await asyncio.sleep(5)
        running.append(asyncio.create_task(other.run()))
        await asyncio.sleep(5)
        crew.engines["one"].is_cut_off = True
        await asyncio.sleep(LEASE_S)
        assert (set(crew.steps), one.held, other.held) == ({"one"}, frozenset(), frozenset())
        await asyncio.sleep(GONE_AFTER_S - LEASE_S + 2.0)
        assert set(crew.steps) == {"one", "other"}
        crew.engines["one"].is_cut_off = False
        crew.steps.clear()
        await asyncio.sleep(30)
        assert set(crew.steps) == {"other"}
        assert crew.together == []
        for task in running:
            task.cancel()

    run_virtual(main)


def test_a_job_is_handed_over_at_once_when_its_node_drains() -> None:
    async def main() -> None:
        crew = Crew()
        one, other = crew.singleton_jobs("one"), crew.singleton_jobs("other")
        running = [asyncio.create_task(one.run())]
        await asyncio.sleep(5)
        running.append(asyncio.create_task(other.run()))
        await asyncio.sleep(5)
        await one.drain()
        crew.steps.clear()
        await asyncio.sleep(3)
        assert set(crew.steps) == {"other"}
        assert crew.together == []
        for task in running:
            task.cancel()

    run_virtual(main)


def test_a_step_that_the_store_would_not_let_through_is_tried_again() -> None:
    async def main() -> None:
        crew = Crew()
        one = crew.singleton_jobs("one")
        running = asyncio.create_task(one.run())
        crew.is_away = True
        await asyncio.sleep(10)
        assert crew.steps == []
        assert one.outcomes["fold"]["failed"] > 3
        crew.is_away = False
        await asyncio.sleep(3)
        assert one.outcomes["fold"]["done"] == len(crew.steps) > 0
        assert not running.done()
        running.cancel()

    run_virtual(main)
