"""Closed + late = metered, by seed: two nodes close at once and are killed, the store fails before and after,
usage comes until long after the closing, the tariff changes, bills are read all the while. Planted bugs are
caught.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from billing.closing import MonthCloser, late_usage
from billing.service import BillingService
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.memory import Disk
from core.adapters.store.wide_column import WideColumnStore
from core.domain.billing import CLOSING_DELAY, ClosedMonth, Tariff
from core.domain.months import end_of
from core.domain.usage import SegmentLabel, UsageReport, Volume
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.services.cluster.singleton_jobs import Step
from core.services.metering.rollup import UsageRollup
from core.services.running.audit import AuditTrail
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual
from tests.property.test_rollup import SlowEngine

SEEDS = 12
MONTH = 202610
OPERATORS = ("OP0000000001", "OP0000000002", "OP0000000003")
DAYS = (20261029, 20261030, 20261031)
END = end_of(MONTH)
BEGINS, CLOSES, ENDS = END - timedelta(hours=2), END + CLOSING_DELAY, END + CLOSING_DELAY + timedelta(hours=1)
OLD, NEW = Tariff(), Tariff(currency="JPY", nano_per_byte=229)


Job = Callable[[int], Step]


class World:
    closer_type = MonthCloser
    billing_type = BillingService

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock(BEGINS)
        self.disk, self.objects = Disk(), MemoryObjectStore()
        self.truth: dict[tuple[str, str], UsageReport] = {}
        self.seen: dict[str, tuple[Any, ...]] = {}
        self.findings: list[str] = []
        change = self.rng.choice([END - timedelta(hours=1), END + timedelta(hours=3), CLOSES])
        self.change_s = (change - BEGINS).total_seconds()
        self.price = NEW if change < END else OLD
        self.is_down = self.rng.random() < 0.5
        """Whether no node rolls up or closes from before the month's end until it is due to be closed."""
        self.folds_s = self.rng.random() * 1_800 if self.is_down else 0.0
        """How much later than closing, which is another lease, rollup is taken up."""

    def store(self) -> WideColumnStore:
        return WideColumnStore(engine=SlowEngine(self.disk, self.clock, self.rng), clock=self.clock)

    def billing(self, store: WideColumnStore) -> BillingService:
        is_new = self.clock.monotonic() >= self.change_s
        return self.billing_type(
            usage=store.usage,
            bills=store.bills,
            objects=self.objects,
            clock=self.clock,
            configured=NEW if is_new else OLD,
        )

    async def run(self) -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(2):
                tasks.create_task(self._work(number, self._rollup_progress, self.folds_s))
                tasks.create_task(self._work(number, self._closing, 0.0))
            for number in range(8):
                tasks.create_task(self._report(number))
            tasks.create_task(self._read())
            tasks.create_task(self._change())
        await self._check()
        return self.findings

    # -- what goes on -----------------------------------------------------------------------------------

    async def _work(self, number: int, job: Job, after_s: float) -> None:
        """A process with a job, killed now and then; nothing runs in the days of waiting."""
        while not self.is_down and self.clock.now() < END + timedelta(hours=3):
            await self._live(job(number), self.rng.random() * 4_000)
        begins = CLOSES + timedelta(seconds=after_s - 100)
        await asyncio.sleep(max((begins - self.clock.now()).total_seconds(), 0.0))
        while self.clock.now() < ENDS:
            await self._live(job(number), self.rng.random() * 600)

    async def _live(self, step: Step, life_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(life_s):
                await self._drive(step)
        await asyncio.sleep(self.rng.random() * 20)

    def _rollup_progress(self, _: int) -> Step:
        return UsageRollup(usage=self.store().usage, clock=self.clock, after_s=3_600.0).step

    def _closing(self, number: int) -> Step:
        store, entropy = self.store(), SeededEntropy(self.rng)
        return self.closer_type(
            billing=self.billing(store),
            usage=store.usage,
            bills=store.bills,
            clock=self.clock,
            audit=AuditTrail(audit=store.audit, clock=self.clock, entropy=entropy, actor=f"n{number}"),
        ).step

    async def _drive(self, step: Step) -> None:
        while True:
            try:
                pause_s = await step()
            except (Unavailable, StaleVersion):
                pause_s = 1.0
            await asyncio.sleep(max(pause_s, 0.01))

    async def _report(self, number: int) -> None:
        """A segment that grows; each report is repeated until it is acknowledged."""
        day = self.rng.choice(DAYS)
        report = UsageReport(
            imsi=f"44010000000000{number % 3}",
            session_id=f"s{number}",
            operator_id=self.rng.choice(OPERATORS),
            epoch=1,
            segment=0,
            label=SegmentLabel("s1.standard"),
            day=day,
            slot=5,
            volume=Volume(),
            timestamp_us=1_000_000,
        )
        times = [END - timedelta(minutes=self.rng.random() * 90)]
        times += [CLOSES + timedelta(seconds=self.rng.randrange(-400, 1_200)) for _ in range(6)]
        store = self.store()
        for at in sorted(self.rng.sample(times, self.rng.randint(1, 6))):
            await asyncio.sleep(max((at - self.clock.now()).total_seconds(), 0.0))
            if self.rng.random() < 0.3:
                store = self.store()
            volume = report.volume + Volume(self.rng.randrange(1, 10**6), 0, 1, 0)
            report = replace(report, volume=volume, timestamp_us=report.timestamp_us + 1)
            await self._until_done(partial(store.usage.record, [report]))
            self.truth[report.operator_id, report.session_id] = report

    async def _change(self) -> None:
        """A node that is started with another tariff."""
        billing = self.billing(self.store())
        await self._until_done(billing.tariffs)
        await asyncio.sleep(self.change_s - self.clock.monotonic())
        await self._until_done(self.billing(self.store()).tariffs)

    async def _read(self) -> None:
        store = self.store()
        while self.clock.now() < ENDS:
            left_s = (CLOSES - self.clock.now()).total_seconds()
            most_s = 120.0 if left_s <= 0 else min(left_s + 1.0, 40_000.0)
            await asyncio.sleep(self.rng.uniform(0.5, 1.0) * most_s)
            for operator_id in OPERATORS:
                with suppress(Unavailable):
                    await self._look(self.billing(store), operator_id)

    async def _look(self, billing: BillingService, operator_id: str) -> None:
        bill = await billing.bill(operator_id, MONTH)
        if self.clock.now() > END + timedelta(hours=4) and bill.amount.currency != self.price.currency:
            self.findings.append(f"{operator_id}: priced in {bill.amount.currency}")
        if not bill.closed:
            if operator_id in self.seen:
                self.findings.append(f"{operator_id}: open again")
            return
        told = (bill.amount, bill.quantity_bytes, await billing.statement(operator_id, MONTH))
        if self.seen.setdefault(operator_id, told) != told:
            self.findings.append(f"{operator_id}: was {self.seen[operator_id][:2]}, is {told[:2]}")

    async def _until_done(self, call: Any) -> Any:
        while True:
            with suppress(Unavailable):
                return await call()
            await asyncio.sleep(0.5)

    # -- what must hold -----------------------------------------------------------------------------------

    async def _check(self) -> None:
        store = self.store()
        billing = self.billing(store)

        async def late() -> dict[str, int]:
            closing = await store.bills.closing()
            assert closing is not None
            found = [late async for late in late_usage(billing, store.usage, closing)]
            return {each.operator_id: each.quantity_bytes for each in found if each.month == MONTH}

        shown = await self._until_done(late)
        for operator_id in OPERATORS:
            await self._until_done(partial(self._look, billing, operator_id))
            if operator_id not in self.seen:
                self.findings.append(f"{operator_id}: never closed")
                continue
            used = sum(r.volume.up_bytes for (who, _), r in self.truth.items() if who == operator_id)
            billed, is_late = self.seen[operator_id][1], shown.get(operator_id, 0)
            if billed + is_late != used:
                self.findings.append(f"{operator_id}: used {used}, billed {billed}, late {is_late}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_closed_and_late_is_what_was_used(seed: int) -> None:
    assert run_virtual(World(seed).run) == []


def test_a_run_bills_and_is_late() -> None:
    worlds = [World(seed) for seed in range(5)]
    for world in worlds:
        run_virtual(world.run)
    assert {world.price for world in worlds} == {OLD, NEW}
    billed = sum(told[1] for world in worlds for told in world.seen.values())
    assert 0 < billed < sum(r.volume.up_bytes for world in worlds for r in world.truth.values())


# -- planted bugs ---------------------------------------------------------------------------------------


class EagerCloser(MonthCloser):
    """Planted: reads a month as soon as its time has come, while unmarked usage is still pending."""

    async def _is_rolled_up(self, month: int) -> bool:
        return True


class FixedByReading(BillingService):
    """Planted, as it once was: the first read of a month closes it, at the price of that day."""

    async def closed_month(self, operator_id: str, month: int) -> ClosedMonth | None:
        return await (super().closed_month if self._clock.now() < CLOSES else self.close)(operator_id, month)


class PricedToday(BillingService):
    """Planted: a month that ended is priced by the tariff of the day."""

    async def tariffs(self) -> Any:
        return (await super().tariffs())[-1:]


class NotKept(BillingService):
    """Planted: what is closed is worked out again."""

    async def charges_of(self, closed: ClosedMonth) -> Any:
        return await self._work_out(closed.operator_id, closed.month)


def world_with(name: str, planted: type) -> type[World]:
    return type("Planted", (World,), {name: planted})


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(world_with("closer_type", EagerCloser), id="eager"),
        pytest.param(world_with("billing_type", FixedByReading), id="fixed by reading"),
        pytest.param(world_with("billing_type", PricedToday), id="priced today"),
        pytest.param(world_with("billing_type", NotKept), id="not kept"),
    ],
)
def test_a_planted_bug_is_caught(planted: type[World]) -> None:
    assert any(run_virtual(planted(seed).run) for seed in range(SEEDS))
