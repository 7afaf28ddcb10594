"""What every engine must do beneath the repositories."""

import asyncio
from contextlib import suppress

import pytest

from core.adapters.store.checksums import CorruptRow
from core.adapters.store.engine import BATCH_WRITES_MAX, SCAN_ROWS_MAX, Batch, Condition, Delete, Put, RowKey
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.rows import CONDITIONAL_TRIES_MAX
from core.adapters.store.tables import (
    OPERATOR,
    SESSION_BY_GATEWAY,
    SIM_GROUP,
    USAGE,
)
from core.adapters.store.wide_column import WideColumnStore
from core.domain.account import Group
from core.domain.session import Session
from core.errors import LocalProtocolError, StaleVersion, Unavailable
from core.ports.store import Store
from tests.contract.stores import (
    LATER,
    NOW,
    SetClock,
    World,
    event_of,
    outcomes,
    report_of,
    session_of,
    sim_of,
)


async def test_writes_before_a_failed_condition_stay_and_those_after_it_do_not(world: World) -> None:
    def key(name: str, condition: Condition | None = None) -> Batch:
        return Batch(SIM_GROUP, ("OP1",), (Put((name,), ("{}",), 1),), condition)

    with pytest.raises(StaleVersion):
        await world.engine.write(key("a"), key("b", Condition(("b",), 4)), key("c"))
    found = await world.engine.get(SIM_GROUP, [RowKey(("OP1",), (name,)) for name in "abc"])
    assert [row is not None for row in found] == [True, False, False]


@pytest.mark.parametrize(("reverse", "expected"), [(False, "bcd"), (True, "dcb")])
async def test_a_scan_is_bounded_on_both_sides(world: World, reverse: bool, expected: str) -> None:
    puts = tuple(Put((name,), ("{}",)) for name in "eabdc")
    await world.engine.write(Batch(SIM_GROUP, ("OP1",), puts))
    rows = await world.engine.scan(SIM_GROUP, ("OP1",), above=("a",), below=("e",), reverse=reverse)
    assert "".join(str(row.clustering[0]) for row in rows) == expected
    rows = await world.engine.scan(SIM_GROUP, ("OP1",), limit=2, reverse=reverse)
    assert len(rows) == 2


async def test_rows_are_read_at_once_in_the_order_of_their_keys(world: World) -> None:
    names = [f"{number:03}" for number in range(0, 200, 2)]
    batches = [Batch(SIM_GROUP, (f"OP{name}",), (Put((name,), (name,)),)) for name in names]
    await world.engine.write_all(batches)
    asked = [f"{number:03}" for number in reversed(range(200))]
    found = await world.engine.get(SIM_GROUP, [RowKey((f"OP{name}",), (name,)) for name in asked])
    assert [row.values[0] if row else None for row in found] == [
        name if name in names else None for name in asked
    ]


async def test_several_partitions_are_read_at_once_in_their_order(world: World) -> None:
    for number in range(40):
        puts = tuple(Put((f"{name}{number}",), ("{}",)) for name in "cab"[: number % 4])
        if puts:
            await world.engine.write(Batch(SIM_GROUP, (f"OP{number}",), puts))
    partitions = [(f"OP{number}",) for number in reversed(range(40))]
    found = await world.engine.scan_each(SIM_GROUP, partitions)
    assert [[row.clustering[0] for row in rows] for rows in found] == [
        sorted(f"{name}{number}" for name in "cab"[: number % 4]) for number in reversed(range(40))
    ]
    assert [len(rows) for rows in await world.engine.scan_each(SIM_GROUP, partitions, limit=1)] == [
        min(number % 4, 1) for number in reversed(range(40))
    ]
    assert await world.engine.scan_each(SIM_GROUP, []) == []


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_long_scan_is_whole(world: World, reverse: bool) -> None:
    names = [f"{number:03}" for number in range(150)]
    for start in (0, 75):
        puts = tuple(Put((name,), ("{}",)) for name in names[start : start + 75])
        await world.engine.write(Batch(SIM_GROUP, ("OP1",), puts))
    rows = await world.engine.scan(SIM_GROUP, ("OP1",), limit=120, reverse=reverse)
    assert [row.clustering[0] for row in rows] == sorted(names, reverse=reverse)[:120]
    rows = await world.engine.scan(SIM_GROUP, ("OP1",), above=("009",), below=("140",), reverse=reverse)
    assert [row.clustering[0] for row in rows] == sorted(names[10:140], reverse=reverse)


@pytest.mark.parametrize(
    ("partition", "writes", "condition"),
    [
        (("OP1", "x"), (Delete(("g",)),), None),
        (("",), (Delete(("g",)),), None),
        (("OP1",), (), None),
        (("OP1",), (Delete(("g",)),) * (BATCH_WRITES_MAX + 1), None),
        (("OP1",), (Put(("g",), (1,)),), None),
        (("OP1",), (Put(("g",), ("{}",), timestamp_us=1),), Condition(("g",), 0)),
        (("OP1",), (Delete(("g",)),), Condition((), 0)),
        (("OP1",), (Delete(("g",)),), Condition(("another",), 1)),
    ],
)
def test_a_malformed_batch_cannot_be_made(
    partition: tuple[str, ...], writes: tuple[Put | Delete, ...], condition: Condition | None
) -> None:
    with pytest.raises(LocalProtocolError):
        Batch(SIM_GROUP, partition, writes, condition)


