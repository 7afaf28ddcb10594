"""The bill from rolled up days is the bill from slots, to the byte, whatever happens to the rollup.

Nodes over one store, each with a wall clock that jumps; reports that come days late, twice and out of order;
several folders at once, killed at any point, whose last writes land when another has long gone on.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.export import to_csv
from billing.service import BillingService
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.bills import WideBills
from core.adapters.store.engine import Batch
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.tables import USAGE_DAY
from core.adapters.store.usage import UsageDays, WideUsage, _day_put
from core.domain.billing import Tariff
from core.domain.usage import RollupProgress, SegmentLabel, UsageReport, Volume, roll_up
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock
from core.services.metering.rollup import UsageRollup
from loadtest.simulation.virtual import VirtualClock, run_virtual

OPERATOR = "OP0000000001"
MONTH = 202611
DAYS = (20261127, 20261128, 20261129)
BEGINNING = datetime(2026, 11, 27, 23, 58, tzinfo=UTC)
RUN_S = 200.0
SEGMENTS = 24
STORE_S_MAX, STUCK_S_MAX = 2.0, 60.0
"""What a call usually takes, and what one in twenty takes."""


class JumpingClock(VirtualClock):
    """A wall clock that is set; the monotonic one continues."""

    def __init__(self) -> None:
        super().__init__(BEGINNING)
        self.jumped = timedelta()

    def now(self) -> datetime:
        return super().now() + self.jumped


class SlowEngine(MemoryEngine):
    """Takes its time, loses answers, and carries a write out though its caller be dead by then."""

    def __init__(self, disk: Disk, clock: Clock, rng: random.Random) -> None:
        super().__init__(disk=disk, clock=clock)
        self._rng = rng
        self._under_way: set[asyncio.Task[None]] = set()

    async def _turn(self) -> None:
        slow = STUCK_S_MAX if self._rng.random() < 0.05 else STORE_S_MAX
        await asyncio.sleep(self._rng.random() * slow)

    async def write(self, *batches: Batch) -> None:
        task = asyncio.create_task(super().write(*batches))
        self._under_way.add(task)
        task.add_done_callback(self._land)
        await asyncio.shield(task)
        if self._rng.random() < 0.1:
            raise Unavailable("stored, and the answer lost", ambiguous=True)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()


class Case:
    """One run by seed."""

    usage_type: type[WideUsage] = WideUsage
    days_type: type[UsageDays] = UsageDays

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = Disk()
        self.truth: dict[tuple[str, str, int, int, int], UsageReport] = {}
        self.clocks = [JumpingClock() for _ in range(3)]
        self.nodes = [self._usage(clock) for clock in self.clocks]

    def _usage(self, clock: Clock) -> WideUsage:
        usage = self.usage_type(engine=SlowEngine(self.disk, clock, self.rng), clock=clock)
        usage._days.__class__ = self.days_type
        return usage

    async def run(self) -> tuple[bytes, bytes]:
        """The bill from rolled up days and from slots."""
        calm = WideUsage(engine=MemoryEngine(disk=self.disk, clock=self.clocks[0]), clock=self.clocks[0])
        await calm.put_rollup_progress(RollupProgress(begun=20261120, sealed=20261126, folded=20261126))
        async with asyncio.TaskGroup() as tasks:
            for number in range(SEGMENTS):
                tasks.create_task(self._report(number))
            for node, clock in zip(self.nodes, self.clocks, strict=True):
                tasks.create_task(self._roll_up(node, clock))
                tasks.create_task(self._jump(clock))
        last = UsageRollup(usage=calm, clock=self.clocks[0], after_s=0.0)
        self.clocks[0].jumped = timedelta(days=2)
        async with asyncio.timeout(600):
            while not await self._is_rolled_up(calm):  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(await last.step())
        return await self._bill(calm), await self._bill(FromSlots(calm))

    async def _is_rolled_up(self, usage: WideUsage) -> bool:
        rollup_progress = await usage.rollup_progress()
        return rollup_progress is not None and all(rollup_progress.is_whole(day) for day in DAYS)

    async def _bill(self, usage: "WideUsage | FromSlots") -> bytes:
        clock = VirtualClock(datetime(2026, 12, 1, tzinfo=UTC))
        billing = BillingService(
            usage=usage,  # type: ignore[arg-type]  # what a bill asks for
            bills=WideBills(engine=MemoryEngine(disk=Disk(), clock=clock)),
            objects=MemoryObjectStore(),
            clock=clock,
            configured=Tariff(),
        )
        return to_csv(await billing.statement(OPERATOR, MONTH))

    async def _report(self, number: int) -> None:
        """One segment's reports, some of them at once, each until it is acknowledged."""
        report = UsageReport(
            imsi=f"44010000000000{number % 2}",
            session_id=f"s{number % 3}",
            operator_id=OPERATOR,
            epoch=number,
            segment=0,
            label=SegmentLabel(self.rng.choice(["s1.standard", "s1.fast"])),
            day=self.rng.choice(DAYS),
            slot=self.rng.randrange(280),
            volume=Volume(),
            timestamp_us=1_000_000,
        )
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.rng.randint(1, 5)):
                await asyncio.sleep(self.rng.random() * RUN_S / self.rng.choice([4, 40]))
                more = Volume(*(self.rng.randrange(1_000) for _ in range(4)))
                stamp = report.timestamp_us + self.rng.choice([1, 1_000_000])
                slot = report.slot + self.rng.randint(0, 1)
                report = replace(report, volume=report.volume + more, timestamp_us=stamp, slot=slot)
                for _ in range(self.rng.randint(1, 2)):
                    tasks.create_task(self._store(report))

    async def _store(self, report: UsageReport) -> None:
        while True:
            with suppress(Unavailable):
                return await self.rng.choice(self.nodes).record([report])

    async def _roll_up(self, usage: WideUsage, clock: Clock) -> None:
        """A folder, killed and begun again, without a lease."""
        until = clock.monotonic() + RUN_S
        while clock.monotonic() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.rng.random() * 120.0):
                    await self._roll_up_on(UsageRollup(usage=usage, clock=clock, after_s=0.0))

    async def _roll_up_on(self, folder: UsageRollup) -> None:
        while True:
            with suppress(Unavailable, StaleVersion):
                await asyncio.sleep(await folder.step())

    async def _jump(self, clock: JumpingClock) -> None:
        for _ in range(3):
            await asyncio.sleep(self.rng.random() * RUN_S / 3)
            clock.jumped = timedelta(days=self.rng.randint(-3, 3))


