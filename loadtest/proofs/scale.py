"""Many nodes over one store, in virtual time: the holders of gateway instances while nodes fail, by a seed.

The real ``LeaseCoordinator`` and ``LeaseTerm`` of every node, over leases in memory with network delays. A
gateway instance has a number of SIMs and takes the corresponding time to read them back. Time without faults
is shortened; all other times are real.

Rules: never two owners at any instant; a gap lasts from when no node answers for a gateway instance until one
does. Nodes belong to zones, and take only gateway instances of their own, as on EC2 (docs/scale.md).
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.domain.gateway import GatewayLease
from core.domain.session import CloseReason
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.services.cluster.lease_coordinator import LeaseCoordinator
from core.services.gateway.lease_term import LeaseTerm
from core.services.running.faults import Faults
from loadtest.proofs.sizing import Demand, Layout, Supply, as_lines, lay_out
from loadtest.report import page, plot, table_of
from loadtest.simulation.virtual import VirtualClock, run_virtual

GET_S, PUT_S = 0.002, 0.008
"""What a read and a conditional write of the store take at least; at most three times as long."""
SLOW_S = 5.0
"""A slow store's write takes up to so long, a read half of it."""
SETTLE_S = 0.05
NOTICED_S = 2.5
"""By then a gateway whose node was killed or drained is taken, and is read back in its turn."""
QUIET_S = 12.0
"""Before each fault everything has stood for so long."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The layout, and how long a gateway takes to begin: its sessions read back, its address moved."""

    nodes: int = 60
    gateways: int = 1_000
    zones: int = 3
    sims_per_gateway: int = 10_000
    begin_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a node (or to more, of a zone), and for how long."""

    kind: str
    lasts_s: float


FAULTS = (
    Fault("process killed", 10.0),
    Fault("drained", 10.0),
    Fault("process hangs", 30.0),
    Fault("host lost", 60.0),
    Fault("cut off from the store", 40.0),
    Fault("store slow for all", 30.0),
    Fault("two processes killed", 10.0),
)
"""Each comes as often as the others; a zone is lost once, at the end."""
ZONE_LOST = Fault("zone lost", 60.0)


class SharedLeases:
    """The leases of all, as the store has them. Counts what is asked."""

    def __init__(self) -> None:
        self.rows: dict[str, GatewayLease] = {}
        self.reads = self.writes = self.conflicts = 0

    def put(self, lease: GatewayLease) -> GatewayLease:
        """Write if the stored version is the lease's."""
        stored = self.rows.get(lease.lease_id)
        if (stored.version if stored else 0) != lease.version:
            self.conflicts += 1
            raise StaleVersion(lease.lease_id)
        self.rows[lease.lease_id] = replace(lease, version=lease.version + 1)
        return self.rows[lease.lease_id]


@dataclass(slots=True)
class Gap:
    """A gateway was without service so long, from then on, because of that."""

    gateway_id: str
    since: float
    fault: str
    lasted_s: float = 0.0


class World:
    """The fleet, what it shares, and the account of who answered when."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.store = SharedLeases()
        self.slow_s = 0.0
        self.fault = "start"
        self.answering: dict[str, set[str]] = {}
        self.dark: dict[str, Gap] = {}
        self.gaps: list[Gap] = []
        self.two_owners: list[str] = []
        self.nodes: dict[str, SimulatedNode] = {}

    @property
    def gateway_ids(self) -> list[str]:
        """All of them; the zone is the number's remainder."""
        return [f"vg-{number}" for number in range(self.fleet.gateways)]

    def of_zone(self, ids: list[str], zone: int) -> list[str]:
        """Gateways or nodes that stand in a zone."""
        return [each for each in ids if int(each.split("-")[1]) % self.fleet.zones == zone]

    def begin(self, gateway_id: str, name: str) -> None:
        """A node answers for a gateway now."""
        owners = self.answering.setdefault(gateway_id, set())
        owners.add(name)
        if len(owners) > 1:
            self.two_owners.append(f"{self.clock.monotonic():.3f} {gateway_id}: {sorted(owners)}")
        if (gap := self.dark.pop(gateway_id, None)) is not None:
            gap.lasted_s = self.clock.monotonic() - gap.since
            self.gaps.append(gap)

    def end(self, gateway_id: str, name: str) -> None:
        """And now no longer."""
        owners = self.answering.get(gateway_id, set())
        if name in owners:
            owners.discard(name)
            if not owners:
                self.dark[gateway_id] = Gap(gateway_id, self.clock.monotonic(), self.fault)

    def held_by(self) -> Counter[str]:
        """How many gateways each living node answers for."""
        held = Counter({name: 0 for name, node in self.nodes.items() if node.is_up})
        held.update(name for owners in self.answering.values() for name in owners)
        return held


