"""Closing months, in virtual time: who is closed, when, at which price, and what becomes of late usage."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps

import pytest

from billing import closing as closing_module
from billing.closing import LOOK_S, MonthCloser, late_usage
from billing.service import BillingService
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.tables import USAGE_OPERATOR
from core.adapters.store.wide_column import WideColumnStore
from core.domain.audit import AuditAction
from core.domain.billing import EPOCH, LateUsage, Tariff
from core.domain.usage import SegmentLabel, UsageReport, Volume
from core.errors import StaleVersion, Unavailable
from core.ports.billing import Bill
from core.services.metering.rollup import UsageRollup
from core.services.running.audit import AuditTrail
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual

ONE, OTHER = "OP0000000001", "OP0000000002"
GB = 1_000_000_000
USD, JPY = Tariff(), Tariff(currency="JPY", nano_per_byte=229)
OCTOBER, NOVEMBER = 202610, 202611
IMSI = "440100000000001"


class Node:
    """One process over the shared store and object store."""

    def __init__(self, stage: "Stage", tariff: Tariff) -> None:
        clock = stage.clock
        self.store = WideColumnStore(engine=MemoryEngine(disk=stage.disk, clock=clock), clock=clock)
        self.billing = BillingService(
            usage=self.store.usage,
            bills=self.store.bills,
            objects=stage.objects,
            clock=clock,
            configured=tariff,
        )
        entropy = SeededEntropy(random.Random(1))
        self.rollup = UsageRollup(usage=self.store.usage, clock=clock, after_s=3_600.0)
        self.closer = MonthCloser(
            billing=self.billing,
            usage=self.store.usage,
            bills=self.store.bills,
            clock=clock,
            audit=AuditTrail(audit=self.store.audit, clock=clock, entropy=entropy, actor="n1"),
        )

    async def use(self, octets: int, day: int, *, operator: str = ONE, session: str = "s1") -> None:
        stamp = day * 1_000_000 + octets
        label = SegmentLabel("s1.standard")
        report = UsageReport(IMSI, session, operator, 1, 0, label, day, 7, Volume(octets, 0, 1, 0), stamp)
        await self.store.usage.record([report])

    async def work(self) -> None:
        """Fold and close whatever is due now."""
        for step, pause_s in ((self.rollup.step, 10.0), (self.closer.step, LOOK_S)):
            while (left_s := await step()) != pause_s:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(left_s)

    async def bill(self, month: int, operator: str = ONE) -> Bill:
        return await self.billing.bill(operator, month)

    async def late(self) -> list[LateUsage]:
        closing = await self.store.bills.closing()
        assert closing is not None
        return [late async for late in late_usage(self.billing, self.store.usage, closing)]


class Stage:
    """Begins in the middle of October."""

    def __init__(self) -> None:
        self.clock = VirtualClock(datetime(2026, 10, 20, tzinfo=UTC))
        self.disk = Disk()
        self.objects = MemoryObjectStore()

    def node(self, tariff: Tariff = USD) -> Node:
        return Node(self, tariff)

    async def until(self, month: int, day: int, hour: int = 0) -> None:
        at = datetime(2026, month, day, hour, tzinfo=UTC)
        await asyncio.sleep((at - self.clock.now()).total_seconds())


def virtual(test: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        async def main() -> None:
            await test(Stage())

        run_virtual(main)

    del run.__wrapped__  # pytest would ask for a fixture `stage`
    return run


def priced(bill: Bill) -> tuple[int, str, int, bool]:
    return bill.amount.minor_units, bill.amount.currency, bill.quantity_bytes, bill.closed


@virtual
async def test_a_month_is_closed_whether_or_not_anybody_reads_it(stage: Stage) -> None:
    node = stage.node()
    await node.work()
    await node.use(GB, 20261021)
    await node.use(5, 20261031, operator=OTHER)
    await stage.until(11, 3, 23)
    await node.work()
    assert priced(await node.bill(OCTOBER)) == (20_000, "USD", GB, False)
    await stage.until(11, 4)
    assert not (await node.bill(OCTOBER)).closed, "reading closes nothing"
    await node.work()
    assert (node.closer.closed, node.closer.months_behind) == (2, 0)
    for operator, cents, octets in ((ONE, 20_000, GB), (OTHER, 0, 5), ("OP0000000009", 0, 0)):
        assert priced(await node.bill(OCTOBER, operator)) == (cents, "USD", octets, True)
    assert not (await node.bill(NOVEMBER)).closed


@virtual
async def test_its_price_is_that_of_its_end(stage: Stage) -> None:
    before = stage.node()
    await before.work()
    await before.use(GB, 20261021)
    await stage.until(11, 2)
    after = stage.node(JPY)
    await after.use(GB, 20261101, session="s2")
    expected = (20_000, "USD", GB)
    assert priced(await after.bill(OCTOBER))[:3] == expected
    assert priced(await after.bill(NOVEMBER)) == (229, "JPY", GB, False)
    assert priced(await before.bill(NOVEMBER)) == (229, "JPY", GB, False), "all nodes price alike"
    await stage.until(11, 4)
    await after.work()
    assert priced(await before.bill(OCTOBER)) == (*expected, True)
    closed = await after.billing.closed_month(ONE, OCTOBER)
    assert closed is not None
    assert (closed.tariff_version, closed.currency) == (1, "USD")
    first, second = await after.billing.tariffs()
    assert (first.version, first.valid_from, first.nano_per_byte) == (1, EPOCH, 200)
    assert (second.version, second.valid_from) == (2, datetime(2026, 11, 2, tzinfo=UTC))


@virtual
async def test_a_version_is_added_by_a_change_alone(stage: Stage) -> None:
    for tariff, versions in ((USD, 1), (USD, 1), (JPY, 2), (JPY, 2), (USD, 3)):
        assert len(await stage.node(tariff).billing.tariffs()) == versions
    one, other = stage.node(JPY), stage.node(JPY)
    await asyncio.gather(one.billing.tariffs(), other.billing.tariffs())
    assert len(await one.billing.tariffs()) == 4


@virtual
async def test_after_downtime_every_month_that_ended_is_closed_at_its_own_price(stage: Stage) -> None:
    node = stage.node()
    await node.work()
    await node.use(GB, 20261021)
    await stage.until(11, 30)
    await node.use(GB, 20261120, session="s2")
    changed = stage.node(JPY)
    await changed.billing.tariffs()
    await stage.until(12, 30)
    again = stage.node(JPY)
    await again.work()
    assert again.closer.closed == 2
    assert priced(await again.bill(OCTOBER)) == (20_000, "USD", GB, True)
    assert priced(await again.bill(NOVEMBER)) == (229, "JPY", GB, True)


@virtual
async def test_late_usage_is_shown_and_billed_nowhere(stage: Stage) -> None:
    node = stage.node()
    await node.work()
    await node.use(GB, 20261021)
    await node.use(40, 20261022, operator=OTHER, session="other")
    await stage.until(11, 4)
    await node.work()
    assert await node.late() == []
    await node.use(3 * GB, 20261021)
    await node.use(70, 20261030, operator="OP0000000009", session="new")
    await stage.until(11, 5)
    await node.work()
    assert priced(await node.bill(OCTOBER)) == (20_000, "USD", GB, True)
    assert priced(await node.bill(OCTOBER, "OP0000000009")) == (0, "USD", 0, True)
    expected = [
        LateUsage(ONE, OCTOBER, 1, 2 * GB, 2 * GB * 200, "USD"),
        LateUsage("OP0000000009", OCTOBER, 1, 70, 14_000, "USD"),
    ]
    assert await node.late() == node.closer.late == expected
    state = await stage.node(JPY).closer.state()
    assert (state["closed_until"], [late["quantity_bytes"] for late in state["late"]]) == (
        OCTOBER,
        [2 * GB, 70],
    )
    spans = [(each["version"], each["valid_from"], each["valid_until"]) for each in state["tariffs"]]
    changed = "2026-11-05T"
    assert [span[0] for span in spans] == [1, 2]
    assert spans[0][1].startswith("1970-01-01T")
    assert spans[0][2] == spans[1][1]
    assert spans[1][1].startswith(changed)
    assert spans[1][2] is None
    await stage.until(11, 6)
    await node.work()
    entries = (await node.store.audit.of_day(20261105)).items
    assert [(entry.action, entry.subject) for entry in entries] == [
        (AuditAction.LATE_USAGE, ONE),
        (AuditAction.LATE_USAGE, "OP0000000009"),
    ]
    assert f"{2 * GB} bytes" in entries[0].detail
    assert (await node.store.audit.of_day(20261106)).items == (), "the same is not audited again"


@virtual
async def test_two_nodes_that_close_at_once_close_once(stage: Stage) -> None:
    nodes = [stage.node(), stage.node(JPY)]
    await nodes[0].work()
    await nodes[0].use(GB, 20261021)
    await stage.until(11, 3, 23)
    await nodes[0].work()
    await stage.until(11, 4)

    async def close(node: Node) -> None:
        while True:
            try:
                if await node.closer.step() == LOOK_S:
                    return
            except StaleVersion:
                await asyncio.sleep(1)

    await asyncio.gather(*map(close, nodes))
    bills = [priced(await node.bill(OCTOBER)) for node in nodes]
    assert bills == [(20_000, "USD", GB, True)] * 2
    assert (await nodes[0].billing.statement(ONE, OCTOBER)) == await nodes[1].billing.statement(ONE, OCTOBER)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["statement", "row", "operator", "month"])
def test_a_kill_amid_closing_is_finished_by_the_next_node(at: str) -> None:
    @virtual
    async def run(stage: Stage) -> None:
        node = stage.node()
        await node.work()
        await node.use(GB, 20261021)
        await node.use(5, 20261021, operator=OTHER, session="other")
        await stage.until(11, 4)
        await node.rollup.step()
        await asyncio.sleep(40)
        while (pause_s := await node.rollup.step()) != 10.0:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(pause_s)

        async def killed(*_: object) -> None:
            raise Killed

        target = {
            "statement": (stage.objects, "put"),
            "row": (node.store.bills, "put_closed_month"),
            "operator": (node.store.bills, "put_closing"),
            "month": (node.billing, "close"),
        }[at]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*target, killed)
            with pytest.raises(Killed):
                while True:
                    await node.closer.step()
        await node.use(2 * GB, 20261021)
        after = stage.node()
        await after.work()
        bill = await after.bill(OCTOBER)
        assert bill.closed
        (*late,) = await after.late()
        shown = sum(each.quantity_bytes for each in late)
        assert bill.quantity_bytes + shown == 2 * GB, "billed or shown as late, never lost"
        assert priced(await after.bill(OCTOBER, OTHER)) == (0, "USD", 5, True)

    run()


@virtual
async def test_what_ended_before_closing_began_keeps_what_is_stored(stage: Stage) -> None:
    old = stage.node(JPY)
    await old.use(GB, 20260715)
    key = f"statements/{ONE}/202607.json"
    kept = (
        b'{"operator_id":"OP0000000001","month":202607,"currency":"USD","tariff_version":1,"charges":'
        b'[{"imsi":"440100000000001","day":20260715,"bill_item":"dataTrafficCharge.s1.standard",'
        b'"quantity_bytes":5000000,"unit_price_nano":200,"amount_nano":1000000000}]}'
    )
    await stage.objects.put(key, kept)
    await old.work()
    assert priced(await old.bill(202607)) == (100, "USD", 5_000_000, True)
    closed = await old.billing.closed_month(ONE, 202607)
    assert closed is not None
    assert closed.tariff_version == 0, "no version that is known priced it"
    assert priced(await old.bill(202606)) == (0, "JPY", 0, True)


@virtual
async def test_a_statement_that_is_missing_or_another_is_no_bill_of_nothing(stage: Stage) -> None:
    node = stage.node()
    await node.work()
    await node.use(GB, 20261021)
    await stage.until(11, 4)
    await node.work()
    stage.objects._objects.clear()
    with pytest.raises(Unavailable, match=r"objects\.s3"):
        await node.billing.statement(ONE, OCTOBER)
    await stage.objects.put(f"statements/{ONE}/{OCTOBER}.json", b"{}")
    with pytest.raises(Unavailable, match="not the statement that was closed"):
        await node.billing.statement(ONE, OCTOBER)


@virtual
async def test_a_month_waits_until_its_days_are_rolled_up(stage: Stage) -> None:
    node = stage.node()
    await node.work()
    await node.use(GB, 20261021)
    await stage.until(11, 5)
    assert await node.closer.step() == LOOK_S
    assert node.closer.months_behind == 1
    assert not (await node.bill(OCTOBER)).closed
    await node.work()
    assert (await node.bill(OCTOBER)).closed


def test_bounds_fit_the_tables() -> None:
    assert timedelta(seconds=USAGE_OPERATOR.ttl_s) == closing_module.INDEXED