class FromSlots:
    """Usage as if nothing were ever rolled up."""

    def __init__(self, usage: WideUsage) -> None:
        self._usage = usage
        self.imsis_of = usage.imsis_of

    async def of_days(self, imsi: str, days: Sequence[int]) -> Sequence[UsageReport]:
        return roll_up([row for day in days for row in await self._usage.of_day(imsi, day)])[0]


@given(st.integers(0, 2**32))
def test_the_bill_from_rolled_up_days_is_the_bill_from_slots(seed: int) -> None:
    folded, from_slots = run_virtual(Case(seed).run)
    assert folded == from_slots
    assert len(folded.splitlines()) > 1


# -- that it can fail ---------------------------------------------------------------------------------


class AddingDays(UsageDays):
    """Planted: what is rolled up is added to what stands there, in the place of being set."""

    async def join(self, imsi: str, day: int, reports: Iterable[UsageReport]) -> None:
        stored = {(row.session_id, row.epoch): row for row in await self.read(imsi, day, day)}
        added = [
            replace(row, volume=row.volume + stored[row.session_id, row.epoch].volume)
            if (row.session_id, row.epoch) in stored
            else row
            for row in roll_up(reports)[0]
        ]
        await super().join(imsi, day, added)


class UnstampedDays(UsageDays):
    """Planted: the last writer wins, with values that it read long before."""

    async def join(self, imsi: str, day: int, reports: Iterable[UsageReport]) -> None:
        puts = tuple(replace(_day_put(row, None), timestamp_us=None) for row in roll_up(reports)[0])
        await self._engine.write(Batch(USAGE_DAY, (imsi, day // 100), puts))


class DeafUsage(WideUsage):
    """Planted: a late report is stored, and its day is not rolled up again."""

    async def _roll_up_late(self, reports: Iterable[UsageReport]) -> None:
        pass


def case(usage: type[WideUsage] = WideUsage, days: type[UsageDays] = UsageDays) -> type[Case]:
    return type("Planted", (Case,), {"usage_type": usage, "days_type": days})


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(case(days=AddingDays), id="added"),
        pytest.param(case(days=UnstampedDays), id="unstamped"),
        pytest.param(case(usage=DeafUsage), id="deaf"),
    ],
)
def test_a_planted_bug_is_caught(planted: type[Case]) -> None:
    for seed in range(60):
        folded, from_slots = run_virtual(planted(seed).run)
        if folded != from_slots:
            return
    pytest.fail("no seed caught it")
