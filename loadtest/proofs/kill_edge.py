"""`kill -9` of a served Airloom while devices send by MQTT, HTTP, TCP and UDP into a faulty Kinesis.

In one process each kill hits edge, producer and consumer of the stream; in the spread layout over Cassandra
a seed chooses the edge, the meter or the gateway that holds the sessions. A device sends one message after
the other and repeats what was not acknowledged. Afterwards Amazon's own client checks that every acknowledged
message is in the stream, that each SIM's numbers rise once duplicates are dropped by record id, and that the
message meter counted the records.
"""

import asyncio
import contextlib
import json
import random
import secrets
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import aiohttp
import aiomqtt
from cassandra.cluster import Cluster

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.ports.stream import StoredRecord
from loadtest.api_client import ApiClient
from loadtest.external import cassandra, kinesis
from loadtest.external.kinesis_front import Faults, Front
from loadtest.folders import temporary_folder
from loadtest.layouts import Layout, in_one, spread
from loadtest.outcome import payloads_by_imsi
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.ue import UserEquipment, UserEquipments
from loadtest.serving import free_gateway_address, free_tcp_port, radius_clients

APN = "soracom.io"
UES = 8
PROTOCOLS = ("mqtt", "http", "tcp", "udp")
STREAM, SHARDS = "killed", 2
KEYSPACE = "airloom_killed"
VICTIMS = ("node-1", "gateway-1", "edge-1", "meter-1")
PATIENCE_S = 4.0
COUNTED_S = 30.0
BROKEN = (OSError, TimeoutError, aiomqtt.MqttError, aiohttp.ClientError)
"""What a program may meet when its connection is gone."""


@dataclass(slots=True)
class EdgeFinding:
    """What one run of kills left."""

    kills: int
    killed: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    records: int = 0
    repeated_by_stream: int = 0
    counted: int = 0
    in_stream: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    not_run: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        return not self.not_run and (
            not self.lost
            and not self.out_of_order
            and all(self.acknowledged.get(protocol) for protocol in PROTOCOLS)
            and self.counted == self.in_stream > 0
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


Count = Callable[[list[str]], Awaitable[int]]
"""Of so many IMSIs, how many messages the meter counted."""


async def kill_the_edge(*, kills: int, seed: int, layout: str, tell: Callable[[str], None]) -> EdgeFinding:
    """Run it; ``layout`` as `./run demo` has it."""
    is_spread = layout == "spread"
    finding = EdgeFinding(kills, not_run=kinesis.why_not() or (cassandra.why_not() if is_spread else ""))
    if finding.not_run:
        return finding
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("kill"))
        behind = await asyncio.to_thread(stack.enter_context, kinesis.served("kinesalite"))
        await kinesis.create_stream(behind, STREAM, shards=SHARDS)
        front = Front(behind, Faults(), seed)
        endpoint = await stack.enter_async_context(front.served(free_tcp_port("127.0.0.1", 0)))
        environment = _environment(endpoint)
        if is_spread:
            environment |= await cassandra.stored(stack, KEYSPACE)
        made = spread(folder, environment) if is_spread else in_one(folder / "var", environment)
        count = partial(_counted_in_cassandra, environment) if is_spread else partial(_counted, made)
        stack.push_async_callback(made.stop)
        await made.start()
        async with ApiClient(made.endpoint) as customer:
            ues = await _run(made, customer, finding, random.Random(seed), tell)
            await _look(count, behind, finding, ues)
        finding.faults = dict(front.happened)
    return finding


async def _run(
    layout: Layout,
    customer: ApiClient,
    finding: EdgeFinding,
    dice: random.Random,
    tell: Callable[[str], None],
) -> list[UserEquipment]:
    await customer.sign_up("edge@example.com", "Aa1-kill-the-edge")
    sgsn = Sgsn(
        network=UdpNetwork(),
        address=free_gateway_address("127.0.1"),
        gateway=layout.gtp[0],
        entropy=SystemEntropy(),
    )
    async with sgsn.running():
        ues = []
        for _ in range(UES):
            sim = await customer.new_sim()
            imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
            ues.append(await UserEquipment.attach(sgsn, sim_id=sim["simId"], imsi=imsi, apn=APN))
        together = UserEquipments(ues)
        await together.start_programs(PROTOCOLS, sockets_each=8 * finding.kills + 32)
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as traffic:
            for ue in ues:
                traffic.create_task(_talk(together, ue, stopped))
            for number in range(finding.kills):
                await asyncio.sleep(0.3 + dice.random() * 1.2)
                name = dice.choice([each for each in VICTIMS if each in layout.nodes])
                finding.killed[name] = finding.killed.get(name, 0) + 1
                await layout.nodes[name].kill()
                await layout.nodes[name].start()
                tell(f"kill {number + 1} of {finding.kills}: {name}")
            await asyncio.sleep(1.0)
            stopped.set()
        await together.aclose()
    return ues


