"""Never two holders of one address or TEID: two nodes over a slow store, whose writes may land long after
their process died; kills between any two steps; reservations of Access-Accepts that no process remembers.
"""

import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

import pytest

from airloom.app.adapters import Adapters
from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.peers import NoPeers
from core.adapters.store.engine import Batch, Row, RowKey
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.tables import ADDRESS_HOLDER, UE_BLOCK, Table
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.config import Config, GatewayInstanceConfig
from core.domain.gateway import AddressHolder
from core.domain.pools import AddressPool
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, CloseReason, Nas, NasName, QuarantinedResources, Session
from core.domain.sim import Sim, SimStatus, Subscriber
from core.errors import Refused, Unavailable
from core.services.gateway.address_blocks import AddressBlocks
from core.services.sessions.static_addresses import StaticAddresses
from gtp.userplane.counter_table import over_buffer, table_bytes
from loadtest.simulation.faults import Incarnation
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, VirtualNetwork, run_virtual

BEGINNING = datetime(2026, 11, 30, 12, tzinfo=UTC)
QUARANTINE_S, RESERVATION_TTL_S = 30.0, 20.0
ASKER = ("127.0.3.0/24", NasName("nas", "", "127.0.3.1"))
ACTIVE_S = 400.0
NODES = {"node-1": "vg-1", "node-2": "vg-2"}
SIMS = 12
SLOTS = 64
STATIC_POOL, STATIC_SIMS = IPv4Network("10.127.0.0/28"), 4
POOLS = {"soracom.io": IPv4Network("10.128.0.0/24"), "meters": IPv4Network("10.64.0.0/24")}
"""Where devices' addresses are of, by access point; a SIM uses one of them."""


