"""A whole Airloom in virtual time: node, SGSNs, SGWs, devices, a customer, and faults.

Rules: the node is the real one over adapters in memory; only its disks survive its crashes. A second account
records what the devices and the edge saw; after the last session has ended ``loadtest.simulation.checks``
compares the two. The same seed gives the same run, to the byte.
"""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

import loadtest.simulation.plan
from airloom.app.adapters import Adapters
from airloom.app.gateway_runtime import GatewayRuntime, flush_left
from airloom.app.node import Node
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.engine import Batch, Engine
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.config import EdgeConfig
from core.domain.session import CloseReason, Session
from core.domain.sim import Sim, SimStatus, Subscriber
from core.domain.usage import RollupProgress, day_of
from core.domain.values import replace
from core.ports.network import Address
from core.services.running.faults import Fault
from gtp.userplane.counter_table import over_buffer, table_bytes
from loadtest.peers.device import SimulatedDevice
from loadtest.peers.gtp import GtpPeer, NotAnswered, PdpContext, Refusal
from loadtest.peers.nas import AccessDenied, Nas, NasSession
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.simulation.checks_during_run import ChecksDuringRun
from loadtest.simulation.customer import Customer
from loadtest.simulation.faults import (
    FaultRates,
    FaultyEngine,
    FaultyStream,
    Incarnation,
    RetellingEngine,
    RetoldRates,
)
from loadtest.simulation.ledger import GTP_U_PORT, Ledger
from loadtest.simulation.plan import NAS_SECRET, PATH_LOSS_S_MAX, SLOTS, Plan
from loadtest.simulation.running import SimState
from loadtest.simulation.virtual import (
    PERFECT,
    SeededEntropy,
    SkewedClock,
    VirtualClock,
    VirtualNetwork,
)

GATEWAY = "127.0.0.1"
NODES = ("node-1", "node-2")
PEERS: Mapping[str, type[GtpPeer[Any]]] = {
    "127.0.1.1": Sgsn,
    "127.0.1.2": Sgsn,
    "127.0.2.1": Sgw,
    "127.0.2.2": Sgw,
}
NASES: Mapping[str, int] = {"127.0.3.1": 0, "127.0.3.2": 2**32 - 20_000}
"""Their addresses, and what their counters begin at: those of the second soon pass 32 bits."""
HASTY_NAS = "127.0.3.2"
"""Sessions begin here before its Accounting-On is acknowledged."""
APN = "soracom.io"
OPERATOR = "OP0000000001"


