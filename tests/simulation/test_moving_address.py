"""When a node brings a virtual gateway's address, how long it may stay, and when it lets it go."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from airloom.app.adapters import Adapters
from core.adapters.store.memory import MemoryEngine
from core.adapters.store.wide import WideStore
from core.domain.values import replace
from core.errors import ConfigurationError, Unavailable
from core.services.gateway.address import KEEP_ADDRESS_S
from core.services.gateway.lease_term import LEASE_S
from loadtest.simulation.faults import Incarnation
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import GATEWAY, World

SOCKET = (GATEWAY, 2152)


@dataclass
class Host:
    """Implements ``AddressMover``: what happened in which order, and until when the address stays."""

    world: World
    events: list[str] = field(default_factory=list)
    until: float = 0.0
    fails: int = 0
    sticks: int = 0
    is_possible: bool = True

    def may_bring(self, address: IPv4Address) -> bool:
        return self.is_possible

    async def bring(self, address: IPv4Address, *, lasting_s: float) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("not now")
        is_open = SOCKET in self.world.network._bound
        self.events.append("kept" if is_open else "brought before the socket")
        assert 0 < lasting_s <= LEASE_S
        self.until = self.world.clock.monotonic() + lasting_s

    async def let_go(self, address: IPv4Address) -> None:
        if self.sticks:
            self.sticks -= 1
            raise Unavailable("not now")
        if self.until:
            engine = MemoryEngine(disk=self.world.disk, clock=self.world.clock)
            lease = await WideStore(engine=engine, clock=self.world.clock).leases.get("vg-1")
            is_released = lease is not None and lease.is_released
            self.events.append("let go " + ("too late" if is_released else "before the lease"))
        self.until = 0.0

    async def aclose(self) -> None:
        self.until = 0.0


class OnHost(World):
    """A world whose node brings its address."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.host = Host(self)

    def _adapters(self, life: Incarnation, name: str) -> Adapters:
        return replace(super()._adapters(life, name), mover=self.host)


def play(script: Callable[[OnHost], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = OnHost()
        await script(world)
        if world._running is not None:
            await world.crash()

    run_virtual(whole)


def test_it_comes_before_the_socket_stays_with_the_tenure_and_goes_before_the_lease() -> None:
    async def script(world: OnHost) -> None:
        await world.start_node()
        assert world.host.events == ["brought before the socket"]
        await asyncio.sleep(10 * KEEP_ADDRESS_S + 0.1)
        assert world.host.events[1:] == ["kept"] * 10
        assert world.host.until - world.clock.monotonic() > LEASE_S - 2 * KEEP_ADDRESS_S
        world.host.events.clear()
        world.host.sticks = 5
        await world.node.coordinator.drain()
        assert world.host.events == ["let go before the lease"]
        await asyncio.sleep(5 * KEEP_ADDRESS_S)
        assert world.host.events == ["let go before the lease"], "nothing is brought after the fence"

    play(script)


def test_a_store_that_is_away_ends_the_address_with_the_tenure() -> None:
    async def script(world: OnHost) -> None:
        await world.start_node()
        await asyncio.sleep(1)
        world.store_rates.before = 1.0
        away = world.clock.monotonic()
        while SOCKET in world.network._bound:
            assert world.host.until >= world.clock.monotonic(), "while it answers, the address is here"
            await asyncio.sleep(0.1)
        assert world.clock.monotonic() - away <= LEASE_S + 0.2
        await asyncio.sleep(0.1)
        assert world.host.until == 0.0

    play(script)


def test_an_address_that_does_not_come_is_asked_for_again() -> None:
    async def script(world: OnHost) -> None:
        world.host.fails = 3
        await world.start_node()
        assert world.host.events == ["brought before the socket"]
        world.host.fails = 2
        await asyncio.sleep(4 * KEEP_ADDRESS_S)
        assert SOCKET in world.network._bound, "a keeping that fails is tried again before it ends"

    play(script)


def test_a_home_whose_address_cannot_be_here_is_refused() -> None:
    async def script(world: OnHost) -> None:
        world.host.is_possible = False
        with pytest.raises(
            ConfigurationError, match=r"node.home: the address of every virtual gateway is not"
        ):
            await world.start_node()

    play(script)
