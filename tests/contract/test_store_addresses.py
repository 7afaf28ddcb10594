"""What every store must do for addresses: who allocates which, who has which, and what is in quarantine."""

from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from core.adapters.store.engine import SCAN_ROWS_MAX, Batch, Condition, Delete, Put, RowKey
from core.adapters.store.rows import body_of
from core.adapters.store.tables import SIM, STATIC_ADDRESS
from core.domain.address_blocks import Block, BlockMap, BlockOwner
from core.domain.gateway import AddressHolder
from core.domain.session import QuarantinedResources, SessionEventKind
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.store import BLOCKS_CHANGED_MAX
from tests.contract.stores import LATER, NOW, World, event_of, outcomes, session_of, sim_of
from tests.contract.test_store import as_port

BLOCKS = [Block.of(IPv4Network(f"10.128.{4 * number}.0/22")) for number in range(3)]
OWNER_1, OWNER_2 = BlockOwner("vg-1", 3), BlockOwner("vg-2", 1)


async def test_a_static_address_is_one_sims_whoevers(world: World) -> None:
    address, other_address = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.9")
    sims = as_port(world.store).sims
    first = await sims.put(replace(sim_of(1, operator_id="OP1"), static_address=address))
    for _ in range(2):
        with pytest.raises(StaleVersion):
            await sims.put(replace(sim_of(2, operator_id="OP2"), static_address=address))
    assert await sims.sim_id_of_static_address(address) == first.sim_id
    third = await sims.put(replace(sim_of(3, operator_id="OP1"), static_address=other_address))
    assert (await sims.with_static_address("OP1")).items == (first, third)
    page = await sims.with_static_address("OP1", limit=1)
    assert (page.items, page.next_key) == ((first,), str(int(address)))
    assert (await sims.with_static_address("OP1", after=page.next_key)).items == (third,)
    moved = await sims.put(replace(first, static_address=IPv4Address("10.0.0.3")))
    second = await sims.put(replace(sim_of(2, operator_id="OP2"), static_address=address))
    assert await sims.sim_id_of_static_address(address) == second.sim_id
    assert (await sims.with_static_address("OP1")).items == (moved, third)
    freed = await sims.put(replace(moved, static_address=None))
    assert await sims.sim_id_of_static_address(IPv4Address("10.0.0.3")) is None
    assert await sims.get(freed.sim_id) == freed


async def test_an_address_bound_anew_is_not_freed_by_who_meant_the_old_binding(world: World) -> None:
    sims, address = world.store.sims, IPv4Address("10.0.0.2")
    first = await sims.put(replace(sim_of(1), static_address=address))
    old = (await world.engine.get(STATIC_ADDRESS, [RowKey((str(address),))]))[0]
    assert old is not None
    away = Batch(
        SIM, (first.sim_id,), (Put(("sim", "sim"), (body_of(replace(first, static_address=None)),), 2),)
    )
    await world.engine.write(away)  # as a put that died before it freed the address
    stored = await sims.get(first.sim_id)
    assert stored is not None
    await sims.put(replace(first, version=2))
    with pytest.raises(StaleVersion):
        await world.engine.write(
            Batch(STATIC_ADDRESS, (str(address),), (Delete(()),), Condition((), old.version))
        )
    assert await sims.sim_id_of_static_address(address) == first.sim_id


async def test_who_has_a_static_address_is_compared_and_set(world: World) -> None:
    holders, address = as_port(world.store).holders, IPv4Address("10.0.0.2")
    assert await holders.get(address) is None
    first = await holders.put(AddressHolder(address, "s1", "sim", "vg-1", 1, NOW))
    with pytest.raises(StaleVersion):
        await holders.put(AddressHolder(address, "s2", "sim", "vg-2", 1, NOW))
    await world.reopen()
    assert await world.store.holders.get(address) == first
    second = await world.store.holders.put(replace(first, rests_until=LATER))
    assert await world.store.holders.get(address) == second == replace(first, rests_until=LATER, version=2)


async def test_what_a_session_had_is_in_quarantine_until_its_time_whatever_dies(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    stored = await sessions.put(session_of(sim), event_of(sim))
    other = await sessions.put(session_of(sim, 2), event_of(sim, 2))
    closing = event_of(sim, 3, kind=SessionEventKind.DELETED)
    until = NOW + timedelta(seconds=60)
    for _ in range(2):
        await sessions.close(stored, closing, quarantined_until=until)
    await world.reopen()
    sessions = world.store.sessions
    in_quarantine = QuarantinedResources(stored.session_id, stored.ue_address, stored.teids)
    assert {each async for each in sessions.of_gateway("vg-1")} == {in_quarantine, other}
    assert [each async for each in sessions.of_gateway("vg-1", known={stored.session_id})] == [other]
    world.clock.at = until
    assert [each async for each in sessions.of_gateway("vg-1")] == [other]


async def test_blocks_are_taken_and_given_back_by_whoever_knows_the_whole_map(world: World) -> None:
    blocks = as_port(world.store).blocks
    empty = await blocks.read()
    assert empty == BlockMap(0, {})
    await blocks.change(empty, OWNER_1, taken=BLOCKS[:2])
    with pytest.raises(StaleVersion):
        await blocks.change(empty, OWNER_2, taken=BLOCKS[2:])
    await world.reopen()
    blocks = as_port(world.store).blocks
    seen = await blocks.read()
    assert seen == BlockMap(1, {BLOCKS[0]: OWNER_1, BLOCKS[1]: OWNER_1})
    await blocks.change(seen, OWNER_2)
    with pytest.raises(StaleVersion):
        await blocks.change(seen, OWNER_1, given_back=BLOCKS[:1])
    seen = await blocks.read()
    await blocks.change(seen, OWNER_1, taken=BLOCKS[2:], given_back=BLOCKS[:1])
    assert await blocks.read() == BlockMap(3, {BLOCKS[1]: OWNER_1, BLOCKS[2]: OWNER_1})


async def test_of_gateways_that_take_a_block_at_once_exactly_one_has_it(world: World) -> None:
    blocks = world.store.blocks
    for version in range(3):
        seen = await blocks.read()
        taking = [blocks.change(seen, BlockOwner(f"vg-{n}", 1), taken=[BLOCKS[version]]) for n in range(8)]
        results = await outcomes(*taking)
        assert sorted(map(type, results), key=str).count(type(None)) == 1
        assert {type(result) for result in results} == {type(None), StaleVersion}
        (owner,) = {
            owner for block, owner in (await blocks.read()).owners.items() if block == BLOCKS[version]
        }
        assert results[int(owner.gateway_id[3:])] is None


async def test_a_map_of_blocks_may_have_more_rows_than_a_scan(world: World) -> None:
    blocks = world.store.blocks
    wanted = [Block(number << 8, 24) for number in range(1, SCAN_ROWS_MAX + 100)]
    for first in range(0, len(wanted), BLOCKS_CHANGED_MAX):
        taken = wanted[first : first + BLOCKS_CHANGED_MAX]
        await blocks.change(await blocks.read(), OWNER_1, taken=taken)
    assert sorted((await blocks.read()).owners) == wanted
