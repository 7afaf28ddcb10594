"""Usage under duplication and reordering is the maximum by timestamp, whatever the engine."""

import asyncio
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.usage import UsageReport
from tests.contract.stores import OPENERS, World, report_of

reports_strategy = st.lists(
    st.builds(
        report_of,
        st.integers(0, 1_000),
        slot=st.integers(0, 2),
        session=st.sampled_from(["s1", "s2"]),
        epoch=st.integers(1, 2),
        segment=st.integers(0, 1),
    ),
    max_size=30,
)


@pytest.mark.parametrize("adapter", sorted(OPENERS))
@given(reports=reports_strategy, seed=st.integers(0, 2**32), calls=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_usage_is_the_maximum_by_timestamp(
    adapter: str, reports: list[UsageReport], seed: int, calls: int
) -> None:
    rng = random.Random(seed)
    sent = reports + rng.choices(reports, k=len(reports)) if reports else []
    rng.shuffle(sent)
    expected: dict[tuple[int, str, int, int], UsageReport] = {}
    for report in reports:
        key = (report.slot, report.session_id, report.epoch, report.segment)
        expected[key] = max(report, expected.get(key, report), key=lambda r: r.timestamp_us)
    found = asyncio.run(_stored(adapter, [sent[n::calls] for n in range(calls)]))
    assert found == [report for _, report in sorted(expected.items(), key=lambda item: item[0])]


async def _stored(adapter: str, calls: list[list[UsageReport]]) -> list[UsageReport]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(OPENERS[adapter](Path(folder)))
        await world.open()
        await asyncio.gather(*(world.store.usage.record(call) for call in calls))
        await world.reopen()
        found = list(await world.store.usage.of_day("001010000000001", 20261130))
        await world.store.aclose()
        return found