class World:
    """One run.

    ``node_type`` is where a test puts a node with a planted bug; ``engine`` is a real store to run on, and
    ``clock`` the real time that it needs.
    """

    def __init__(
        self,
        seed: int,
        plan: Plan | None = None,
        node_type: type[Node] = Node,
        engine: Engine | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.rng = random.Random(seed)
        self.clock = clock or VirtualClock(datetime(2026, 11, 30, 23, 58, 30, tzinfo=UTC))
        self.node_clock = SkewedClock(self.clock)
        self.network = VirtualNetwork(self.rng)
        self.network.tap = self._tap
        self.disk, self.stream_disk = Disk(), MemoryDisk()
        self.slots = {name: bytearray(table_bytes(SLOTS)) for name in NODES}
        self.node_name = NODES[0]
        self.takeovers = 0
        self.store_rates, self.stream_rates = FaultRates(), FaultRates()
        self.retold_rates = replace(self.plan.retold) if self.plan.retold else RetoldRates()
        self.sims: list[SimState] = []
        self.arrived: dict[str, list[bytes]] = {}
        self.up_bytes: Counter[str] = Counter()
        self.down_bytes: Counter[str] = Counter()
        self.of_session: Counter[tuple[str, str]] = Counter()
        """Octets by session and direction."""
        self.usage_told: list[Batch] = []
        self.owner_of: dict[IPv4Address, str] = {}
        self._own_addresses = {GATEWAY}
        self.findings: list[str] = []
        self.attaches: Counter[str] = Counter()
        self.nas_sessions: list[NasSession] = []
        self.handovers = 0
        self.restarts = 0
        self.jumps = 0
        self.bearers_made = 0
        self.policy_rng = random.Random(seed)
        self._node_type = node_type
        self.engine = engine
        self._life = Incarnation()
        self._running: asyncio.Task[None] | None = None
        self._run: asyncio.Task[None] | None = None
        self.gate = asyncio.Event()
        """Set while a node serves."""
        self.customer = Customer(self)
        self._checks = ChecksDuringRun(self)

    # -- the node's lives -----------------------------------------------------------------------------

    async def start_node(self) -> None:
        """Begin a life on what the last one left, trying waiting while the store is away."""
        self._life = Incarnation()
        config = loadtest.simulation.plan.config_of(self.node_name, self.plan)
        self._own_addresses = {str(each) for own in config.gateway.held for each in own.addresses}
        self.node = self._node_type(config=config, adapters=self._adapters(self._life, self.node_name))
        self.node.deliver = self._watch_edge
        await self.node.start()
        self._running = asyncio.create_task(self.node.run())
        self._running.add_done_callback(self._on_node_ended)
        await self.holding()
        self.gate.set()

    async def holding(self) -> GatewayRuntime:
        """The gateway instance, once it is held: a store that is away too long costs the node its lease."""
        while (held := self.node.held.get("vg-1")) is None:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        return held

    def _on_node_ended(self, running: asyncio.Task[None]) -> None:
        """A node that ends by itself is a finding, and ends the run: its peers might wait for it
        endlessly.
        """
        if not running.cancelled() and (error := running.exception()) is not None and self._life.is_alive:
            self.findings.append(f"the node ended by itself: {error!r}")
            if self._run is not None:
                self._run.cancel()

    async def crash(self) -> None:
        """``kill -9``: the disks and the counter table stay as they are at this instant."""
        self.gate.clear()
        self._life.is_alive = False
        self.slots[self.node_name] = bytearray(self.slots[self.node_name])
        for address in self._own_addresses:
            self.network.unplug(address)
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await self._running
        self.find_crashes()

    def find_crashes(self) -> None:
        """A loop that a fault of ours ended goes on, but is a finding."""
        for key, number in self.node.faults.counts.items():
            if Fault.CRASH.value in key:
                self.findings.append(f"{key[0]} ended by itself {number} times: {self.node.faults.standing}")

    def _adapters(self, life: Incarnation, name: str) -> Adapters:
        clock = self.node_clock
        stored = self.engine or MemoryEngine(disk=self.disk, clock=clock)
        if self.plan.retold is not None:
            stored = RetellingEngine(stored, rates=self.retold_rates, told=self.usage_told, rng=self.rng)
        engine = FaultyEngine(stored, rates=self.store_rates, life=life, rng=self.rng)
        stream = FaultyStream(
            MemoryStream(disk=self.stream_disk, clock=clock),
            rates=self.stream_rates,
            life=life,
            rng=self.rng,
        )
        return Adapters(
            clock=clock,
            entropy=SeededEntropy(self.rng),
            network=self.network,
            store=WideColumnStore(engine=engine, clock=clock),
            stream=stream,
            objects=MemoryObjectStore(),
            open_counters=lambda _: over_buffer(self.slots[name]),
            left_counters=lambda _: over_buffer(self.slots[name]),
            token_key=bytes(32),
        )

    # -- the second account ---------------------------------------------------------------------------

    def _watch_edge(self, session_id: str, packet: bytes) -> None:
        """What the far side of the uplink sees: the octets by the IP header, and the payload."""
        session = self.node.session_of(session_id)
        if session is not None:
            octets = struct.unpack_from("!H", packet, 2)[0]
            self.up_bytes[session.imsi] += octets
            self.of_session[session_id, "up"] += octets
            self.arrived.setdefault(session.imsi, []).append(packet[(packet[0] & 15) * 4 + 8 :])
        self.node.edge.on_edge_packet(session_id, packet)

    def _tap(self, data: bytes, source: Address, to: Address) -> None:
        """What leaves the gateway towards the devices."""
        if source[1] != GTP_U_PORT or source[0] not in self._own_addresses:
            return
        ledger = Ledger()
        ledger.observe(data, from_gateway=True)
        for address, octets in ledger.down_bytes.items():
            self.down_bytes[self.owner_of[IPv4Address(address)]] += octets
            session = self.node.session_at(IPv4Address(address))
            assert session is not None, "what is sent down has a session"
            self.of_session[session.session_id, "down"] += octets

    # -- the run --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole run, from empty disks until all sessions have ended."""
        plan = self.plan
        self._run = asyncio.current_task()
        await self._begin_rollup()
        await self.start_node()
        await self._make_sims()
        self.network.faults = plan.network
        self._set_faults(plan.store, plan.stream)
        async with AsyncExitStack() as peers:
            self.peers = [
                await peers.enter_async_context(self._peer(kind, address).running())
                for address, kind in PEERS.items()
            ]
            self.nases = [
                await peers.enter_async_context(self._nas(address, first).running())
                for address, first in NASES.items()
            ]
            async with asyncio.TaskGroup() as actors:
                for state in self.sims:
                    actors.create_task(self._live(state))
                actors.create_task(self.customer.suspend_sims())
                actors.create_task(self._break_things())
                actors.create_task(self.customer.change_policies())
            self.network.faults = PERFECT
            self._set_faults(FaultRates(), FaultRates())
            self.retold_rates.late = 0.0
            self.node_clock.skew = timedelta()
            await self._checks.find_ghosts()
            if "vg-1" not in self.node.held:
                self.findings.append("no node serves although all faults have ended")
            for state in self.sims:
                self._checks.check_accepted(state)
            await self._go_home()
        await asyncio.sleep(self.plan.quiet_s)
        await self._tell_left_counts()
        await (await self.holding()).usage.sweep()

    async def _begin_rollup(self) -> None:
        """As if this were not the first day: what was folded is then read alone, without its slots."""
        engine = self.engine or MemoryEngine(disk=self.disk, clock=self.clock)
        store = WideColumnStore(engine=engine, clock=self.clock)
        yesterday = day_of(self.clock.now() - timedelta(days=1))
        await store.usage.put_rollup_progress(
            RollupProgress(begun=yesterday, sealed=yesterday, folded=yesterday)
        )

    async def _tell_left_counts(self) -> None:
        """The nodes that were replaced return and report their counters, of a day that was rolled up long
        ago.
        """
        for name in NODES:
            if name != self.node_name:
                adapters = self._adapters(self._life, name)
                await flush_left(loadtest.simulation.plan.config_of(name, self.plan), adapters, "vg-1")

    async def finish(self) -> None:
        """End the last life in order."""
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await self._running
        self.find_crashes()

    def _peer(self, kind: type[GtpPeer[Any]], address: str) -> GtpPeer[Any]:
        return kind(network=self.network, address=address, gateway=GATEWAY, entropy=SeededEntropy(self.rng))

    def _nas(self, address: str, first_octets: int) -> Nas:
        return Nas(
            network=self.network,
            address=address,
            authentication=(GATEWAY, 1812),
            accounting=(GATEWAY, 1813),
            secret=NAS_SECRET,
            entropy=SeededEntropy(self.rng),
            first_octets=first_octets,
            is_hasty=address == HASTY_NAS,
        )

    async def _make_sims(self) -> None:
        for number in range(self.plan.sims):
            sim = Sim(
                sim_id=f"89811000000000{number:05d}",
                subscribers=(Subscriber(f"44010000000{number:04d}"),),
                registration_secret_sha256="",
                created=self.clock.now(),
                modified=self.clock.now(),
                operator_id=OPERATOR,
                status=SimStatus.READY,
                speed_class="s1.8xfast",
            )
            self.sims.append(SimState(await self.node._world.store.sims.put(sim)))

    async def _live(self, state: SimState) -> None:
        """A device's life: attach, talk, move, vanish, come back."""
        until = self.clock.monotonic() + self.plan.active_s
        while self.clock.monotonic() < until:
            await asyncio.sleep(self.rng.expovariate(1 / self.plan.pace_s))
            self._checks.check_accepted(state)
            action = self.rng.random()
            if state.nas is not None:
                await self._live_by_radius(state, action)
            elif state.context is None or not state.context.is_active:
                await self._attach(state)
            elif action < 0.70:
                await self._talk(state)
            elif action < 0.80:
                await self._detach(state)
            elif action < 0.90:
                state.peer.lose(state.context) if state.peer else None
                await self._attach(state)
            else:
                await self._move(state)

    async def _attach(self, state: SimState) -> None:
        state.is_touched = False  # before it is asked: a session may be cut before its answer arrives
        if self.rng.random() < 0.3:
            await self._attach_by_radius(state, self.rng.choice(self.nases))
            return
        peer = self.rng.choice(self.peers)
        try:
            context = await peer.attach(imsi=state.imsi, apn=APN)
        except (Refusal, NotAnswered):
            state.context = None
            return
        self.attaches[type(peer).__name__] += 1
        self.owner_of[context.ue_address] = state.imsi
        state.context, state.peer = context, peer
        state.device = self._device(state, context)

    # -- by RADIUS ------------------------------------------------------------------------------------

    async def _attach_by_radius(self, state: SimState, nas: Nas) -> None:
        with suppress(AccessDenied, NotAnswered):
            session = await nas.ask_for_access(imsi=state.imsi, apn=APN)
            self.nas_sessions.append(session)
            state.context, state.peer, state.device = None, None, None
            await nas.begin(session)
            self.attaches["Nas"] += 1
            state.nas, state.nas_session = nas, session

    async def _live_by_radius(self, state: SimState, action: float) -> None:
        nas, session = state.nas, state.nas_session
        assert nas is not None and session is not None, "a SIM at a NAS has a session there"
        if session.is_active:
            session.carry(self.rng.randint(0, 5_000), self.rng.randint(0, 50_000))
        if not session.is_active or action > 0.85:
            nas.lose(session)
            state.nas = state.nas_session = None
        elif action < 0.05:
            await nas.restart()
        elif action < 0.5:
            with suppress(NotAnswered):
                await nas.report(session)

    def _device(self, state: SimState, context: PdpContext) -> SimulatedDevice:
        edge = EdgeConfig()

        def send_up(packet: bytes) -> None:
            if state.peer is not None and state.context is not None:
                state.peer.send_up(state.context, packet)

        device = SimulatedDevice(
            send_up=send_up,
            ue_address=context.ue_address,
            entry_address=edge.message_address,
            entry_port=edge.udp_port,
        )
        context.on_down = device.receive
        return device

    async def _talk(self, state: SimState) -> None:
        for _ in range(self.rng.randint(1, 4)):
            if state.device is None:
                return
            state.number += 1
            payload = b"%s %d" % (state.imsi.encode(), state.number)
            if await state.device.send_raw(payload, answer_s=2.0) == b"200":
                state.acknowledged.append(payload)

    async def _detach(self, state: SimState) -> None:
        if state.context is not None and state.peer is not None:
            with suppress(Refusal, NotAnswered):
                await state.peer.detach(state.context)
        state.context = None

    async def _move(self, state: SimState) -> None:
        """Another peer takes the context over, by its own version of GTP."""
        if state.context is None or state.peer is None:
            return
        old = state.peer
        other = self.rng.choice([peer for peer in self.peers if peer is not old])
        context = state.context
        try:
            taken = await other.take_over(context)
        except (Refusal, NotAnswered):
            old.lose(context)  # whose it is now is unknown: the device attaches afresh
            state.context = None
            return
        old.lose(context)
        state.context, state.peer = taken, other
        self.handovers += type(old) is not type(other)

    async def _break_things(self) -> None:
        moments = [("crash", self.rng.random()) for _ in range(self.plan.crashes)]
        moments += [("outage", self.rng.random()) for _ in range(self.plan.outages)]
        moments += [("jump", self.rng.random()) for _ in range(self.plan.clock_jumps)]
        moments += [("restart", self.rng.random()) for _ in range(self.plan.peer_restarts)]
        moments += [
            (kind, self.rng.random())
            for kind in ("replace", "twin")
            for _ in range(self.plan.peer_replacements)
        ]
        moments += [("path", self.rng.random()) for _ in range(self.plan.path_losses)]
        began = self.clock.monotonic()
        for kind, when in sorted(moments, key=lambda moment: moment[1]):
            at = began + when * self.plan.active_s
            await asyncio.sleep(max(0.0, at - self.clock.monotonic()))
            if kind == "crash":
                await self.crash()
                await asyncio.sleep(self.rng.random() * 3)
                if self.rng.random() < self.plan.takeover:
                    self.node_name = next(name for name in NODES if name != self.node_name)
                    self.takeovers += 1
                await self.start_node()
                self._checks.check_recovered()
            elif kind == "restart":
                self.rng.choice(self.peers).restart()
                self.restarts += 1
            elif kind == "replace":
                self.rng.choice(self.peers).restart(self.rng.randrange(256))
                self.restarts += 1
            elif kind == "twin":
                self.rng.choice(self.peers).fail_over()
                self.restarts += 1
            elif kind == "path":
                self._lose_path(self.rng.choice(self.peers).address)
            elif kind == "jump":
                self.node_clock.skew = timedelta(seconds=self.rng.uniform(-3_600, 3_600))
                self.jumps += 1
            else:
                await self._outage()

    def _lose_path(self, host: str) -> None:
        self.network.cut_off.add(host)
        away_s = self.rng.random() * PATH_LOSS_S_MAX
        asyncio.get_running_loop().call_later(away_s, self.network.cut_off.discard, host)

    async def _outage(self) -> None:
        """The store or the stream is away for some seconds."""
        gone = FaultRates(before=1.0)
        if self.rng.random() < 0.5:
            self._set_faults(gone, self.plan.stream)
        else:
            self._set_faults(self.plan.store, gone)
        await asyncio.sleep(self.rng.random() * 10)
        self._set_faults(self.plan.store, self.plan.stream)

    def _set_faults(self, store: FaultRates, stream: FaultRates) -> None:
        for live, wanted in ((self.store_rates, store), (self.stream_rates, stream)):
            live.before, live.after = wanted.before, wanted.after
            live.delay_s, live.delay_s_max = wanted.delay_s, wanted.delay_s_max

    def open_sessions(self) -> list[Session]:
        """The open sessions of every gateway instance that the node holds."""
        return [s for held in self.node.held.values() for s in held.sessions.open_sessions.values()]

    async def _go_home(self) -> None:
        for state in self.sims:
            await self._detach(state)
            if state.nas is not None and state.nas_session is not None:
                await state.nas.detach(state.nas_session)
        for state in self.sims:
            await (await self.holding()).sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