async def test_engines_refuse_what_they_could_not_promise(world: World) -> None:
    with pytest.raises(LocalProtocolError):
        await world.engine.scan(SIM_GROUP, ("OP1",), limit=SCAN_ROWS_MAX + 1)
    with pytest.raises(LocalProtocolError):
        await world.engine.scan(SIM_GROUP, ("OP1",), prefix=("a",), above=("b",))
    with pytest.raises(LocalProtocolError):
        await world.engine.write_all([Batch(SIM_GROUP, ("OP1",), (Delete(("g",)),), Condition(("g",), 1))])
    with pytest.raises(LocalProtocolError):
        Batch(USAGE, ("1", 1), (Put((2**63, "s", 1, 1), ("OP1", "s1", "", 1, 1, 1, 1, 1)),))


@pytest.mark.parametrize("body", ["{", "{}", '{"operator_id": 5}'])
async def test_a_body_that_cannot_be_read_is_named(world: World, body: str) -> None:
    await world.engine.write(Batch(OPERATOR, ("OP7",), (Put((), (body,), 1),)))
    with pytest.raises(CorruptRow, match=r"table operator, key \(OP7\)"):
        await world.store.accounts.operator("OP7")


async def test_a_cancelled_caller_does_not_break_the_others(world: World) -> None:
    tasks = [asyncio.create_task(world.store.sims.put(sim_of(n))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await outcomes(*tasks)
    assert not any(isinstance(result, BaseException) for result in results[1::2])
    for number in range(1, 20, 2):
        assert await world.store.sims.get(sim_of(number).sim_id) is not None
    for number in range(0, 20, 2):  # whatever became of them, they can be repeated
        if await world.store.sims.get(sim_of(number).sim_id) is None:
            await world.store.sims.put(sim_of(number))


async def test_closing_finishes_what_was_accepted_and_is_idempotent(world: World) -> None:
    writing = asyncio.create_task(world.store.accounts.revoke_token("t1", LATER))
    await asyncio.sleep(0)
    await asyncio.gather(world.store.aclose(), world.store.aclose())
    await writing
    await world.store.aclose()
    with pytest.raises(Unavailable):
        await world.store.usage.record([report_of(2)])
    with pytest.raises(Unavailable):
        await world.store.sims.get("1")
    await world.open()
    assert await world.store.accounts.is_revoked("t1")


class _Contended(MemoryEngine):
    """Another writer always writes between our read and our write."""

    async def write(self, *batches: Batch) -> None:
        for batch in batches:
            if batch.condition is not None:
                self.tries += 1
                raise StaleVersion("contended")
        await super().write(*batches)

    tries = 0


async def test_a_removal_under_contention_gives_up() -> None:
    clock, disk = SetClock(), Disk()
    stored = WideColumnStore(engine=MemoryEngine(disk=disk, clock=clock), clock=clock)
    await stored.groups.put(Group("g1", "OP1", NOW, NOW))
    session = await stored.sessions.put(session_of(sim_of(1)), event_of(sim_of(1)))
    engine = _Contended(disk=disk, clock=clock)
    contended = WideColumnStore(engine=engine, clock=clock)
    with pytest.raises(Unavailable):
        await contended.groups.delete("OP1", "g1")
    with pytest.raises(Unavailable):
        await contended.sessions.close(session, event_of(sim_of(1), 2))
    assert engine.tries == 2 * CONDITIONAL_TRIES_MAX


class _Crashing(MemoryEngine):
    """Dies for good after some batches."""

    batches_left = 10**9

    async def write(self, *batches: Batch) -> None:
        for batch in batches:
            if not self.batches_left:
                raise Unavailable("crashed", ambiguous=True)
            self.batches_left -= 1
            await super().write(batch)


@pytest.mark.parametrize("batches", range(7))
async def test_a_crash_after_any_batch_hides_nothing_and_is_mended_by_repeating(batches: int) -> None:
    clock, disk = SetClock(), Disk()
    engine = _Crashing(disk=disk, clock=clock)
    engine.batches_left = batches
    sim = sim_of(1, operator_id="OP1")
    with suppress(Unavailable):
        await _attach_and_detach(WideColumnStore(engine=engine, clock=clock))

    store = WideColumnStore(engine=MemoryEngine(disk=disk, clock=clock), clock=clock)
    in_partition = list(await store.sessions.of_sim(sim.sim_id))
    found = [each async for each in store.sessions.of_gateway("vg-1")]
    assert [each for each in found if isinstance(each, Session)] == in_partition
    stored = await store.sims.get(sim.sim_id)
    assert (await store.sims.of_operator("OP1")).items == ((stored,) if stored else ())
    assert await store.sims.sim_id_of_imsi(sim.imsi) == (sim.sim_id if stored else None)

    await _attach_and_detach(store)
    assert await store.sessions.of_sim(sim.sim_id) == []
    assert all(
        name != SESSION_BY_GATEWAY.name or not part.rows for (name, _), part in disk.partitions.items()
    )
    assert await store.sims.sim_id_of_imsi(sim.imsi) == sim.sim_id


async def _attach_and_detach(store: Store) -> None:
    sim = sim_of(1, operator_id="OP1")
    with suppress(StaleVersion):  # it was stored before the crash
        await store.sims.put(sim)
    session = session_of(sim)
    with suppress(StaleVersion):
        session = await store.sessions.put(session, event_of(sim))
    await store.sessions.close(session, event_of(sim, 2))
