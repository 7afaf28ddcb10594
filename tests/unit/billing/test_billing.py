"""Billing: exact to the byte and to the nano-unit, the same on every re-run, against a second reckoning."""

import ast
import csv
import hashlib
import io
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.export import COLUMNS, decimal_text, to_csv
from billing.rating import make_statement, rate, records_of, to_minor_units
from billing.service import BillingService
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.usage import WideUsage
from core.adapters.store.wide import WideStore
from core.domain.billing import Tariff
from core.domain.usage import SegmentLabel, UsageReport, Volume, fold
from core.domain.values import replace

OPERATOR = "OP0000000001"


class SetClock:
    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


def row(
    up: int, down: int, *, session: str = "s1", epoch: int = 1, segment: int = 0, slot: int = 0,
    imsi: str = "440100000000001", day: int = 20261124, speed: str = "s1.standard", operator: str = OPERATOR,
) -> UsageReport:  # fmt: skip
    volume = Volume(up, down, up // 100, down // 100)
    stamp = slot * 1_000_000 + up + down
    return UsageReport(imsi, session, operator, epoch, segment, SegmentLabel(speed), day, slot, volume, stamp)


def test_a_day_is_the_sum_of_the_highest_of_each_segment() -> None:
    rows = [
        row(100, 50, slot=1),
        row(300, 70, slot=2),
        row(300, 70, slot=2),
        row(40, 0, segment=1, slot=3),
        row(10, 10, epoch=2, slot=4),
        row(7, 7, session="s2", slot=4, speed="s1.fast"),
    ]
    segments, contradictions = fold(rows)
    records = records_of(segments)
    assert [(r.speed_class, r.up_bytes, r.down_bytes) for r in records] == [
        ("s1.fast", 7, 7),
        ("s1.standard", 350, 80),
    ]
    assert contradictions == []


def test_a_segment_that_goes_down_is_reported_and_its_highest_counts() -> None:
    rows = [row(100, 0, slot=1), row(60, 0, slot=2)]
    segments, contradictions = fold(rows)
    assert records_of(segments)[0].up_bytes == 100
    assert contradictions == rows[1:]
    assert fold([*segments, rows[1]])[0] == segments


def test_quantity_is_rounded_up_and_money_is_not() -> None:
    (record,) = records_of([row(1_000, 25)])
    charge = rate(record, Tariff(nano_per_byte=3, unit_bytes=1_024, overhead_bytes=0))
    assert (charge.quantity_bytes, charge.amount_nano) == (2_048, 6_144)
    assert rate(record, Tariff(overhead_bytes=50)).quantity_bytes == 1_025 + 10 * 50


@pytest.mark.parametrize(
    ("nano", "currency", "minor"),
    [
        (4_999_999, "USD", 0),
        (5_000_000, "USD", 1),
        (14_999_999, "USD", 1),
        (499_999_999, "JPY", 0),
        (500_000_000, "JPY", 1),
    ],
)
def test_the_total_is_rounded_once_half_up(nano: int, currency: str, minor: int) -> None:
    assert to_minor_units(nano, currency) == minor


@given(st.integers(0, 10**20))
def test_decimal_text_is_exact(nano: int) -> None:
    text = decimal_text(nano)
    assert Decimal(text) == Decimal(nano) / 10**9
    assert "E" not in text


def test_the_same_usage_is_the_same_bytes() -> None:
    records = records_of([row(up, 3 * up, session=f"s{up}") for up in range(1, 30)])
    more = [replace(records[0], day=20261100 + day, up_bytes=day) for day in range(1, 29)]
    digests = set()
    for seed in range(5):
        random.Random(seed).shuffle(more)
        statement = make_statement(OPERATOR, 202611, "USD", 1, [rate(r, Tariff()) for r in more])
        digests.add(hashlib.sha256(to_csv(statement)).hexdigest())
    assert len(digests) == 1


async def service(rows: list[UsageReport], clock: SetClock) -> BillingService:
    store = WideStore(engine=MemoryEngine(disk=Disk(), clock=clock), clock=clock)
    await store.usage.record(rows)
    return BillingService(
        usage=store.usage, bills=store.bills, objects=MemoryObjectStore(), clock=clock, configured=Tariff()
    )


@given(st.data())
async def test_a_bill_agrees_with_a_reckoning_of_its_own(data: st.DataObject) -> None:
    """Random sessions, epochs and segments; reports doubled, reordered and lost but for the last."""
    truth: dict[tuple[str, str, int, int, int], int] = {}
    rows: list[UsageReport] = []
    for _ in range(data.draw(st.integers(1, 8))):
        imsi = data.draw(st.sampled_from(["440100000000001", "440100000000002"]))
        session = data.draw(st.sampled_from(["a", "b"])) + imsi
        epoch, segment = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 2))
        day = data.draw(st.sampled_from([20261101, 20261124]))
        key = (imsi, session, epoch, segment, day)
        if key in truth:
            continue
        steps = sorted(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=4)))
        truth[key] = 2 * steps[-1]
        for slot, value in enumerate(steps):
            one = row(
                value, value, imsi=imsi, session=session, epoch=epoch, segment=segment, day=day, slot=slot
            )
            rows += [one] * data.draw(st.integers(1, 2))
    shuffled = data.draw(st.permutations(rows))
    billing = await service(shuffled, SetClock(datetime(2026, 11, 25, tzinfo=UTC)))
    bill = await billing.bill(OPERATOR, 202611)
    assert bill.quantity_bytes == sum(truth.values())
    nano = sum(truth.values()) * 200
    assert bill.amount.minor_units == int((Decimal(nano) / 10**7).quantize(Decimal(1), "ROUND_HALF_UP"))
    days = await billing.daily(OPERATOR, 202611)
    assert sum(day.amount_nano for day in days) == nano


