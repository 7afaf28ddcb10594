"""Who holds a gateway instance, in virtual time: nodes that die, freeze, are cut off, and clocks that
jump.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from airloom.app.gateway_runtime import GATEWAY_WORDS
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.gateway import GatewayLease
from core.domain.session import CloseReason
from core.errors import ConfigurationError, Unavailable
from core.services.cluster.lease_coordinator import LeaseCoordinator, State
from core.services.cluster.lease_seeking import GONE_AFTER_S, LOOK_S, RENEWED_WITHIN_S
from core.services.cluster.lease_states import LeaseState
from core.services.gateway.lease_term import LEASE_S, LeaseTerm
from core.services.running.faults import Faults
from loadtest.simulation.virtual import SkewedClock, VirtualClock, run_virtual

GATEWAYS = ("vg-1", "vg-2")


@dataclass
class Stage:
    """The nodes, what they share, and who answers for what at any moment."""

    clock: VirtualClock
    disk: Disk = field(default_factory=Disk)
    nodes: dict[str, "Node"] = field(default_factory=dict)
    answering: dict[str, set[str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    two_owners: list[str] = field(default_factory=list)
    begins_s: float = 0.0

    def begin(self, gateway_id: str, name: str) -> None:
        owners = self.answering.setdefault(gateway_id, set())
        owners.add(name)
        if len(owners) > 1:
            self.two_owners.append(f"{gateway_id}: {sorted(owners)}")

    def end(self, gateway_id: str, name: str) -> None:
        self.answering.get(gateway_id, set()).discard(name)

    def owner(self, gateway_id: str) -> str:
        return ",".join(sorted(self.answering.get(gateway_id, set())))


@dataclass
class FakeWorker:
    """Answers from ``start`` until it is fenced."""

    stage: Stage
    name: str
    term: LeaseTerm[GatewayLease]
    before: GatewayLease | None
    is_flushed: bool = False

    async def start(self) -> int:
        await asyncio.sleep(self.stage.begins_s)
        self.stage.begin(self.term.lease.lease_id, self.name)
        return 3

    async def run(self) -> None:
        await asyncio.Event().wait()

    def fence(self) -> None:
        self.stage.end(self.term.lease.lease_id, self.name)

    async def flush(self) -> None:
        self.is_flushed = True

    async def aclose(self) -> None:
        self.fence()


class Leases:
    """The store's, as one node reaches it: cut off, slow, or both."""

    def __init__(self, stage: Stage) -> None:
        self._leases = WideColumnStore(
            engine=MemoryEngine(disk=stage.disk, clock=stage.clock), clock=stage.clock
        ).leases
        self.is_cut_off = False
        self.takes_s = 0.0

    async def get(self, lease_id: str) -> GatewayLease | None:
        await self._reach()
        return await self._leases.get(lease_id)

    async def put(self, lease: GatewayLease) -> GatewayLease:
        await self._reach()
        return await self._leases.put(lease)

    async def _reach(self) -> None:
        await asyncio.sleep(self.takes_s)
        if self.is_cut_off:
            raise Unavailable("cut off")


