"""The table of a lease: every state meets every event, and the coordinator does what the table says."""

from collections import Counter

import pytest
from msgspec.structs import astuple

from core.adapters.peers import NoPeers
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.gateway import GatewayLease
from core.domain.lease import Lease
from core.errors import ConfigurationError
from core.services.cluster.lease_coordinator import LeaseCoordinator, State
from core.services.cluster.lease_slot import LeaseSlot
from core.services.cluster.lease_states import LEASES, LeaseAction, LeaseEvent, LeaseState
from core.services.gateway.lease_term import LeaseTerm
from core.services.running.faults import Faults
from loadtest.simulation.virtual import VirtualClock, run_virtual

HELD = [state for state in LeaseState if state not in (LeaseState.SEEKING, LeaseState.TAKING)]


class Worker:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.trouble = ""

    async def start(self) -> int:
        if self.trouble:
            raise ConfigurationError(self.trouble)
        return 0

    async def run(self) -> None:
        self.asked.append("run")

    def fence(self) -> None:
        self.asked.append("fence")

    async def flush(self) -> None:
        self.asked.append("settle")

    async def aclose(self) -> None:
        self.asked.append("close")


async def nothing_left(_: str) -> None:
    pass


class Bench:
    """A coordinator whose one lease stands in a state as if it had come there."""

    def __init__(self, state: LeaseState) -> None:
        self.clock = VirtualClock()
        self.leases = WideColumnStore(
            engine=MemoryEngine(disk=Disk(), clock=self.clock), clock=self.clock
        ).leases
        self.worker = Worker()
        self.told: list[str] = []
        self.coordinator = LeaseCoordinator[GatewayLease, Worker](
            leases=self.leases,
            kind=GatewayLease,
            peers=NoPeers(),
            clock=self.clock,
            owner="node-1",
            contact="",
            lease_ids=["vg-1"],
            preferred=["vg-1"],
            make=lambda _term, _before: self.worker,
            flush_left=nothing_left,
            faults=Faults(clock=self.clock),
            loop="gateway",
            log=self.told.append,
        )
        self.slot: LeaseSlot[GatewayLease, Worker] = self.coordinator._slots["vg-1"]
        self.slot.state = state
        if state in HELD:
            self.slot.worker = self.worker
            lease = GatewayLease("vg-1", "node-1", 1, self.clock.now())
            self.slot.term = LeaseTerm(leases=self.leases, clock=self.clock, lease=lease, began=0.0)
        if state is LeaseState.SERVING:
            self.coordinator.held["vg-1"] = self.worker
        self.slot.trouble = "no socket"
        self.slot.wanted_back.set()


@pytest.mark.parametrize("state", LeaseState)
@pytest.mark.parametrize("event", LeaseEvent)
def test_every_state_meets_every_event(state: LeaseState, event: LeaseEvent) -> None:
    async def main() -> None:
        bench = Bench(state)
        following, action = LEASES[state].get(event, (state, None))
        bench.coordinator._step(bench.slot, event)
        assert bench.slot.state is following
        refused = {} if event in LEASES[state] else {f"{event.name}_while_{state.name}".lower(): 1}
        assert bench.coordinator.refused == refused
        was_held = state is LeaseState.SERVING and action is not LeaseAction.FENCE
        assert ("vg-1" in bench.coordinator.held) is (was_held or action is LeaseAction.SERVE)
        assert bench.worker.asked == (["fence"] if action is LeaseAction.FENCE else [])
        assert bench.told == (
            ["vg-1: no socket; trying again"] if action is LeaseAction.REPORT_TROUBLE else []
        )
        is_over = action is LeaseAction.FORGET_TERM
        assert (bench.slot.term is None) is (is_over or state not in HELD)
        assert bench.slot.wanted_back.is_set() is not is_over

    run_virtual(main)


def test_nobody_serves_but_by_started_and_in_serving_alone() -> None:
    for state, row in LEASES.items():
        for event, (following, action) in row.items():
            enters = following is LeaseState.SERVING
            assert enters is (event is LeaseEvent.STARTED) is (action is LeaseAction.SERVE)
            if state is LeaseState.SERVING:
                assert action is LeaseAction.FENCE, "whatever ends it"
    assert set(LEASES) == set(LeaseState)


def test_a_term_ends_by_ending_alone() -> None:
    for state in HELD:
        after = {following for following, _ in LEASES[state].values()}
        assert (LeaseState.SEEKING in after) is (state is LeaseState.ENDING)


@pytest.mark.parametrize("state", LeaseState)
def test_what_an_operator_sees(state: LeaseState) -> None:
    async def main() -> None:
        bench = Bench(state)
        shown = bench.coordinator.states["vg-1"]
        expected = {LeaseState.SERVING: State.HELD, LeaseState.FAILING: State.FAILING}
        otherwise = State.BEGINNING if state in HELD else State.FREE
        assert shown.state is expected.get(state, otherwise)
        assert shown.detail == ("no socket" if state is LeaseState.FAILING else "")

    run_virtual(main)


def test_a_worker_that_has_started_when_the_lease_was_lost_serves_nothing() -> None:
    async def main() -> None:
        bench = Bench(LeaseState.ENDING)
        assert bench.slot.term is not None
        await bench.coordinator._start(bench.slot, bench.slot.term, None)
        assert (bench.slot.state, bench.coordinator.held) == (LeaseState.ENDING, {})
        assert bench.coordinator.refused == {"started_while_ending": 1}

    run_virtual(main)


def test_a_job_has_no_restart_counter() -> None:
    """Its lease and a gateway's are in one table, each read as its own kind; nodes of 0.2 knew one kind."""

    async def main() -> None:
        clock = VirtualClock()
        store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=clock), clock=clock)
        job = await store.job_leases.put(Lease("chore/fold", "node-1", 1, clock.now()))
        gateway = await store.leases.put(GatewayLease("vg-1", "node-1", 1, clock.now(), restart_counter=7))
        assert not hasattr(job, "restart_counter")
        assert await store.job_leases.get("chore/fold") == job
        assert await store.leases.get("vg-1") == gateway
        assert await store.leases.get("chore/fold") == GatewayLease(*astuple(job))
        taken = gateway.taken("node-2", "http://node-2", "folder", clock.now())
        assert (taken.fence, taken.restart_counter, taken.version) == (2, 7, gateway.version)

    run_virtual(main)


def test_slots_of_one_node_count_together() -> None:
    refused: Counter[str] = Counter()
    for lease_id in ("vg-1", "vg-2"):
        slot = LeaseSlot[Lease, Worker](lease_id, refused)
        assert slot.step(LeaseEvent.CLOSED) is None
    assert refused == {"closed_while_seeking": 2}