@dataclass(slots=True)
class SimulatedWorker:
    """Answers from the end of ``start`` until it is fenced."""

    world: World
    name: str
    term: LeaseTerm[GatewayLease]
    core: asyncio.Lock
    """A node is one process: it reads one gateway back after the other."""

    async def start(self) -> int:
        """As long as reading the sessions back and moving the address take."""
        fleet = self.world.fleet
        async with self.core:
            await asyncio.sleep(fleet.begin_s * (0.75 + self.world.rng.random() / 2))
        self.world.begin(self.term.lease.lease_id, self.name)
        return fleet.sims_per_gateway

    async def run(self) -> None:
        """Until the term ends."""
        await asyncio.Event().wait()

    def fence(self) -> None:
        """Answers nothing any more."""
        self.world.end(self.term.lease.lease_id, self.name)

    async def flush(self) -> None:
        """The last counts become durable."""
        await asyncio.sleep(SETTLE_S)

    async def aclose(self) -> None:
        """Fenced, at least."""
        self.fence()


class SimulatedNode:
    """One life of a node. Implements ``Leases`` and ``Peers`` for itself."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.contact = world, name, f"http://{name}"
        self.is_up, self.is_dead_for_sure, self.is_cut_off = True, False, False
        zone = int(name.split("-")[1]) % world.fleet.zones
        gateways = world.of_zone(world.gateway_ids, zone)
        core = asyncio.Lock()
        here = world.of_zone([f"node-{n}" for n in range(world.fleet.nodes)], zone)
        self.coordinator = LeaseCoordinator[GatewayLease, SimulatedWorker](
            leases=self,
            kind=GatewayLease,
            peers=self,
            clock=world.clock,
            owner=name,
            contact=self.contact,
            lease_ids=gateways,
            preferred=gateways[here.index(name) :: len(here)],
            make=lambda term, _: SimulatedWorker(world, name, term, core),
            flush_left=_nothing_left,
            faults=Faults(clock=world.clock),
            loop="gateway",
        )
        self.running = asyncio.create_task(self._live())

    async def _live(self) -> None:
        await self.coordinator.start()
        await self.coordinator.run()

    def stop(self, *, is_seen: bool) -> None:
        """It hangs or dies from now on; whether its host reveals that."""
        for gateway_id in list(self.world.answering):
            self.world.end(gateway_id, self.name)
        self.is_up, self.is_dead_for_sure = False, is_seen
        self.running.cancel()

    # -- Leases ---------------------------------------------------------------------------------------

    async def get(self, lease_id: str) -> GatewayLease | None:
        """Read one."""
        self.world.store.reads += 1
        await self._reach(GET_S)
        return self.world.store.rows.get(lease_id)

    async def put(self, lease: GatewayLease) -> GatewayLease:
        """Compare and set; the answer takes as long as the way there."""
        self.world.store.writes += 1
        await self._reach(PUT_S / 2)
        stored = self.world.store.put(lease)
        await self._reach(PUT_S / 2)
        return stored

    async def _reach(self, takes_s: float) -> None:
        world = self.world
        await asyncio.sleep(takes_s * (1 + 2 * world.rng.random()) + world.slow_s / 2 * world.rng.random())
        if self.is_cut_off:
            raise Unavailable("cut off")

    # -- Peers ----------------------------------------------------------------------------------------

    def watch(self, contact: str) -> None:
        """Every node sees every other."""

    async def watches(self, contact: str) -> bool:
        """So it is."""
        return True

    async def is_dead(self, contact: str) -> bool:
        """Its process ended and its host says so."""
        return self.world.nodes[contact.removeprefix("http://")].is_dead_for_sure

    async def name_at(self, contact: str) -> str:
        """Names are unlike."""
        return ""

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        """As over the control channel."""
        node = self.world.nodes[contact.removeprefix("http://")]
        if not node.is_up:
            raise Unavailable("does not answer")
        await node.coordinator.hand_over(gateway_id)

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """Not used by the simulation."""
        raise Unavailable("not simulated")

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        """Not used by the simulation."""
        raise Unavailable("not simulated")

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Not used by the simulation."""
        raise Unavailable("not simulated")


async def _nothing_left(_: str) -> None:
    """Counters are not simulated."""


