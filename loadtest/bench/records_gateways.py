"""Two gateway processes against one, over the same Cassandra: CPU of the gateways for each session.

Rules: a session is a PDP context created and deleted again, both durable. Every gateway gets the same load,
so that two of them carry twice as many sessions as one; both run all the time, and they are measured by
turns. SIMs are written straight into the store.
"""

import asyncio
import json
import os
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import CassandraAddress, CassandraEngine, migrate
from core.adapters.store.wide_column import WideColumnStore
from core.domain.sim import Sim, SimStatus, Subscriber
from core.domain.values import replace
from loadtest.external import cassandra
from loadtest.folders import temporary_folder
from loadtest.peers.sgsn import Sgsn
from loadtest.serving import Served, free_gateway_address, free_tcp_port

KEYSPACE = "airloom_gateways"
APN = "soracom.io"
ATTACHING = 16
"""Devices of one gateway at a time."""
SECRET = "the secret of the bench"  # noqa: S105 - of nodes that live for this run
CPU_RATIO_MAX, RATE_RATIO_MIN = 1.1, 1.7
CPUS_FOR_RATE = 6
"""Two gateways, Cassandra's threads and the generator: fewer make them wait for each other."""


@dataclass(frozen=True, slots=True)
class GatewaysTrial:
    """So many sessions through so many gateways."""

    cpu_us: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Gateways:
    """What ``measure`` found: medians of both, and of the ratios of neighbouring trials."""

    one: GatewaysTrial
    two: GatewaysTrial
    cpu_ratio: float
    rate_ratio: float


async def measure(nodes: list[cassandra.Node], *, sessions: int, rounds: int) -> Gateways:
    """So many sessions for each gateway and trial: through one, through two, by turns, all warm."""
    address = cassandra.address_of(nodes, KEYSPACE)
    await migrate(address=address, replication_factor=1)
    imsis = await _write_sims(address, 2 * sessions)
    trials: dict[int, list[GatewaysTrial]] = {1: [], 2: []}
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("gateways"))
        gateways = _gateways(folder, address)
        for served in gateways:
            stack.push_async_callback(served.stop)
            await served.start()
        sgsns = [
            await stack.enter_async_context(_sgsn(f"127.0.1.{number}", served).running())
            for number, served in enumerate(gateways, 1)
        ]
        for number in range(rounds + 1):
            for count in (1, 2):
                trial = await _trial(gateways[:count], sgsns[:count], imsis[: count * sessions])
                if number:
                    trials[count].append(trial)
    pairs = list(zip(trials[1], trials[2], strict=True))
    return Gateways(
        _median(trials[1]),
        _median(trials[2]),
        statistics.median(two.cpu_us / one.cpu_us for one, two in pairs),
        statistics.median(two.per_s / one.per_s for one, two in pairs),
    )


async def _write_sims(address: CassandraAddress, count: int) -> list[str]:
    store = WideColumnStore(
        engine=await CassandraEngine.open(address=address, clock=SystemClock()), clock=SystemClock()
    )
    now = datetime.now(UTC)
    first = Sim("", (), "00" * 32, now, now, operator_id="OP0000000001", status=SimStatus.ACTIVE)
    try:
        for number in range(count):
            sim = replace(
                first, sim_id=f"89810000{number:011d}", subscribers=(Subscriber(f"00101{number:010d}"),)
            )
            await store.sims.put(sim)
    finally:
        await store.aclose()
    return [f"00101{number:010d}" for number in range(count)]


def _gateways(folder: Path, address: CassandraAddress) -> list[Served]:
    addresses = [free_gateway_address("127.0.5"), free_gateway_address("127.0.6")]
    instances = [
        {"id": f"vg-{number}", "address": each, "ue_pool": f"10.{127 + number}.0.0/16"}
        for number, each in enumerate(addresses, 1)
    ]
    return [
        Served(
            folder / name,
            gateway_address=each,
            api_port=free_tcp_port("127.0.0.1", 0),
            environment={
                "AIRLOOM_STORE__CASSANDRA": ",".join(address.contact_points),
                "AIRLOOM_STORE__PORT": str(address.port),
                "AIRLOOM_STORE__KEYSPACE": address.keyspace,
                "AIRLOOM_NODE__NAME": name,
                "AIRLOOM_NODE__ROLES": "gateway",
                "AIRLOOM_NODE__PREFERRED_GATEWAYS": f"vg-{number}",
                "AIRLOOM_CONTROL__PORT": str(free_tcp_port("127.0.0.1", 0)),
                "AIRLOOM_CONTROL__SECRET": SECRET,
                "AIRLOOM_GATEWAY__INSTANCES": json.dumps(instances),
                "AIRLOOM_GATEWAY__SESSIONS_MAX": "4096",
                "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
            },
        )
        for number, (name, each) in enumerate(zip(("node-1", "node-2"), addresses, strict=True), 1)
    ]


def _sgsn(address: str, served: Served) -> Sgsn:
    return Sgsn(
        network=UdpNetwork(), address=address, gateway=served.gateway_address, entropy=SystemEntropy()
    )


async def _trial(gateways: list[Served], sgsns: list[Sgsn], imsis: list[str]) -> GatewaysTrial:
    began, cpu_s = time.perf_counter(), sum(map(_cpu_s, gateways))
    devices = ATTACHING * len(gateways)
    async with asyncio.TaskGroup() as attaching:
        for number in range(devices):
            sgsn = sgsns[number % len(sgsns)]
            attaching.create_task(_device(sgsn, imsis[number::devices]))
    elapsed = time.perf_counter() - began
    return GatewaysTrial((sum(map(_cpu_s, gateways)) - cpu_s) / len(imsis) * 1e6, len(imsis) / elapsed)


async def _device(sgsn: Sgsn, imsis: list[str]) -> None:
    for imsi in imsis:
        await sgsn.detach(await sgsn.attach(imsi=imsi, apn=APN))


def _cpu_s(served: Served) -> float:
    assert served.process is not None
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _median(trials: list[GatewaysTrial]) -> GatewaysTrial:
    return GatewaysTrial(
        statistics.median(trial.cpu_us for trial in trials),
        statistics.median(trial.per_s for trial in trials),
    )