class LateEngine(MemoryEngine):
    """A store that takes a batch at a time; what was sent lands, though its sender is dead by then."""

    def __init__(self, *, disk: Disk, clock: VirtualClock, life: Incarnation, rng: random.Random) -> None:
        super().__init__(disk=disk, clock=clock)
        self._life = life
        self._rng = rng
        self._landing: set[asyncio.Task[None]] = set()

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        await self._pass()
        return await super().get(table, keys)

    async def write(self, *batches: Batch) -> None:
        await self._pass()
        landing = asyncio.create_task(self._land(batches))
        self._landing.add(landing)
        landing.add_done_callback(self._landed)
        await asyncio.shield(landing)
        await self._pass()
        if self._rng.random() < 0.03:
            raise Unavailable("injected: its answer is lost", ambiguous=True)

    def _landed(self, landing: asyncio.Task[None]) -> None:
        self._landing.discard(landing)
        if not landing.cancelled():
            landing.exception()  # a waiting process gets the outcome; a dead one does not wait

    async def _land(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            slow = self._rng.random() < 0.02
            await asyncio.sleep(self._rng.random() * (8.0 if slow else 0.05))
            await super().write(batch)

    async def _pass(self) -> None:
        await asyncio.sleep(self._rng.random() * 0.02)
        if not self._life.is_alive:
            await asyncio.get_running_loop().create_future()


class NarrowEntropy(SeededEntropy):
    """So few TEIDs that they are drawn again soon."""

    def random_bytes(self, length: int) -> bytes:
        drawn = super().random_bytes(length)
        return bytes(3) + drawn[3:] if length == 4 else drawn


class Ledger:
    """The holders as answered to devices, recorded independently of the allocator."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._had: dict[object, tuple[str, float]] = {}
        self.found: list[str] = []
        self.told = 0

    def tell(self, what: object, who: str, *, until: float = float("inf")) -> None:
        """``who`` gets it, until its end is recorded; no other may have it until the quarantine has
        passed.
        """
        before, over = self._had.get(what, (who, 0.0))
        if before != who and self._clock.monotonic() < over + QUARANTINE_S:
            self.found.append(
                f"{what} was {before}'s until {over:.0f}, {who}'s {self._clock.monotonic():.0f}"
            )
        self._had[what] = (who, until)
        self.told += 1

    def over(self, what: object, who: str) -> None:
        if self._had.get(what, ("", 0.0))[0] == who:
            self._had[what] = (who, self._clock.monotonic())


class StagePeers(NoPeers):
    """The other node, while both live."""

    def __init__(self, stage: "Stage", name: str) -> None:
        self._stage = stage
        self._name = name

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """It takes the message a moment, and the node may be dead."""
        await asyncio.sleep(0.02)
        for name, node in self._stage.nodes.items():
            if _contact(name) == contact and name != self._name and self._stage.lives[name].is_alive:
                return await node.gateways.end_sessions_of(gateway_id, sim_id, reason)
        raise Unavailable("no node answers")


class Stage:
    """The nodes and everything that happens to them."""

    def __init__(self, seed: int, held_type: type[GatewayRuntime], engine_type: type[LateEngine]) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock(BEGINNING)
        self.network = VirtualNetwork(self.rng)
        self.disk = Disk()
        self.ledger = Ledger(self.clock)
        self.slots = {name: {gw: bytearray(table_bytes(SLOTS)) for gw in NODES.values()} for name in NODES}
        self.lives: dict[str, Incarnation] = {}
        self.nodes: dict[str, Node] = {}
        self.running: dict[str, asyncio.Task[None]] = {}
        self.refused = self.occupied = self.static_told = 0
        self._sims = [
            Sim(
                sim_id=f"89811000000000{number:05d}",
                subscribers=(Subscriber(f"44010000000{number:04d}"),),
                registration_secret_sha256="",
                created=BEGINNING,
                modified=BEGINNING,
                operator_id="OP0000000001",
                status=SimStatus.ACTIVE,
                static_address=STATIC_POOL[number + 1] if number < STATIC_SIMS else None,
            )
            for number in range(SIMS)
        ]
        self._open: dict[str, tuple[str, Session]] = {}
        self._reserved: dict[str, tuple[str, IPv4Address, str]] = {}
        self._engine_type = engine_type
        self._node_type = type("PlantedNode", (Node,), {"held_type": held_type})

    async def run(self) -> None:
        """From an empty store to the end of the time."""
        store = WideColumnStore(engine=MemoryEngine(disk=self.disk, clock=self.clock), clock=self.clock)
        for sim in self._sims:
            await store.sims.put(sim)
        for name in NODES:
            await self._begin(name)
        async with asyncio.TaskGroup() as actors:
            for sim in (
                *self._sims,
                *self._sims[:STATIC_SIMS],
            ):  # a static address is asked for twice at once
                actors.create_task(self._live(sim))
            actors.create_task(self._kill())
        for name in NODES:
            await self._end(name)

    async def _begin(self, name: str) -> None:
        self.lives[name] = Incarnation()
        node = self.nodes[name] = self._node_type(config=self._config_of(name), adapters=self._world(name))
        await node.start()
        self.running[name] = asyncio.create_task(node.run())

    def _config_of(self, name: str) -> Config:
        return _config(name)

    def _world(self, name: str) -> Adapters:
        engine = self._engine_type(disk=self.disk, clock=self.clock, life=self.lives[name], rng=self.rng)
        return Adapters(
            clock=self.clock,
            entropy=NarrowEntropy(self.rng),
            network=self.network,
            store=WideColumnStore(engine=engine, clock=self.clock),
            stream=MemoryStream(disk=MemoryDisk(), clock=self.clock),
            objects=MemoryObjectStore(),
            open_counters=lambda gateway_id: over_buffer(self.slots[name][gateway_id]),
            left_counters=lambda gateway_id: None,
            token_key=bytes(32),
            peers=StagePeers(self, name),
        )

    async def _end(self, name: str) -> None:
        self.lives[name].is_alive = False
        for gateway_id in self.nodes[name].held:
            self.network.unplug(_address(gateway_id))
        self.running[name].cancel()
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await self.running[name]

    async def _kill(self) -> None:
        while self.clock.monotonic() < ACTIVE_S:
            await asyncio.sleep(self.rng.expovariate(1 / 30))
            name = self.rng.choice(list(NODES))
            await self._end(name)
            await asyncio.sleep(self.rng.choice([0.1, 1.0, 18.0]))  # the last is long enough to be taken over
            await self._begin(name)

    async def _live(self, sim: Sim) -> None:
        while self.clock.monotonic() < ACTIVE_S:
            await asyncio.sleep(self.rng.expovariate(1 / 3))
            held = [(n, h) for n in self.nodes for h in self.nodes[n].held.values() if self.lives[n].is_alive]
            if not held:
                continue
            name, gateway = self.rng.choice(held)
            act = self.rng.choice([self._attach, self._attach, self._detach, self._reserve, self._claim])
            asking = asyncio.create_task(act(sim.imsi, gateway))
            while not asking.done() and self.lives[name].is_alive:
                await asyncio.wait([asking], timeout=0.1)
            asking.cancel()
            try:
                await asking
            except (Refused, Unavailable) as error:
                self.refused += 1
                self.occupied += getattr(error, "reason", None) is AttachRefusal.ADDRESSES_OCCUPIED
            except asyncio.CancelledError:
                pass  # its node died before any answer

    async def _attach(self, imsi: str, gateway: GatewayRuntime) -> None:
        self._forget(imsi, gateway.gateway.gateway_id)
        peer = PeerTunnel(1, 2, "127.0.1.1", "127.0.1.1", 5)
        wanted = OpenSession(access=Access.GTPV1, imsi=imsi, apn=_apn(imsi), peer=peer)
        self._tell(imsi, await gateway.sessions.open(wanted))

    async def _detach(self, imsi: str, gateway: GatewayRuntime) -> None:
        held = list(gateway.sessions.open_sessions.values())
        for session in [session for session in held if session.imsi == imsi]:
            self._forget(imsi, gateway.gateway.gateway_id)
            await gateway.sessions.close(session.session_id, CloseReason.DEVICE)

    async def _reserve(self, imsi: str, gateway: GatewayRuntime) -> None:
        (static,) = [sim.static_address for sim in self._sims if sim.imsi == imsi]
        apn = _apn(imsi)
        grant = gateway.radius._reservations.reserve(
            imsi, ASKER, apn=apn, static_address=static, pool=gateway.sessions.pool_of(apn)
        )
        self.ledger.tell(grant.address, imsi, until=self.clock.monotonic() + RESERVATION_TTL_S - QUARANTINE_S)
        self._reserved[imsi] = (gateway.gateway.gateway_id, grant.address, grant.session_id)

    async def _claim(self, imsi: str, gateway: GatewayRuntime) -> None:
        gateway_id, address, session_id = self._reserved.pop(imsi, ("", None, ""))
        if address is None or gateway_id != gateway.gateway.gateway_id:
            return
        pool = gateway.sessions.pool_of(_apn(imsi))
        grant = gateway.radius._reservations.claim(imsi, ASKER, session_id, address, pool)
        self._forget(imsi, gateway_id)
        nas = Nas("127.0.3.0/24", "nas", "127.0.3.1", session_id[:8])
        wanted = OpenSession(access=Access.RADIUS, imsi=imsi, apn=_apn(imsi), nas=nas, grant=grant)
        self._tell(imsi, await gateway.sessions.open(wanted))

    def _tell(self, imsi: str, session: Session) -> None:
        self._open[f"{imsi} {session.gateway_id}"] = (imsi, session)
        self.ledger.tell(session.ue_address, imsi)
        if session.ue_address not in STATIC_POOL and session.ue_address not in POOLS[session.apn]:
            self.ledger.found.append(f"{session.ue_address} is not {session.apn}'s")
        if session.ue_address in STATIC_POOL:
            self.static_told += 1  # another gateway may end it at any time, without notice here
        else:
            for teid in session.teids:
                self.ledger.tell((session.gateway_id, teid), f"{imsi} {session.session_id}")
        if self._stored().count(session.ue_address) > 1:
            self.ledger.found.append(f"{session.ue_address} is in the store twice")

    def _forget(self, imsi: str, gateway_id: str) -> None:
        """From here on its session there may be over."""
        _, session = self._open.pop(f"{imsi} {gateway_id}", ("", None))
        if session is not None:
            self.ledger.over(session.ue_address, imsi)
            for teid in session.teids:
                self.ledger.over((gateway_id, teid), f"{imsi} {session.session_id}")

    def _stored(self) -> list[IPv4Address]:
        """The addresses of all open sessions, as the disk has them."""
        rows = [
            row
            for (table, _), partition in self.disk.partitions.items()
            if table == "sim"
            for key, row in partition.rows.items()
            if key[0] == "session"
        ]
        bodies = [json.loads(str(row.row.values[0])) for row in rows]
        return [IPv4Address(body["ue_address"]) for body in bodies]


def _address(gateway_id: str) -> str:
    return f"127.0.0.{gateway_id[-1]}"


def _apn(imsi: str) -> str:
    return list(POOLS)[int(imsi) % len(POOLS)]


def _contact(name: str) -> str:
    return f"http://127.0.0.1:{9_000 + int(name[-1])}"


def _config(name: str) -> Config:
    return Config.model_validate(
        {
            "node": {"name": name, "roles": ["gateway", "aaa"], "preferred_gateways": [NODES[name]]},
            "control": {"secret": "the secret of all nodes", "port": 9_000 + int(name[-1])},
            "gateway": {
                "static_pool": str(STATIC_POOL),
                "ue_pool": str(POOLS["soracom.io"]),
                "apns": ["soracom.io", {"name": "meters", "ue_pool": str(POOLS["meters"])}],
                "block_prefix": 29,
                "quarantine_s": QUARANTINE_S,
                "instances": [{"id": each, "address": _address(each)} for each in NODES.values()],
            },
            "radius": {
                "clients": [{"network": "127.0.3.0/24", "secret": "the secret of all NASes"}],
                "reservation_ttl_s": RESERVATION_TTL_S,
            },
        }
    )


def simulate(
    seed: int,
    held_type: type[GatewayRuntime] = GatewayRuntime,
    engine_type: type[LateEngine] = LateEngine,
) -> Stage:
    stage = Stage(seed, held_type, engine_type)
    run_virtual(stage.run)
    return stage


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_allocated_twice_whatever_dies(seed: int) -> None:
    stage = simulate(seed)
    assert stage.ledger.found == []
    assert stage.ledger.told > 200
    assert stage.static_told > 20


class AtOnceEngine(LateEngine):
    """An embedded store: a write of a dead process is there or is not, and never comes."""

    async def _land(self, batches: Sequence[Batch]) -> None:
        await MemoryEngine.write(self, *batches)


class EmbeddedStage(Stage):
    """One node after the other on one file, without RADIUS clients, killed every few seconds."""

    def __init__(self, seed: int, held_type: type[GatewayRuntime] = GatewayRuntime) -> None:
        super().__init__(seed, held_type, AtOnceEngine)
        self.restarts = 0

    async def run(self) -> None:
        store = WideColumnStore(engine=MemoryEngine(disk=self.disk, clock=self.clock), clock=self.clock)
        for sim in self._sims:
            await store.sims.put(sim)
        await self._begin("node-1")
        async with asyncio.TaskGroup() as actors:
            for sim in self._sims:
                actors.create_task(self._live(sim))
            actors.create_task(self._kill())
        await self._end("node-1")

    async def _kill(self) -> None:
        while self.clock.monotonic() < ACTIVE_S:
            await asyncio.sleep(self.rng.uniform(1, 5))
            await self._end("node-1")
            await asyncio.sleep(0.2)  # its callers see that it is dead
            await self._begin("node-1")
            self.restarts += 1

    async def _reserve(self, imsi: str, gateway: GatewayRuntime) -> None:
        """There is no RADIUS client."""

    def _config_of(self, name: str) -> Config:
        config = _config(name).model_dump(mode="json") | {"radius": {}}
        config["node"]["preferred_gateways"] = []
        config["control"] = {}
        config["gateway"]["instances"] = config["gateway"]["instances"][:1]
        return Config.model_validate(config)

    def _world(self, name: str) -> Adapters:
        return dataclasses.replace(super()._world(name), late_s=0.0)


@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_is_killed_again_and_again_goes_on_and_gives_nothing_twice(seed: int) -> None:
    stage = EmbeddedStage(seed)
    run_virtual(stage.run)
    assert stage.ledger.found == []
    assert stage.restarts > 80
    assert stage.ledger.told > 200
    assert stage.occupied == 0, "no restart may cost an attach its address"


def test_it_is_the_rule_that_keeps_addresses_there_and_its_soundness_is_watched() -> None:
    class Hasty(EmbeddedStage):
        """Planted: the store is not such a one."""

        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self._engine_type = LateEngine

    def found(seed: int) -> list[str]:
        stage = Hasty(seed)
        run_virtual(stage.run)
        return stage.ledger.found

    assert any(found(seed) for seed in range(10))


class RashEngine(LateEngine):
    """Planted: a block is taken whatever the map is by now."""

    async def write(self, *batches: Batch) -> None:
        rash = [Batch(b.table, b.partition, b.writes) if b.table is UE_BLOCK else b for b in batches]
        await super().write(*rash)


class RestlessGateway(GatewayRuntime):
    """Planted: what was in quarantine is not read back."""

    async def start(self) -> int:
        def forget(quarantined: QuarantinedResources) -> None:
            return None

        self.gateway.quarantine = forget  # type: ignore[method-assign]  # planted
        return await super().start()


class HastyGateway(GatewayRuntime):
    """Planted: what the holder before may have reserved is allocated at once."""

    def make_blocks(
        self, own: GatewayInstanceConfig, pool: AddressPool, network: IPv4Network | None = None
    ) -> AddressBlocks:
        blocks = super().make_blocks(own, pool, network)
        blocks._held_back_s = 0.0
        return blocks


class CarelessGateway(GatewayRuntime):
    """Planted: a static address is taken from any holder."""

    def make_static_addresses(self) -> StaticAddresses:
        static_addresses = super().make_static_addresses()
        static_addresses.__class__ = CarelessAddresses
        return static_addresses


class CarelessAddresses(StaticAddresses):
    async def _is_free(self, held: AddressHolder, *_: object) -> bool:
        return True


class ForgetfulEngine(LateEngine):
    """Planted: the holder of a static address is overwritten unconditionally."""

    async def write(self, *batches: Batch) -> None:
        rash = [Batch(b.table, b.partition, b.writes) if b.table is ADDRESS_HOLDER else b for b in batches]
        await super().write(*rash)


@pytest.mark.parametrize(
    ("held_type", "engine_type"),
    [
        (CarelessGateway, LateEngine),
        (GatewayRuntime, ForgetfulEngine),
    ],
)
def test_a_planted_bug_with_static_addresses_is_caught(
    held_type: type[GatewayRuntime], engine_type: type[LateEngine]
) -> None:
    found = (each for seed in range(10) for each in simulate(seed, held_type, engine_type).ledger.found)
    assert any("in the store twice" in each for each in found)


@pytest.mark.parametrize(
    ("held_type", "engine_type"),
    [(GatewayRuntime, RashEngine), (RestlessGateway, LateEngine), (HastyGateway, LateEngine)],
)
def test_a_planted_bug_is_caught(held_type: type[GatewayRuntime], engine_type: type[LateEngine]) -> None:
    assert any(simulate(seed, held_type, engine_type).ledger.found for seed in range(10))
