"""Blocks of addresses: cut without overlap, taken ahead of need, given back when they are not needed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.address_blocks import Block, BlockOwner, first_free, prefix_within
from core.domain.gateway import GatewayLease
from core.domain.pools import AddressPool, TeidPool
from core.domain.reasons import AttachRefusal
from core.errors import Refused, Unavailable
from core.services.gateway.address_blocks import EXHAUSTED_S, GIVE_BACK_S, AddressBlocks
from core.services.gateway.gateway_instance import MORE_S, GatewayInstance
from core.services.gateway.lease_term import LeaseTerm
from core.services.running.faults import Faults
from loadtest.simulation.faults import FaultRates, FaultyEngine, Incarnation
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual

POOL = IPv4Network("10.128.0.0/26")
QUARANTINE_S, HELD_BACK_S = 10.0, 30.0


def block(text: str) -> Block:
    return Block.of(IPv4Network(text))


@pytest.mark.parametrize(
    ("network", "wished", "prefix"),
    [("10.128.0.0/9", 22, 22), ("10.128.0.0/22", 22, 25), ("10.0.0.0/28", 22, 29), ("10.0.0.0/30", 22, 30)],
)
def test_a_small_network_is_cut_into_smaller_blocks(network: str, wished: int, prefix: int) -> None:
    assert prefix_within(IPv4Network(network), wished) == prefix


@given(st.sets(st.integers(0, 31), max_size=30), st.integers(26, 29), st.integers(26, 29))
def test_the_first_free_block_is_the_lowest_that_overlaps_nothing(
    places: set[int], prefix: int, other_prefix: int
) -> None:
    network = IPv4Network("10.0.0.0/24")
    taken = {Block.around(network[place * 8], other_prefix) for place in places}
    free = [
        each
        for each in network.subnets(new_prefix=prefix)
        if not any(each.overlaps(other.network) for other in taken)
    ]
    found = first_free(network, prefix, taken)
    assert (found.network if found else None) == (free[0] if free else None)


@dataclass
class Stage:
    """A store, and gateways over it."""

    clock: VirtualClock = field(default_factory=lambda: VirtualClock(datetime(2026, 11, 30, tzinfo=UTC)))
    disk: Disk = field(default_factory=Disk)
    rates: FaultRates = field(default_factory=FaultRates)
    told: list[str] = field(default_factory=list)
    faults: Faults = field(init=False)
    fences: dict[str, int] = field(default_factory=dict)
    running: list[asyncio.Task[None]] = field(default_factory=list)
    routes: set[IPv4Network] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.faults = Faults(clock=self.clock, log=self.told.append)

    @property
    def store(self) -> WideColumnStore:
        engine = MemoryEngine(disk=self.disk, clock=self.clock)
        faulty = FaultyEngine(engine, rates=self.rates, life=Incarnation(), rng=Random(1))
        return WideColumnStore(engine=faulty, clock=self.clock)

    async def gateway(
        self,
        name: str,
        *in_use: str,
        runs: bool = True,
        network: IPv4Network = POOL,
        prefix: int = 29,
        held_back_s: float = HELD_BACK_S,
    ) -> tuple[GatewayInstance, AddressBlocks]:
        self.fences[name] = self.fences.get(name, 0) + 1
        now = self.clock.now()
        term = LeaseTerm(
            leases=self.store.leases,
            clock=self.clock,
            lease=GatewayLease(name, "node-1", self.fences[name], now),
            began=self.clock.monotonic() + 10_000,
        )
        pool = AddressPool(quarantine_s=QUARANTINE_S)
        entropy = SeededEntropy(Random(2))
        made = GatewayInstance(
            term=term,
            address="127.0.0.1",
            addresses=pool,
            teids=TeidPool(entropy.random_bytes, quarantine_s=QUARANTINE_S),
            quarantine_s=QUARANTINE_S,
            clock=self.clock,
        )
        blocks = AddressBlocks(
            blocks=self.store.blocks,
            pool=pool,
            gateway=made,
            clock=self.clock,
            entropy=entropy,
            network=network,
            apart=[],
            prefix=prefix,
            held_back_s=held_back_s,
            route=self.routes.add,
            unroute=self.routes.remove,
            faults=self.faults,
        )
        assert await blocks.start([IPv4Address(each) for each in in_use]) == []
        if runs:
            self.running.append(asyncio.create_task(blocks.run()))
        return made, blocks

    async def kill(self) -> None:
        """Whatever runs."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()
        self.routes.clear()

    async def owned(self, name: str) -> list[Block]:
        owners = (await self.store.blocks.read()).owners
        return sorted(each for each, owner in owners.items() if owner.gateway_id == name)


