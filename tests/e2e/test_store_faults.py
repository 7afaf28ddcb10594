"""A real Cassandra behind a front that loses its answers or takes its time."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import (
    IN_FLIGHT_MAX,
    WAITING_MAX,
    CassandraAddress,
    CassandraEngine,
    migrate,
)
from core.adapters.store.engine import RowKey
from core.adapters.store.tables import SIM
from core.adapters.store.wide import WideStore
from core.domain.gateway import GatewayLease
from core.errors import Unavailable
from gtp.endpoint import SHED_AFTER_S
from gtp.v1.cause import Cause
from loadtest.customer import Customer
from loadtest.external import cassandra
from loadtest.external.cassandra_front import CassandraFront, FrontFaults
from loadtest.outcome import total_of_stats
from loadtest.peers.gtp import Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.proofs.killing import attach_talker, talk
from loadtest.proofs.killing_store import run_on
from loadtest.serving import Served, free_gateway_address, free_tcp_port

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra]

SLOW_S = 5.0


@pytest.fixture(scope="module")
def node() -> Iterator[cassandra.Node]:
    with cassandra.served() as (node,):
        yield node


@asynccontextmanager
async def fronted(
    node: cassandra.Node, keyspace: str
) -> AsyncIterator[tuple[CassandraFront, CassandraAddress]]:
    """Tables of its own behind a front."""
    front, port = CassandraFront(node.host, node.port, FrontFaults(), 1), free_tcp_port(node.host, 0)
    async with front.served(node.host, port):
        address = CassandraAddress((node.host,), keyspace, cassandra.DATACENTER, port=port)
        await migrate(address=address, replication_factor=1)
        yield front, address


async def test_sessions_and_usage_are_exact_though_answers_are_lost(node: cassandra.Node) -> None:
    """Applied and then answered with a time-out, or never answered, or not applied."""
    finding = await run_on("front", 1, node)
    assert finding.ok, finding


async def test_a_lease_waits_behind_no_other_call(node: cassandra.Node) -> None:
    """With a second for each answer, a full queue, and many more than the driver may have at a time."""
    async with fronted(node, "airloom_leases") as (front, address):
        engine = await CassandraEngine.open(address=address, clock=SystemClock())
        store = WideStore(engine=engine, clock=SystemClock())
        lease = await store.leases.put(GatewayLease("vg-1", "node-1", 1, SystemClock().now()))
        await engine.get(SIM, [RowKey(("x",), ("session", "y"))])
        front.faults = FrontFaults(delay_s=1.0)
        reads = [
            asyncio.create_task(engine.get(SIM, [RowKey((f"sim {n}",), ("session", "y"))]))
            for n in range(WAITING_MAX)
        ]
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match=str(WAITING_MAX)):
            await engine.get(SIM, [RowKey(("one too many",), ("session", "y"))])
        began = time.monotonic()
        lease = await store.leases.put(lease)
        took_s = time.monotonic() - began
        assert sum(not read.done() for read in reads) > WAITING_MAX / 2
        assert front.waiting_max <= IN_FLIGHT_MAX + 1
        front.faults = FrontFaults()
        await asyncio.gather(*reads)
        assert took_s < SLOW_S
        assert (await store.leases.get("vg-1")) == lease
        await store.aclose()


@pytest.mark.long
async def test_a_node_with_a_slow_store_sheds_and_goes_on(node: cassandra.Node, tmp_path: Path) -> None:
    """Five seconds for each answer: who asks is refused in time, who is attached is served and metered."""
    async with fronted(node, "airloom_slow") as (front, address):
        served = Served(
            tmp_path / "var",
            gateway_address=free_gateway_address(),
            api_port=free_tcp_port("127.0.0.1", 0),
            environment={
                "AIRLOOM_STORE__CASSANDRA": node.host,
                "AIRLOOM_STORE__PORT": str(address.port),
                "AIRLOOM_STORE__KEYSPACE": address.keyspace,
                "AIRLOOM_OBJECTS__FOLDER": str(tmp_path / "objects"),
                "AIRLOOM_EDGE__INSIDE": "off",
                "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            },
        )
        await served.start()
        sgsn = Sgsn(
            network=UdpNetwork(),
            address=free_gateway_address("127.0.1"),
            gateway=served.gateway_address,
            entropy=SystemEntropy(),
            t3_s=5.0,
        )
        try:
            async with Customer(served.endpoint) as customer, sgsn.running():
                await customer.sign_up("slow@example.com", "Aa1-a-slow-store")
                talkers = [await attach_talker(customer, sgsn) for _ in range(2)]
                sims = [await customer.new_sim() for _ in range(10)]
                imsis = [next(iter(next(iter(sim["profiles"].values()))["subscribers"])) for sim in sims]
                stopped = asyncio.Event()
                talking = [asyncio.create_task(talk(talker, stopped)) for talker in talkers]
                front.faults = FrontFaults(delay_s=SLOW_S)
                await asyncio.gather(*(refused(sgsn, imsi) for imsi in imsis))
                front.faults = FrontFaults()
                await asyncio.sleep(3 * SLOW_S)
                for imsi in imsis:
                    assert (await sgsn.attach(imsi=imsi, apn="soracom.io")).is_active
                stopped.set()
                await asyncio.gather(*talking)
                await asyncio.sleep(6)
                for talker in talkers:
                    assert talker.acknowledged
                    totals = await total_of_stats(customer, talker.sim_id)
                    assert totals["download"] == talker.seen_bytes > 0
                assert await sgsn.echo() == 1
        finally:
            await served.stop()
        assert "lease could not be renewed" not in (served.data_dir / "serve.log").read_text()


async def refused(sgsn: Sgsn, imsi: str) -> None:
    began = time.monotonic()
    with pytest.raises(Refusal) as refusal:
        await sgsn.attach(imsi=imsi, apn="soracom.io")
    assert refusal.value.cause == Cause.NO_RESOURCES_AVAILABLE
    assert time.monotonic() - began < SHED_AFTER_S + SLOW_S
