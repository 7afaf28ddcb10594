"""The arithmetic of a layout: its writes are those that the code makes, and its sums are right."""

from collections import Counter
from datetime import timedelta

import pytest

from core.adapters.store.engine import Batch
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.rows import body_of
from core.adapters.store.wide_column import WideColumnStore
from core.domain.values import replace
from loadtest.proofs import sizing
from loadtest.proofs.scale import fleet_of
from loadtest.proofs.sizing import Demand, Supply, as_lines, lay_out
from loadtest.report import plot, table_of
from tests.contract.stores import NOW, SetClock, event_of, report_of, session_of, sim_of


class Counting(MemoryEngine):
    """Counts what is written, plain and under a condition."""

    def __init__(self) -> None:
        super().__init__(disk=Disk(), clock=SetClock())
        self.written: Counter[str] = Counter()

    async def write(self, *batches: Batch) -> None:
        self.written.update("conditional" if batch.condition else "plain" for batch in batches)
        await super().write(*batches)


async def test_the_writes_are_those_that_the_code_makes() -> None:
    engine = Counting()
    store = WideColumnStore(engine=engine, clock=SetClock())
    sim = sim_of(1)
    session, created = session_of(sim), event_of(sim)
    stored = await store.sessions.put(session, created)
    await store.sessions.sent("vg-1", [created])
    assert engine.written == {"plain": sizing.ATTACH_WRITES, "conditional": sizing.ATTACH_CONDITIONAL}
    engine.written.clear()
    ended = replace(event_of(sim, 2), at=NOW + timedelta(hours=1))
    await store.sessions.close(stored, ended)
    await store.sessions.sent("vg-1", [ended])
    assert engine.written == {"plain": sizing.DETACH_WRITES, "conditional": sizing.DETACH_CONDITIONAL}
    await store.usage.record([report_of(1)])
    engine.written.clear()
    await store.usage.record([report_of(2)])
    assert engine.written == {"plain": 1}, "a report is one write"
    engine.written.clear()
    await store.prove("node-1")
    assert engine.written == {"plain": 1}, "of a node, each time it is looked whether it is ready"


def test_rows_are_as_big_as_they_are() -> None:
    sim = sim_of(1)
    assert sizing.EVENT_ROW_BYTES == pytest.approx(len(str(body_of(event_of(sim)))) + 100, rel=0.1)
    assert sizing.SESSION_ROW_BYTES == pytest.approx(len(str(body_of(session_of(sim)))) + 100, rel=0.1)


def test_ten_million_sims() -> None:
    layout = lay_out(Demand(), Supply())
    assert (layout.gateways, layout.sessions_per_gateway) == (1_000, 6_000)
    pool = layout.gateways * 2 ** (32 - layout.addresses_prefix)
    assert layout.sessions * 1.2 < pool <= 2**23, "all pools fit into 10.128.0.0/9"
    assert layout.rows_per_day["usage"] == 6_000_000 * 24
    assert layout.renewals_per_s == 1_000
    supply, survivors = Supply(), layout.nodes // 3 - 1
    each_begins = -(-layout.gateways_per_node // survivors)
    took_s = supply.notice_s + each_begins * (layout.read_back_s + supply.move_s)
    assert took_s < supply.take_over_s_max
    assert fleet_of(layout, supply).nodes == layout.nodes
    assert any("Kinesis shards" in line for line in as_lines(layout))


def test_twice_the_sims_are_twice_the_work() -> None:
    one, two = (lay_out(Demand(sims=sims), Supply()) for sims in (5_000_000, 10_000_000))
    assert two.writes_per_s == pytest.approx(2 * one.writes_per_s)
    assert two.gib_kept == {table: pytest.approx(2 * gib) for table, gib in one.gib_kept.items()}


def test_a_page_shows_text_as_text() -> None:
    assert table_of([["a"], ["<b>"]]) == "<table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table>"
    assert plot("SIMs", {"one": [0.0, 2.0]}, 1).count("<polyline") == 1
