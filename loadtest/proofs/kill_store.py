"""The whole simulation on a real store, in real time, while the store fails.

``sqlite``: the embedded one. ``front``: a real Cassandra node behind a proxy that loses answers. ``three``:
three Cassandra nodes, of which one is killed and restarted while sessions and usage are written. In all of
them usage is reported twice and replayed, nodes of Airloom are killed and taken over, and the checks are
those of virtual time: all octets and messages, nothing doubled, nothing leaked.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core.adapters.clock import SystemClock
from core.adapters.store import cassandra as adapter
from core.adapters.store.cassandra import CassandraAddress, CassandraEngine, migrate
from core.adapters.store.engine import Engine
from core.adapters.store.sqlite import SqliteEngine
from loadtest.external import cassandra
from loadtest.external.cassandra_front import CassandraFront, FrontFaults
from loadtest.folders import temporary_folder
from loadtest.serving import free_tcp_port
from loadtest.simulation.checks import FIRST_DAY, check_world
from loadtest.simulation.faults import FaultRates, RetoldRates
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import VirtualClock
from loadtest.simulation.world import World

KINDS = ("sqlite", "front", "three")
KEYSPACE = "airloom_world"
ACTIVE_S = {"sqlite": 12.0, "front": 20.0, "three": 30.0}
LOST_AFTER_S = 2.0
"""An answer is waited for so long here, and not ten seconds: many are lost."""
BAD_DAY = FrontFaults(unavailable=0.02, timed_out=0.02, lost=0.004, cut=0.002)
ROLLED_UP_WITHIN_S = 60.0


@dataclass(slots=True)
class StoreFinding:
    """What one run left."""

    kind: str
    findings: list[str] = field(default_factory=list)
    seen_bytes: int = 0
    messages: int = 0
    attaches: dict[str, int] = field(default_factory=dict)
    takeovers: int = 0
    happened: dict[str, int] = field(default_factory=dict)
    """Faults of the front, by kind."""
    killed_and_back_s: float = 0.0
    """How long the Cassandra node was away."""
    not_run: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds, and the faults took part."""
        faults = {"front": {"timed_out", "lost"} <= set(self.happened), "three": self.killed_and_back_s > 0}
        return not self.not_run and not self.findings and self.seen_bytes > 0 and faults.get(self.kind, True)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


class RunningClock(VirtualClock):
    """Real seconds, from ten seconds before a month's end on."""

    def __init__(self) -> None:
        super().__init__(datetime(2026, 11, 30, 23, 59, 50, tzinfo=UTC))
        self._began = time.monotonic()

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began


class StoreWorld(World):
    """``disturb`` is called when the time of faults begins and ends."""

    disturb: Callable[[bool], None] = staticmethod(lambda _: None)

    def _set_faults(self, store: FaultRates, stream: FaultRates) -> None:
        super()._set_faults(store, stream)
        self.disturb(store is self.plan.store)


async def run_on(kind: str, seed: int, node: cassandra.Node | None = None) -> StoreFinding:
    """One run; ``front`` stands before ``node``, if there is one already."""
    finding = StoreFinding(kind, not_run="" if kind == "sqlite" else cassandra.why_not())
    if finding.not_run:
        return finding
    plan = Plan(
        sims=16,
        pace_s=0.7,
        active_s=ACTIVE_S[kind],
        store=FaultRates(),
        outages=0,
        crashes=1 if kind == "front" else 2,
        takeover=0.0 if kind == "front" else 0.5,  # it would take most of the time
        retold=RetoldRates(again=0.05, rewound=0.05),
        quarantine_s=1.0,
        quiet_s=10.0,
        reservation_ttl_s=5.0,
    )
    async with AsyncExitStack() as parts:
        engine, disturb = await parts.enter_async_context(_OPENED[kind](seed, finding, node))
        world = StoreWorld(seed, plan, engine=engine, clock=RunningClock())
        world.disturb = disturb
        await world.run()
        await _rolled_up(world)
        await check_world(world)
        await world.finish()
    finding.findings = world.findings
    finding.seen_bytes = sum(world.of_session.values())
    finding.messages = sum(len(state.acknowledged) for state in world.sims)
    finding.attaches, finding.takeovers = dict(world.attaches), world.takeovers
    return finding


async def _rolled_up(world: World) -> None:
    """The next node to roll up waits for the lease of the killed one."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ROLLED_UP_WITHIN_S):
            usage = world.node._world.store.usage
            while not ((row := await usage.rollup_progress()) and row.is_whole(FIRST_DAY)):  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.2)


Opened = tuple[Engine, Callable[[bool], None]]


@asynccontextmanager
async def _sqlite(_seed: int, _finding: StoreFinding, _: cassandra.Node | None) -> AsyncIterator[Opened]:
    with temporary_folder("store") as folder:
        engine = await SqliteEngine.open(path=folder / "airloom.db", clock=SystemClock())
        yield engine, lambda _: None
        await engine.aclose()


@asynccontextmanager
async def _front(seed: int, finding: StoreFinding, node: cassandra.Node | None) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as parts:
        if node is None:
            (node,) = await asyncio.to_thread(parts.enter_context, cassandra.served())
        front = CassandraFront(node.host, node.port, FrontFaults(), seed)
        port = free_tcp_port(node.host, 0)
        await parts.enter_async_context(front.served(node.host, port))
        address = CassandraAddress((node.host,), KEYSPACE, cassandra.DATACENTER, port=port)
        engine = await _engine(address, 1)
        yield engine, lambda is_bad: _set(front, is_bad)
        finding.happened = dict(front.happened)
        await engine.aclose()


def _set(front: CassandraFront, is_bad: bool) -> None:
    front.faults = BAD_DAY if is_bad else FrontFaults()


@asynccontextmanager
async def _three(_seed: int, finding: StoreFinding, _: cassandra.Node | None) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as parts:
        nodes = await asyncio.to_thread(parts.enter_context, cassandra.served(3))
        killing: list[asyncio.Task[None]] = []

        async def kill_one() -> None:
            await asyncio.sleep(3.0)
            began = time.monotonic()
            await asyncio.to_thread(nodes[2].kill)
            await asyncio.sleep(5.0)
            nodes[2].start()
            await asyncio.to_thread(nodes[2].wait)
            finding.killed_and_back_s = time.monotonic() - began

        def disturb(is_bad: bool) -> None:
            if is_bad and not killing:
                killing.append(asyncio.create_task(kill_one()))

        engine = await _engine(cassandra.address_of(nodes, KEYSPACE), 3)
        yield engine, disturb
        await asyncio.gather(*killing)
        await engine.aclose()


async def _engine(address: CassandraAddress, replication_factor: int) -> CassandraEngine:
    await migrate(address=address, replication_factor=replication_factor)
    usual, adapter.TIMEOUT_S = adapter.TIMEOUT_S, LOST_AFTER_S
    try:
        return await CassandraEngine.open(address=address, clock=SystemClock())
    finally:
        adapter.TIMEOUT_S = usual


_OPENED = {"sqlite": _sqlite, "front": _front, "three": _three}


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.kill_store SEED KIND …`: print the findings as JSON, a line a kind."""
    findings = [asyncio.run(run_on(kind, int(argv[0]))) for kind in argv[1:] or KINDS]
    for finding in findings:
        print(json.dumps(finding.as_dict()))
    return 0 if all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