async def test_the_csv_adds_up_by_itself() -> None:
    clock = SetClock(datetime(2026, 11, 25, tzinfo=UTC))
    billing = await service([row(1_000, 2_000), row(5, 6, day=20261123, slot=9)], clock)
    objects = billing._objects
    key = await billing.export(OPERATOR, 202611)
    assert key == await billing.export(OPERATOR, 202611)
    content = await objects.get(key)
    assert content is not None
    assert content.startswith(b"\xef\xbb\xbfimsi,date,billItemName")
    lines = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["date"], line["quantity"]) for line in lines] == [("20261123", "11"), ("20261124", "3000")]
    for line in lines:
        assert Decimal(line["amount"]) == Decimal(line["unitPrice"]) * int(line["quantity"])


async def test_rows_are_billed_to_the_operator_that_they_carry() -> None:
    clock = SetClock(datetime(2026, 11, 25, tzinfo=UTC))
    billing = await service([row(100, 0), row(9, 0, operator="OP0000000002", session="s2")], clock)
    assert (await billing.bill(OPERATOR, 202611)).quantity_bytes == 100
    assert (await billing.bill("OP0000000002", 202611)).quantity_bytes == 9


async def test_a_bill_reads_each_sim_of_a_month_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sims, days, read = ["440100000000001", "440100000000002"], (20261121, 20261122, 20261124), list[str]()
    of_days = WideUsage.of_days

    async def counted(usage: WideUsage, imsi: str, wanted: Sequence[int]) -> Sequence[UsageReport]:
        read.append(imsi)
        return await of_days(usage, imsi, wanted)

    monkeypatch.setattr(WideUsage, "of_days", counted)
    rows = [row(100, 0, imsi=imsi, day=day) for imsi in sims for day in days]
    billing = await service(rows, SetClock(datetime(2026, 11, 25, tzinfo=UTC)))
    assert (await billing.bill(OPERATOR, 202611)).quantity_bytes == 600
    assert read == sims


async def test_an_open_month_follows_usage() -> None:
    clock = SetClock(datetime(2026, 12, 1, 1, tzinfo=UTC))
    billing = await service([row(100, 0)], clock)
    assert not (await billing.bill(OPERATOR, 202611)).closed
    await billing._usage.record([row(900, 0, slot=5)])
    assert (await billing.bill(OPERATOR, 202611)).quantity_bytes == 900


def test_no_float_anywhere_in_billing() -> None:
    for path in Path("billing").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Div), path
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), path
            is_float = isinstance(node, ast.Name) and node.id == "float"
            assert not is_float or path.name == "closing.py", path  # where it is seconds
