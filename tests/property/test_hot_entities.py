"""Rows in memory before SQLite: a read after an acknowledged write never returns the earlier row."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.adapters.clock import SystemClock
from core.adapters.store import hot_entities as hot
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.tables import SIM_GROUP
from core.adapters.store.wide_column import WideColumnStore
from core.domain.account import Group
from core.errors import StaleVersion

NOW = datetime(2026, 11, 24, tzinfo=UTC)


async def opened(folder: Path) -> tuple[SqliteEngine, WideColumnStore]:
    engine = await SqliteEngine.open(path=folder / "store.db", clock=SystemClock())
    return engine, WideColumnStore(engine=engine, clock=SystemClock())


@pytest.mark.parametrize("seed", range(5))
async def test_reads_and_writes_side_by_side(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    engine, store = await opened(tmp_path)
    answered = dict.fromkeys("abc", 0)

    async def write(name: str) -> None:
        group = await store.groups.get("OP1", name) or Group(name, "OP1", NOW, NOW)
        try:
            stored = await store.groups.put(group)
        except StaleVersion:
            return
        answered[name] = max(answered[name], stored.version)

    async def write_and_be_cancelled(name: str) -> None:
        writing = asyncio.create_task(write(name))
        await asyncio.sleep(dice.random() * 0.002)
        writing.cancel()
        await asyncio.wait([writing])

    async def read(name: str) -> None:
        least = answered[name]
        found = await store.groups.get("OP1", name)
        assert (found.version if found else 0) >= least

    async def work() -> None:
        for _ in range(60):
            await asyncio.sleep(dice.random() * 0.002)
            await dice.choice((read, read, read, write, write_and_be_cancelled))(dice.choice("abc"))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(work())
    await store.groups.put(Group("last", "OP1", NOW, NOW))  # behind it no cancelled write is under way
    assert not engine.hot._reading
    assert not engine.hot._writing
    for name in "abc":
        kept = await store.groups.get("OP1", name)
        kept_groups = engine.hot._kept[SIM_GROUP.name]
        assert kept_groups, "it is kept"
        kept_groups.clear()
        assert kept == await store.groups.get("OP1", name)
    await store.aclose()


async def test_a_kept_entity_asks_nobody_and_strangers_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "HOT_ENTITIES_MAX", 3)
    engine, store = await opened(tmp_path)
    for name in "abcd":
        await store.groups.put(Group(name, "OP1", NOW, NOW))
        await store.groups.get("OP1", name)
    assert len(engine.hot.kept_of(SIM_GROUP)) == 1, "four do not fit: all were forgotten"
    for _ in range(3):
        assert await store.groups.get("OP1", "nobody") is None
    assert len(engine.hot.kept_of(SIM_GROUP)) == 1
    await engine._reads.aclose()
    kept = await store.groups.get("OP1", "d")
    assert kept is not None, "though nothing can be read any more"
    await store.aclose()
