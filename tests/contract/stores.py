"""The stores under contract: one line in ``OPENERS`` per adapter.

Rule: ``World.reopen`` is a crash: the engine is let go and another one opened on what survives.
"""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from core.adapters.store.bulk import BulkEngine
from core.adapters.store.cassandra import CassandraAddress, CassandraEngine, connect
from core.adapters.store.engine import Engine
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.tables import TABLES
from core.adapters.store.wide_column import WideColumnStore
from core.domain.session import Access, Location, Session, SessionEvent, SessionEventKind, Tunnel
from core.domain.sim import Sim, Subscriber
from core.domain.usage import SegmentLabel, UsageReport, Volume

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class SetClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


@dataclass
class World:
    """A store, its engine and its clock."""

    open_engine: Callable[[SetClock], Awaitable[Engine]]
    clock: SetClock = field(default_factory=SetClock)
    engine: Engine = field(init=False)
    store: WideColumnStore = field(init=False)

    async def open(self) -> None:
        self.engine = await self.open_engine(self.clock)
        self.store = WideColumnStore(engine=self.engine, clock=self.clock)

    async def reopen(self) -> None:
        await self.store.aclose()
        await self.open()


def _memory(_folder: Path) -> Callable[[SetClock], Awaitable[Engine]]:
    disk = Disk()

    async def open_engine(clock: SetClock) -> Engine:
        return MemoryEngine(disk=disk, clock=clock)

    return open_engine


def _sqlite(folder: Path) -> Callable[[SetClock], Awaitable[Engine]]:
    async def open_engine(clock: SetClock) -> Engine:
        return await SqliteEngine.open(path=folder / "airloom.db", clock=clock)

    return open_engine


def _bulk(folder: Path) -> Callable[[SetClock], Awaitable[Engine]]:
    """What customers' calls go through, before the embedded store."""
    behind = _sqlite(folder)

    async def open_engine(clock: SetClock) -> Engine:
        return BulkEngine(await behind(clock))

    return open_engine


OPENERS = {"memory": _memory, "sqlite": _sqlite, "bulk": _bulk}


def cassandra_opener(address: CassandraAddress) -> Callable[[SetClock], Awaitable[Engine]]:
    """On nodes that run, whose tables are there and empty."""

    async def open_engine(clock: SetClock) -> Engine:
        return await CassandraEngine.open(address=address, clock=clock)

    return open_engine


def empty_tables(address: CassandraAddress) -> None:
    """Every row away."""
    cluster, session = connect(address)
    try:
        session.set_keyspace(address.keyspace)
        for table in TABLES:
            if session.execute(f'SELECT * FROM "{table.name}" LIMIT 1').one():  # noqa: S608 - our own names
                session.execute(f'TRUNCATE "{table.name}"')
    finally:
        cluster.shutdown()


def sim_of(number: int, *, operator_id: str = "") -> Sim:
    return Sim(
        sim_id=f"898100000000000{number:04d}",
        subscribers=(Subscriber(f"00101000000{number:04d}"),),
        registration_secret_sha256="00" * 32,
        created=NOW,
        modified=NOW,
        operator_id=operator_id,
        tags={"name": f"sim {number}"},
    )


def session_of(sim: Sim, number: int = 1, *, gateway_id: str = "vg-1") -> Session:
    return Session(
        session_id=f"{number:032x}",
        sim_id=sim.sim_id,
        imsi=sim.imsi,
        operator_id=sim.operator_id,
        access=Access.GTPV1,
        apn="soracom.io",
        ue_address=IPv4Address("10.128.0.2"),
        gateway_id=gateway_id,
        opened=NOW,
        speed_class="s1.standard",
        location=Location(plmn="44010"),
        dns=("100.127.0.53",),
        tunnel=Tunnel(1, 2, 3, 4, "127.0.1.1", "127.0.1.1", 5, 2),
    )


def event_of(
    sim: Sim,
    number: int = 1,
    *,
    at: datetime = NOW,
    kind: SessionEventKind = SessionEventKind.CREATED,
) -> SessionEvent:
    return SessionEvent(f"{number:032x}", kind, at, sim.sim_id, sim.imsi, sim.operator_id, opened=at)


def report_of(
    value: int, *, slot: int = 7, session: str = "s1", epoch: int = 1, segment: int = 0
) -> UsageReport:
    return UsageReport(
        imsi="001010000000001",
        session_id=session,
        operator_id="OP0000000001",
        epoch=epoch,
        segment=segment,
        label=SegmentLabel("s1.standard", "44010"),
        day=20261130,
        slot=slot,
        volume=Volume(value, 2 * value, value, value),
        timestamp_us=1_000_000 + value,
    )


LATER = NOW + timedelta(days=1)


def mount(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


async def outcomes(*calls: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*calls, return_exceptions=True))