@dataclass(slots=True)
class ScaleFinding:
    """What a run left."""

    fleet: Fleet
    seed: int
    faults: int = 0
    virtual_s: float = 0.0
    two_owners: list[str] = field(default_factory=list)
    never_back: list[str] = field(default_factory=list)
    gaps_s: dict[str, list[float]] = field(default_factory=dict)
    sims_dark_s: dict[str, float] = field(default_factory=dict)
    most_taken_by_one: int = 0
    """Of what one killed node held, by a survivor."""
    held_max: int = 0
    """By one node while another was away."""
    quiet_reads_per_s: float = 0.0
    quiet_renewals_per_s: float = 0.0
    conflicts: int = 0
    over_time: list[tuple[float, int]] = field(default_factory=list)
    """SIMs without service, second by second."""

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        survivors = self.fleet.nodes // self.fleet.zones - 1
        # By chance one survivor takes two where others take none: the second is read back after the first.
        each_begins = math.ceil(self.fleet.gateways / self.fleet.nodes / max(survivors, 1))
        within_s = NOTICED_S + 1.25 * (each_begins + 1) * self.fleet.begin_s
        known = self.gaps_s.get("process killed", []) + self.gaps_s.get("drained", [])
        return (
            self.faults > 0
            and not self.two_owners
            and not self.never_back
            and not self.gaps_s.get("store slow for all")
            and max(known, default=0.0) < within_s
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        shown = ("seed", "faults", "two_owners", "never_back", "most_taken_by_one", "held_max", "conflicts")
        figures: dict[str, Any] = {name: getattr(self, name) for name in shown}
        figures["virtual_s"] = round(self.virtual_s)
        figures["reads_per_s"] = round(self.quiet_reads_per_s)
        figures["renewals_per_s"] = round(self.quiet_renewals_per_s)
        figures["gaps"] = {
            kind: {
                "gateways": len(gaps),
                "p50_s": round(_percentile(gaps, 50), 2),
                "p99_s": round(_percentile(gaps, 99), 2),
                "max_s": round(max(gaps), 2),
                "sims_dark_s": round(self.sims_dark_s[kind]),
            }
            for kind, gaps in sorted(self.gaps_s.items())
        }
        return figures | {"ok": self.ok}


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def simulate_fleet(
    fleet: Fleet,
    *,
    seed: int,
    faults: int,
    is_zone_lost: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> ScaleFinding:
    """One run, in virtual time."""

    async def whole() -> ScaleFinding:
        world, finding = World(fleet, seed), ScaleFinding(fleet, seed)
        for number in range(fleet.nodes):
            world.nodes[f"node-{number}"] = SimulatedNode(world, f"node-{number}")
        recording = asyncio.create_task(_record(world, finding))
        await _all_answer(world)
        world.gaps.clear()
        await _quiet(world, finding)
        kinds = [FAULTS[number % len(FAULTS)] for number in range(faults)]
        random.Random(seed).shuffle(kinds)
        kinds += [ZONE_LOST] if is_zone_lost else []
        for fault in kinds:
            await _suffer(world, fault, finding)
            finding.faults += 1
            tell(f"{finding.faults} of {len(kinds)}: {fault.kind}")
        recording.cancel()
        _sum_up(world, finding)
        lives = [node.running for node in world.nodes.values()]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        return finding

    return run_virtual(whole)


async def _record(world: World, finding: ScaleFinding) -> None:
    while True:
        dark = len(world.dark) * world.fleet.sims_per_gateway
        finding.over_time.append((world.clock.monotonic(), dark))
        await asyncio.sleep(1)


async def _all_answer(world: World, within_s: float = 120.0) -> bool:
    """Every gateway instance has a holder, and every node its preferred ones again."""
    until = world.clock.monotonic() + within_s
    while world.clock.monotonic() < until:
        await asyncio.sleep(0.5)
        held = world.held_by()
        if len(held) == world.fleet.nodes and held.total() == world.fleet.gateways:
            if max(held.values()) - min(held.values()) <= 1:
                return True
    return False


async def _quiet(world: World, finding: ScaleFinding) -> None:
    reads, writes = world.store.reads, world.store.writes
    await asyncio.sleep(QUIET_S)
    finding.quiet_reads_per_s = (world.store.reads - reads) / QUIET_S
    finding.quiet_renewals_per_s = (world.store.writes - writes) / QUIET_S


async def _suffer(world: World, fault: Fault, finding: ScaleFinding) -> None:
    world.fault = fault.kind
    victims = _victims(world, fault)
    before = world.held_by()
    does: dict[str, Callable[[SimulatedNode], Awaitable[None]]] = {
        "drained": _drain,
        "cut off from the store": _cut_off,
    }
    if fault is FAULTS[5]:
        world.slow_s = SLOW_S
    else:
        await asyncio.gather(*(does.get(fault.kind, _stopper(fault.kind))(node) for node in victims))
    await asyncio.sleep(fault.lasts_s)
    held = world.held_by()
    if fault.kind == "process killed":
        taken = [held[name] - before[name] for name in held if name not in {node.name for node in victims}]
        finding.most_taken_by_one = max(finding.most_taken_by_one, *taken)
    if fault is not ZONE_LOST:
        finding.held_max = max(finding.held_max, *held.values())
    world.slow_s = 0.0
    world.fault = f"{fault.kind}: back"
    for node in victims:
        node.is_cut_off = False
        if not node.is_up:
            world.nodes[node.name] = SimulatedNode(world, node.name)
    if not await _all_answer(world):
        finding.never_back.append(f"{fault.kind}: {world.held_by().total()} of {world.fleet.gateways}")
    await asyncio.sleep(QUIET_S)


def _victims(world: World, fault: Fault) -> list["SimulatedNode"]:
    if fault is FAULTS[5]:
        return []
    if fault is ZONE_LOST:
        return [world.nodes[name] for name in world.of_zone(list(world.nodes), 0)]
    return world.rng.sample(list(world.nodes.values()), 2 if fault.kind.startswith("two") else 1)


def _stopper(kind: str) -> Callable[[SimulatedNode], Awaitable[None]]:
    async def stop(node: SimulatedNode) -> None:
        node.stop(is_seen="killed" in kind)

    return stop


async def _drain(node: SimulatedNode) -> None:
    await node.coordinator.drain()
    node.stop(is_seen=True)


async def _cut_off(node: SimulatedNode) -> None:
    node.is_cut_off = True


def _sum_up(world: World, finding: ScaleFinding) -> None:
    finding.virtual_s = world.clock.monotonic()
    finding.two_owners = world.two_owners
    finding.never_back += [f"{gap.fault}: {gap.gateway_id}" for gap in world.dark.values()]
    finding.conflicts = world.store.conflicts
    for gap in world.gaps:
        finding.gaps_s.setdefault(gap.fault, []).append(gap.lasted_s)
        lost = gap.lasted_s * world.fleet.sims_per_gateway
        finding.sims_dark_s[gap.fault] = finding.sims_dark_s.get(gap.fault, 0.0) + lost


def fleet_of(layout: Layout, supply: Supply) -> Fleet:
    """The simulated fleet of a layout."""
    return Fleet(
        nodes=layout.nodes,
        gateways=layout.gateways,
        zones=supply.zones,
        sims_per_gateway=supply.sims_per_gateway,
        begin_s=layout.read_back_s + supply.move_s,
    )


def as_page(finding: ScaleFinding, layout: Layout) -> str:
    """For a browser: SIMs without service over the run, and the gaps of each kind of fault."""
    gaps = finding.as_dict()["gaps"]
    rows = [["fault", "gateways", "p50 s", "p99 s", "max s", "SIM hours without service"]]
    rows += [
        [kind, *map(str, list(each.values())[:4]), f"{each['sims_dark_s'] / 3_600:,.0f}"]
        for kind, each in gaps.items()
    ]
    last = int(finding.over_time[-1][0]) if finding.over_time else 1
    dark = [0.0] * (last + 1)
    for at_s, sims in finding.over_time:
        dark[min(int(at_s), last)] = float(sims)
    facts = [[part.strip() for part in line.split("  ", 1)] for line in as_lines(layout)]
    return page(
        "Airloom at scale",
        [table_of(facts), table_of(rows), plot("SIMs without service", {"SIMs": dark}, last)],
    )


def run(
    *, demand: Demand, faults: int, seed: int, html: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The arithmetic, then the run of the fleet that it gives; a page where one is wanted."""
    supply = Supply()
    layout = lay_out(demand, supply)
    for line in as_lines(layout):
        tell(line)
    finding = simulate_fleet(fleet_of(layout, supply), seed=seed, faults=faults, is_zone_lost=True, tell=tell)
    if html is not None:
        html.write_text(as_page(finding, layout))
    return {"nodes": layout.nodes, "gateways": layout.gateways} | finding.as_dict()