class Node:
    """One node over the shared store. Implements ``Peers`` for itself."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        preferred: tuple[str, ...],
        *,
        folder: str = "",
        contact: str | None = None,
    ) -> None:
        self.stage, self.name = stage, name
        self.contact = f"http://{name}" if contact is None else contact
        self.leases = Leases(stage)
        self.clock = SkewedClock(stage.clock)
        self.is_dead_for_sure = False
        self.settled_left: list[str] = []
        self.coordinator = LeaseCoordinator[GatewayLease, FakeWorker](
            leases=self.leases,
            kind=GatewayLease,
            peers=self,
            clock=self.clock,
            owner=name,
            contact=self.contact,
            folder_id=folder or f"folder of {name}",
            lease_ids=GATEWAYS,
            preferred=preferred,
            make=lambda term, before: FakeWorker(stage, name, term, before),
            flush_left=self.flush_left,
            faults=Faults(clock=stage.clock, log=stage.told.append),
            loop="gateway",
            words=GATEWAY_WORDS,
            log=stage.told.append,
        )
        self.running: asyncio.Task[None] | None = None

    async def flush_left(self, gateway_id: str) -> None:
        self.settled_left.append(gateway_id)

    async def begin(self) -> None:
        await self.coordinator.start()
        self.running = asyncio.create_task(self.coordinator.run())

    def freeze(self) -> None:
        """It stands still with all that it holds, and answers nothing (SIGSTOP, kill -9)."""
        assert self.running is not None
        for gateway_id in GATEWAYS:
            self.stage.end(gateway_id, self.name)
        self.running.cancel()

    def watch(self, contact: str) -> None:
        pass

    async def watches(self, contact: str) -> bool:
        return True

    async def is_dead(self, contact: str) -> bool:
        return any(node.contact == contact and node.is_dead_for_sure for node in self.stage.nodes.values())

    async def name_at(self, contact: str) -> str:
        return next((node.name for node in self.stage.nodes.values() if node.contact == contact), "")

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        for node in self.stage.nodes.values():
            if node.contact == contact and node.running is not None and not node.running.done():
                return await node.coordinator.hand_over(gateway_id)
        raise Unavailable("does not answer")

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        raise NotImplementedError

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        raise NotImplementedError

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        raise NotImplementedError


def play(script: Callable[[Stage], Awaitable[None]]) -> Stage:
    """Two nodes with a preferred gateway each, then the script; never two owners."""

    async def whole() -> Stage:
        stage = Stage(VirtualClock(datetime(2026, 11, 30, tzinfo=UTC)))
        for name, preferred in (("node-1", ("vg-1",)), ("node-2", ("vg-2",))):
            stage.nodes[name] = Node(stage, name, preferred)
            await stage.nodes[name].begin()
        await asyncio.sleep(1)
        assert (stage.owner("vg-1"), stage.owner("vg-2")) == ("node-1", "node-2")
        await script(stage)
        for node in stage.nodes.values():
            if node.running is not None:
                node.running.cancel()
        await asyncio.gather(*(n.running for n in stage.nodes.values() if n.running), return_exceptions=True)
        return stage

    stage = run_virtual(whole)
    assert stage.two_owners == []
    return stage


def test_a_silent_holder_is_replaced_after_its_lease_and_not_before() -> None:
    async def script(stage: Stage) -> None:
        stage.nodes["node-1"].freeze()
        await asyncio.sleep(LEASE_S)
        assert stage.owner("vg-1") == ""
        await asyncio.sleep(GONE_AFTER_S - LEASE_S + 2 * LOOK_S + 2)
        assert stage.owner("vg-1") == "node-2"
        worker = stage.nodes["node-2"].coordinator.held["vg-1"]
        assert (worker.term.lease.fence, worker.term.lease.restart_counter) == (2, 1)

    play(script)


def test_a_holder_that_is_dead_for_sure_is_replaced_at_once() -> None:
    async def script(stage: Stage) -> None:
        stage.nodes["node-1"].freeze()
        stage.nodes["node-1"].is_dead_for_sure = True
        await asyncio.sleep(3 * LOOK_S)
        assert stage.owner("vg-1") == "node-2"

    play(script)


def test_a_node_that_comes_back_is_handed_its_own() -> None:
    async def script(stage: Stage) -> None:
        stage.nodes["node-1"].freeze()
        stage.nodes["node-1"].is_dead_for_sure = True
        await asyncio.sleep(1)
        again = stage.nodes["node-1"] = Node(stage, "node-1", ("vg-1",))
        taken_over = stage.nodes["node-2"].coordinator.held["vg-1"]
        await again.begin()
        await asyncio.sleep(2)
        assert stage.owner("vg-1") == "node-1"
        assert again.settled_left == ["vg-1", "vg-2"]
        assert taken_over.is_flushed
        worker = again.coordinator.held["vg-1"]
        assert worker.before is not None
        assert (worker.before.owner, worker.before.is_released, worker.term.lease.fence) == (
            "node-2",
            True,
            3,
        )

    play(script)


@pytest.mark.parametrize("skew_s", [-3_600, 3_600])
def test_a_clock_that_jumps_changes_nothing(skew_s: int) -> None:
    async def script(stage: Stage) -> None:
        stage.nodes["node-1"].clock.skew = timedelta(seconds=skew_s)
        await asyncio.sleep(10 * LEASE_S)
        assert stage.owner("vg-1") == "node-1"
        assert stage.nodes["node-1"].coordinator.held["vg-1"].term.lease.fence == 1

    play(script)


def test_a_holder_that_is_cut_off_stops_by_itself_before_another_begins() -> None:
    async def script(stage: Stage) -> None:
        node = stage.nodes["node-1"]
        node.leases.is_cut_off = True
        await asyncio.sleep(LEASE_S + 0.1)
        assert stage.owner("vg-1") == ""
        assert node.coordinator.states["vg-1"].state is State.FREE, "what it lost no other node has"
        await asyncio.sleep(GONE_AFTER_S - LEASE_S + 3)
        assert stage.owner("vg-1") == "node-2"
        node.leases.is_cut_off = False
        await asyncio.sleep(3)
        assert stage.owner("vg-1") == "node-1"

    play(script)


def test_a_store_away_for_less_than_a_lease_costs_nothing() -> None:
    async def script(stage: Stage) -> None:
        for node in stage.nodes.values():
            node.leases.is_cut_off = True
        await asyncio.sleep(LEASE_S * 0.7)
        for node in stage.nodes.values():
            node.leases.is_cut_off = False
        await asyncio.sleep(3 * LEASE_S)
        assert stage.nodes["node-1"].coordinator.held["vg-1"].term.lease.fence == 1

    play(script)


def test_a_store_that_takes_five_seconds_still_renews() -> None:
    async def script(stage: Stage) -> None:
        for node in stage.nodes.values():
            node.leases.takes_s = 5.0
        await asyncio.sleep(10 * LEASE_S)
        assert (stage.owner("vg-1"), stage.owner("vg-2")) == ("node-1", "node-2")
        assert stage.nodes["node-1"].coordinator.held["vg-1"].term.lease.fence == 1

    play(script)


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.6, 0.9])
def test_a_node_that_drains_while_it_takes_a_lease_keeps_nothing(after_s: float) -> None:
    """Whether the lease is being read, written, or its worker begins."""

    async def script(stage: Stage) -> None:
        one, other = stage.nodes["node-1"], stage.nodes["node-2"]
        other.leases.takes_s = stage.begins_s = 0.4
        one.freeze()
        await asyncio.sleep(LEASE_S)
        while other.coordinator._slots["vg-1"].state is LeaseState.SEEKING:  # noqa: ASYNC110 - no event of ours
            await asyncio.sleep(0.01)
        await asyncio.sleep(after_s)
        await other.coordinator.drain()
        for _ in range(2):
            assert (stage.owner("vg-1"), stage.owner("vg-2")) == ("", "")
            leases = [await other.leases.get(each) for each in GATEWAYS]
            assert all(lease is not None and lease.is_released for lease in leases)
            await asyncio.sleep(5)

    play(script)


def test_a_drained_node_leaves_everything_to_the_other_and_takes_nothing() -> None:
    async def script(stage: Stage) -> None:
        await stage.nodes["node-1"].coordinator.drain()
        assert stage.owner("vg-1") == ""
        await asyncio.sleep(2)
        assert stage.owner("vg-1") == "node-2"
        assert stage.nodes["node-1"].coordinator.held == {}

    play(script)


def test_a_node_that_is_stopped_while_it_loses_its_lease_ends() -> None:
    async def script(stage: Stage) -> None:
        node = stage.nodes["node-1"]
        running = node.running
        assert running is not None
        stop = running.cancel

        class Fenced(FakeWorker):
            def fence(self) -> None:
                super().fence()
                stop()

        node.coordinator.held["vg-1"].__class__ = Fenced
        node.leases.is_cut_off = True
        await asyncio.wait([running], timeout=10 * LEASE_S)
        assert running.cancelled()

    play(script)


@pytest.mark.parametrize("contact", ["http://elsewhere", "http://node-1", ""])
def test_the_second_living_node_of_a_name_is_refused(contact: str) -> None:
    """Whether or not the first can be asked: its lease is seen to be renewed."""

    async def script(stage: Stage) -> None:
        twin = Node(stage, "node-1", ("vg-1",), folder="another", contact=contact)
        with pytest.raises(ConfigurationError, match="give each its own name"):
            await twin.coordinator.start()
        assert stage.owner("vg-1") == "node-1"
        assert stage.nodes["node-1"].coordinator.held["vg-1"].term.lease.fence == 1

    play(script)


@pytest.mark.parametrize("contact", [None, ""])
@pytest.mark.parametrize("apart_s", [0.0, 0.001])
def test_of_two_of_a_name_that_start_at_once_one_is_refused(contact: str | None, apart_s: float) -> None:
    """Over an empty store, each with its own folder."""

    async def whole() -> None:
        stage = Stage(VirtualClock(datetime(2026, 11, 30, tzinfo=UTC)))
        twins = [
            Node(stage, "node-1", ("vg-1",), folder=folder, contact=contact) for folder in ("one", "other")
        ]
        for number, twin in enumerate(twins):
            twin.leases.takes_s = number * apart_s
            stage.nodes[f"twin {number}"] = twin

        async def live(twin: Node) -> None:
            await twin.coordinator.start()
            await twin.coordinator.run()

        lives = [asyncio.create_task(live(twin)) for twin in twins]
        await asyncio.wait(lives, timeout=10)
        refused = [life.exception() for life in lives if life.done()]
        assert len(refused) == 1
        assert isinstance(refused[0], ConfigurationError)
        assert len(stage.answering["vg-1"]) == 1
        assert stage.two_owners == []
        for life in lives:
            life.cancel()

    run_virtual(whole)


def test_a_node_that_was_built_anew_waits_for_the_lease_of_its_name() -> None:
    async def script(stage: Stage) -> None:
        stage.nodes["node-1"].freeze()
        stage.nodes["node-2"].freeze()
        again = stage.nodes["node-1"] = Node(stage, "node-1", ("vg-1",), folder="new")
        await again.begin()
        await asyncio.sleep(LEASE_S - RENEWED_WITHIN_S)
        assert stage.owner("vg-1") == ""
        assert again.coordinator.states["vg-1"].state is State.FREE
        await asyncio.sleep(GONE_AFTER_S - LEASE_S + RENEWED_WITHIN_S + 1)
        assert stage.owner("vg-1") == "node-1"

    play(script)


def test_what_was_taken_first_is_kept_while_the_others_are_read_back() -> None:
    async def whole() -> Stage:
        stage = Stage(VirtualClock(datetime(2026, 11, 30, tzinfo=UTC)), begins_s=0.8 * LEASE_S)
        node = stage.nodes["node-1"] = Node(stage, "node-1", GATEWAYS)
        await node.begin()
        await asyncio.sleep(LEASE_S)
        assert (stage.owner("vg-1"), stage.owner("vg-2")) == ("node-1", "node-1")
        assert {worker.term.lease.fence for worker in node.coordinator.held.values()} == {1}
        assert node.running is not None
        node.running.cancel()
        await asyncio.gather(node.running, return_exceptions=True)
        return stage

    stage = run_virtual(whole)
    assert (stage.told, stage.two_owners) == ([], [])


def test_the_log_says_who_serves_a_gateway_and_what_comes_next() -> None:
    async def script(stage: Stage) -> None:
        one, two = stage.nodes["node-1"], stage.nodes["node-2"]
        await one.coordinator.drain()
        await asyncio.sleep(3)
        assert stage.owner("vg-1") == "node-2"
        assert stage.told == [
            "vg-1: handed over; node-1 has stopped serving it, its sessions stay open; its lease is"
            " released, another node can take it now",
            "vg-1: lease acquired (node-1 had released it); reading its sessions",
            "vg-1: taken over; node-2 serves its 3 sessions now",
        ]
        stage.told.clear()
        two.leases.is_cut_off = True
        await asyncio.sleep(LEASE_S + 1)
        assert sorted(stage.told)[-2:] == [
            f"{each}: the lease expired: it could not be renewed in time; node-2 has stopped serving it and"
            f" stands by"
            for each in GATEWAYS
        ]

    play(script)


def test_a_lease_that_cannot_be_released_is_told() -> None:
    async def script(stage: Stage) -> None:
        one = stage.nodes["node-1"]
        one.leases.is_cut_off = True
        await one.coordinator.hand_over("vg-1")
        assert stage.told == [
            "vg-1: handed over; node-1 has stopped serving it, its sessions stay open; its lease was not"
            f" released (cut off), another node may take it after {GONE_AFTER_S:g} s"
        ]

    play(script)


def test_a_hand_over_ends_though_the_same_node_takes_the_gateway_again_at_once() -> None:
    async def script(stage: Stage) -> None:
        one = stage.nodes["node-1"]
        fence = one.coordinator.held["vg-1"].term.lease.fence
        async with asyncio.timeout(60):
            await one.coordinator.hand_over("vg-1")
        assert stage.owner("vg-1") == "node-1", "it is preferred here"
        assert one.coordinator.held["vg-1"].term.lease.fence > fence

    play(script)