async def _talk(together: UserEquipments, ue: UserEquipment, stopped: asyncio.Event) -> None:
    """Number after number; the same one again until it is acknowledged."""
    number = 0
    while not stopped.is_set():
        payload = b"%d" % number
        try:
            async with asyncio.timeout(PATIENCE_S):
                is_acknowledged = await ue.say(payload)
        except BROKEN:
            is_acknowledged = False
            await _begin_again(together, ue, stopped)
        number += is_acknowledged


async def _begin_again(together: UserEquipments, ue: UserEquipment, stopped: asyncio.Event) -> None:
    while not stopped.is_set():
        try:
            async with asyncio.timeout(PATIENCE_S):
                await together.start_program(ue)
                return
        except BROKEN:
            await asyncio.sleep(0.1)


async def _look(count: Count, behind: str, finding: EdgeFinding, ues: list[UserEquipment]) -> None:
    """Compare the devices' answers with the records that Amazon's client reads, and with the counts."""
    async with asyncio.timeout(COUNTED_S):
        while True:
            records = await kinesis.read_stream(behind, STREAM)
            messages = [r for r in map(_envelope_of, records) if "payloads" in r]
            finding.records = len(messages)
            finding.in_stream = len({message["recordId"] for message in messages})
            imsis = [ue.imsi for ue in ues]
            finding.counted = await count(imsis)
            if finding.counted >= finding.in_stream:
                break
            await asyncio.sleep(0.5)
    finding.repeated_by_stream = finding.records - finding.in_stream
    stored = payloads_by_imsi(records)
    for ue in ues:
        so_far = finding.acknowledged.get(ue.protocol, 0)
        finding.acknowledged[ue.protocol] = so_far + len(ue.acknowledged)
        numbers = [int(payload) for payload in stored.get(ue.imsi, [])]
        missing = {int(payload) for payload in ue.acknowledged} - set(numbers)
        finding.lost += [f"{ue.imsi} {ue.protocol} {number}" for number in sorted(missing)]
        if any(later < earlier for earlier, later in pairwise(numbers)):
            finding.out_of_order.append(f"{ue.imsi} {ue.protocol}")


def _envelope_of(record: StoredRecord) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(record.data)
    return envelope


async def _counted(layout: Layout, imsis: list[str]) -> int:
    """Read from the file itself, beside the node that writes it."""

    def read() -> int:
        path = layout.api.data_dir / "airloom.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            rows = file.execute("SELECT imsi, body FROM message_count").fetchall()
        return sum(json.loads(body)["count"] for imsi, body in rows if imsi in imsis)

    return await asyncio.to_thread(read)


async def _counted_in_cassandra(environment: dict[str, str], imsis: list[str]) -> int:
    """Read by the driver alone, beside the nodes that write it."""

    def read() -> int:
        cluster = Cluster(
            [environment["AIRLOOM_STORE__CASSANDRA"]], port=int(environment["AIRLOOM_STORE__PORT"])
        )
        try:
            rows = cluster.connect(KEYSPACE).execute("SELECT imsi, body FROM message_count")
            return sum(json.loads(body)["count"] for imsi, body in rows if imsi in imsis)
        finally:
            cluster.shutdown()

    return await asyncio.to_thread(read)


def _environment(endpoint: str) -> dict[str, str]:
    return {
        "AIRLOOM_GATEWAY__SESSIONS_MAX": "256",
        "AIRLOOM_EDGE__DEVICE_NETWORK": "on",
        "AIRLOOM_RADIUS__CLIENTS": radius_clients(secrets.token_hex(16)),
        "AIRLOOM_STREAM__KINESIS": STREAM,
        "AIRLOOM_STREAM__ENDPOINT": endpoint,
        **kinesis.ENVIRONMENT,
    }


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.kill_edge KILLS SEED [spread]`: print the finding as JSON."""
    finding = asyncio.run(
        kill_the_edge(
            kills=int(argv[0]),
            seed=int(argv[1]),
            layout=argv[2] if argv[2:] else "one",
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