def play(script: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        stage = Stage()
        try:
            await script(stage)
        finally:
            await stage.kill()

    run_virtual(whole)


def test_the_next_block_is_there_before_it_is_needed_and_goes_when_it_is_not() -> None:
    async def script(stage: Stage) -> None:
        gateway, _ = await stage.gateway("vg-1")
        assert len(await stage.owned("vg-1")) == 1
        allocated = []
        for _ in range(30):  # six blocks' worth, and no attach waits
            allocated.append(gateway.allocate_address())
            await asyncio.sleep(0.01)
        assert len(set(allocated)) == 30
        assert len(await stage.owned("vg-1")) == 7
        assert stage.routes == {each.network for each in await stage.owned("vg-1")}
        for address in allocated:
            gateway.release_address(address, "imsi")
        await asyncio.sleep(QUARANTINE_S / 2)
        assert len(await stage.owned("vg-1")) == 7
        await asyncio.sleep(2 * GIVE_BACK_S)
        assert len(await stage.owned("vg-1")) == 1
        assert stage.routes == {each.network for each in await stage.owned("vg-1")}

    play(script)


def test_a_map_that_cannot_be_read_is_told_while_it_lasts() -> None:
    async def script(stage: Stage) -> None:
        gateway, _ = await stage.gateway("vg-1")
        stage.rates.before = 1.0
        for _ in range(5):
            gateway.allocate_address()
        await asyncio.sleep(30)
        assert list(stage.faults.standing) == ["address-blocks vg-1"]
        stage.rates.before = 0.0
        await asyncio.sleep(5)
        assert not stage.faults.standing
        assert [line.split(": ")[1] for line in stage.told] == ["stalled", "resumed"]
        assert len(await stage.owned("vg-1")) > 1

    play(script)


def test_who_waits_in_vain_is_refused_in_time_and_keeps_nobody_from_running() -> None:
    async def script(stage: Stage) -> None:
        gateway, _ = await stage.gateway("vg-1", runs=False)  # no gateway takes another block
        with pytest.raises(Refused):
            while True:
                gateway.allocate_address()
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            with pytest.raises(Refused) as refused:
                await gateway.allocate_address_soon()
            assert refused.value.reason is AttachRefusal.ADDRESSES_OCCUPIED
            assert asyncio.get_running_loop().time() - began == pytest.approx(MORE_S)

    play(script)


def test_a_pool_that_is_used_up_refuses_until_another_gives_back() -> None:
    async def script(stage: Stage) -> None:
        one, _ = await stage.gateway("vg-1")
        other, _ = await stage.gateway("vg-2")
        allocated = []
        with pytest.raises(Refused) as refused:
            while True:
                allocated.append(one.allocate_address())
                await asyncio.sleep(0.1)
        assert refused.value.reason is AttachRefusal.ADDRESSES_OCCUPIED
        assert (len(allocated), len(await stage.owned("vg-2"))) == (35, 1)
        for address in allocated:
            one.release_address(address, "imsi")
        others = [other.allocate_address() for _ in range(5)]
        with pytest.raises(Refused):
            other.allocate_address()
        await asyncio.sleep(QUARANTINE_S + 2 * GIVE_BACK_S + 2 * EXHAUSTED_S)
        assert other.allocate_address() not in others

    play(script)


def test_a_lease_term_allocates_from_a_fresh_block_and_from_the_old_ones_later() -> None:
    async def script(stage: Stage) -> None:
        first, _ = await stage.gateway("vg-1", runs=False)
        allocated = first.allocate_address()
        second, _ = await stage.gateway("vg-1", str(allocated), runs=False)
        (old, fresh) = await stage.owned("vg-1")
        assert allocated in old.network
        assert {second.allocate_address() in fresh.network for _ in range(5)} == {True}
        with pytest.raises(Refused):
            second.allocate_address()
        second.claim_address(allocated, "imsi")
        await asyncio.sleep(HELD_BACK_S)
        assert second.allocate_address() in old.network

    play(script)


@pytest.mark.parametrize("size", [24, 20])
def test_50_restarts_in_a_row_use_up_nothing_where_all_that_was_allocated_is_known(size: int) -> None:
    async def script(stage: Stage) -> None:
        network, in_use = IPv4Network(f"10.128.0.0/{size}"), list[IPv4Address]()
        for attaches in (*[2] * 50, 50):
            await stage.kill()
            gateway, _ = await stage.gateway(
                "vg-1", *map(str, in_use), network=network, prefix=22, held_back_s=0
            )
            for address in in_use:
                gateway.claim_address(address, "imsi")
            in_use += [await gateway.allocate_address_soon() for _ in range(attaches)]
        assert len(set(in_use)) == 150

    play(script)


def test_where_something_may_be_promised_a_restart_uses_up_a_64th_of_the_pool() -> None:
    async def script(stage: Stage) -> None:
        network, allocated = IPv4Network("10.128.0.0/20"), list[IPv4Address]()
        for life in range(50):
            await stage.kill()
            gateway, _ = await stage.gateway("vg-1", network=network, prefix=22, held_back_s=1_000)
            assert len(await stage.owned("vg-1")) == life + 1
            allocated += [await gateway.allocate_address_soon() for _ in range(5)]
            await asyncio.sleep(2)
        while len(allocated) < 50 * 5 + 400:
            allocated.append(await gateway.allocate_address_soon())
            await asyncio.sleep(0.01)
        assert len(set(allocated)) == len(allocated), "a possibly reserved address is not allocated"
        sizes = {each.prefix for each in await stage.owned("vg-1")}
        assert sizes == {23, 24, 25, 26}, "each next block is twice as large"

    play(script)


def test_whatever_the_holder_before_has_under_way_comes_to_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.gateway("vg-1", runs=False)
        store = stage.store.blocks
        seen = await store.read()
        await stage.gateway("vg-1", runs=False)
        for late in (
            store.change(seen, BlockOwner("vg-1", 1), taken=[block("10.128.0.32/29")]),
            store.change(seen, BlockOwner("vg-1", 1), given_back=[block("10.128.0.0/29")]),
        ):
            with pytest.raises(Exception, match="ue_block"):
                await late
        assert await stage.owned("vg-1") == [block("10.128.0.0/29"), block("10.128.0.8/29")]

    play(script)


def test_what_was_allocated_before_there_were_blocks_is_taken_with_its_block_or_given_up() -> None:
    async def script(stage: Stage) -> None:
        await stage.gateway("vg-1", "10.128.0.3", "10.128.0.34", "192.0.2.1", runs=False)
        assert await stage.owned("vg-1") == [
            block("10.128.0.0/29"),
            block("10.128.0.8/29"),
            block("10.128.0.32/29"),
        ]
        _, blocks = await stage.gateway("vg-2", runs=False)
        assert await blocks.start([IPv4Address("10.128.0.35")]) == [IPv4Address("10.128.0.35")]

    play(script)


def test_what_is_allocated_from_blocks_of_different_sizes_is_kept() -> None:
    async def script(stage: Stage) -> None:
        larger = block("10.128.0.0/28")
        await stage.store.blocks.change(
            await stage.store.blocks.read(), BlockOwner("vg-1", 1), taken=[larger], given_back=[]
        )
        await stage.gateway("vg-1", "10.128.0.3", "10.128.0.34", runs=False)
        assert {larger, block("10.128.0.32/29")} <= set(await stage.owned("vg-1"))

    play(script)


def test_a_change_whose_answer_is_lost_is_read_again() -> None:
    async def script(stage: Stage) -> None:
        gateway, blocks = await stage.gateway("vg-1")
        stage.rates.after = 1.0
        allocated = [gateway.allocate_address() for _ in range(4)]
        await asyncio.sleep(1)
        assert len(await stage.owned("vg-1")) >= 2
        stage.rates.after = 0.0
        await asyncio.sleep(5)
        assert blocks.allocated_from == {each.network for each in await stage.owned("vg-1")}
        allocated += [gateway.allocate_address() for _ in range(6)]
        assert len(set(allocated)) == 10

    play(script)


def test_who_holds_it_no_longer_takes_nothing() -> None:
    async def script(stage: Stage) -> None:
        gateway, _ = await stage.gateway("vg-1")
        gateway.fence()
        with pytest.raises(Unavailable):
            gateway.allocate_address()
        await asyncio.sleep(5)
        assert len(await stage.owned("vg-1")) == 1

    play(script)


def test_a_block_of_a_pool_that_is_no_more_keeps_its_sessions_and_is_allocated_from_no_more() -> None:
    async def script(stage: Stage) -> None:
        first, _ = await stage.gateway("vg-1", runs=False)
        allocated = first.allocate_address()
        other = IPv4Network("10.64.0.0/26")
        second, blocks = await stage.gateway("vg-1", network=other)
        second.claim_address(allocated, "imsi")
        await asyncio.sleep(HELD_BACK_S + 2 * GIVE_BACK_S)
        assert block("10.128.0.0/29") in await stage.owned("vg-1"), "a session has an address of it"
        for _ in range(20):
            assert second.allocate_address() in other
            await asyncio.sleep(0.01)
        second.release_address(allocated, "imsi")
        await asyncio.sleep(QUARANTINE_S + 2 * GIVE_BACK_S)
        assert all(network.subnet_of(other) for network in blocks.allocated_from)
        assert stage.routes == blocks.allocated_from == {each.network for each in await stage.owned("vg-1")}

    play(script)
