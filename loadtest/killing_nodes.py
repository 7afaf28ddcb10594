"""`kill -9` of any node, drawn by seed, or of the one that holds the sessions: take-over, again and again.

Two gateways, one node for API and meter, a real Cassandra and a Kinesis server by others. Devices talk to
the edge, a NAS reports; a node is killed, the other takes over what it held, the killed one starts again and
asks for its own back. In network namespaces, as root, an SGSN and a phone by others (sgsnemu) ping a far host
through it all, and tcpdump counts what crossed the SGSN's side.

Afterwards: every session is still there, nobody signalled anew, the restart counter is what it was, what was
acknowledged is in the stream, and the meter is never above what devices saw, and below it by at most one
packet for each kill once the killed node has told its last counts. Nobody ever saw two owners of a gateway.
"""

import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import CassandraAddress, CassandraEngine, migrate
from core.adapters.store.wide import WideStore
from core.config import GatewayConfig
from loadtest.checks import payloads_by_imsi, total_of_stats
from loadtest.customer import Customer
from loadtest.killing import (
    NAS_SECRET,
    Meter,
    Talker,
    attach_meter,
    attach_talker,
    metered,
    report_again,
    talk,
    udp_packet,
)
from loadtest.ledger import ledger_of_capture
from loadtest.owners import OwnerWatch
from loadtest.parts import cassandra, kinesis, sgsnemu
from loadtest.parts.namespaces import FAR_HOST, GATEWAY, Lab
from loadtest.peers.gtp import GtpPeer
from loadtest.peers.nas import Nas
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.serving import ROOT, DidNotStart, Served, free_gateway_address, free_tcp_port, radius_clients
from mqtt_bridge.edge.dns import DNS_PORT

STREAM, SHARDS = "taken-over", 2
KEYSPACE = "airloom_nodes"
SECRET = "the secret of all nodes"  # noqa: S105 - of nodes that live for this run
FIRST = "vg-1"
API = "node-3"
SECOND_ADDRESS = "10.99.0.4"
"""Of the second virtual gateway, in namespaces."""
PING_BYTES, PING_S = 84, 0.1
WARM_S, HELD_S, SETTLE_S = 4.0, 20.0, 5.0
ANSWER_S, PROBE_S = 0.1, 0.03
QUERY = bytes.fromhex("000101000001000000000000") + b"\x06funnel\x07soracom\x02io\x00" + bytes((0, 1, 0, 1))
"""For the address of funnel.soracom.io (RFC 1035 §4.1)."""


@dataclass(slots=True)
class NodesFinding:
    """What one run of kills left."""

    kills: int
    is_drained: bool = False
    """The node was told to hand over and end, and not killed: then nothing at all may be missing."""
    sessions: int = 0
    sessions_lost: int = 0
    gap_s_max: float = 0.0
    held_again_s_max: float = 0.0
    message_gap_s_max: float = 0.0
    """With what the stream itself takes for a message."""
    restart_counters: list[int] = field(default_factory=list)
    signalled_anew: int = 0
    error_indications: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    down_seen_bytes: int = 0
    down_metered_bytes: int = 0
    packet_bytes_max: int = len(QUERY) + 28 + 16
    """The name server's answer: one record more than the query."""
    nas_told_bytes: int = 0
    nas_metered_bytes: int = 0
    takeovers: int = 0
    killed: dict[str, int] = field(default_factory=dict)
    two_owners: list[str] = field(default_factory=list)
    looks_for_owners: int = 0
    holdings: int = 0
    """As the fences of the leases count them."""
    emulated: dict[str, float] = field(default_factory=dict)
    """What sgsnemu's phone pinged, and what tcpdump and the meter counted of it; empty: not in namespaces."""
    not_run: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        behind = self.down_seen_bytes - self.down_metered_bytes
        return not self.not_run and (
            not self.lost
            and self.acknowledged > 0
            and self.sessions_lost == 0
            and self.gap_s_max < 3.0
            and set(self.restart_counters) == {1}
            and self.error_indications == 0
            and 0 <= behind <= (0 if self.is_drained else self.kills * self.packet_bytes_max)
            and self.nas_told_bytes == self.nas_metered_bytes > 0
            and not self.two_owners
            and self.looks_for_owners > 0
            and self._is_emulated_well()
        )

    def _is_emulated_well(self) -> bool:
        """Its ping went on to the end, and what tcpdump saw go down is what was metered."""
        if not self.emulated:
            return True
        behind = self.emulated["seen_bytes"] - self.emulated["metered_bytes"]
        in_flight = self.emulated["seen_bytes"] - self.emulated["received"] * PING_BYTES
        return (
            0 <= behind <= (0 if self.is_drained else self.kills * PING_BYTES)
            and 0 <= in_flight <= PING_BYTES
            and self.emulated["gap_s_max"] < 3.0
            and self.emulated["events"] == 1
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


@dataclass(slots=True)
class Cluster:
    """Two gateways and a node for API and meter."""

    nodes: dict[str, Served]
    """The gateways."""
    api: Served
    contacts: dict[str, str]
    addresses: dict[str, str]

    async def start(self) -> None:
        """All of them."""
        for served in (*self.nodes.values(), self.api):
            await served.start()

    async def stop(self) -> None:
        """All of them."""
        for served in (self.api, *self.nodes.values()):
            await served.stop()

    async def drain(self, name: str) -> None:
        """As an operator does it."""
        served = self.nodes[name]
        command = (sys.executable, "-m", "core.cli", "node", "drain")
        environment = {**os.environ, **served.environment, "PYTHONPATH": str(ROOT)}
        drained = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        if await drained.wait():
            raise DidNotStart(f"{name} was not drained")
        await served.ended()

    async def kill(self, name: str) -> list[str]:
        """``kill -9``; the gateways that it held."""
        held = [] if name == API else await self._held_by(name)
        await self.served(name).kill()
        return held

    def served(self, name: str) -> Served:
        """The node of this name."""
        return self.api if name == API else self.nodes[name]

    async def _held_by(self, name: str) -> list[str]:
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{self.contacts[name]}/control/node", headers=headers) as answer:
                return list((await answer.json())["gateways"])

    async def holder_of(self, gateway_id: str) -> str:
        """The node that says that it holds a gateway; waits until one does."""
        async with asyncio.timeout(HELD_S), aiohttp.ClientSession() as http:
            while True:
                for name, contact in self.contacts.items():
                    with suppress(aiohttp.ClientError):
                        headers = {"Authorization": f"Bearer {SECRET}"}
                        async with http.get(f"{contact}/control/node", headers=headers) as answer:
                            if gateway_id in (await answer.json())["gateways"]:
                                return name
                await asyncio.sleep(0.05)


def cluster_in(folder: Path, environment: dict[str, str], lab: Lab | None = None) -> Cluster:
    """Two gateways on free loopback addresses, or in a lab, and a node for API and meter."""
    if lab is None:
        addresses = {"vg-1": free_gateway_address("127.0.5"), "vg-2": free_gateway_address("127.0.6")}
    else:
        addresses = {"vg-1": GATEWAY, "vg-2": SECOND_ADDRESS}
        environment = {**environment, "AIRLOOM_GATEWAY__TUN": "airloom0"}
    virtual = [
        {"id": "vg-1", "address": addresses["vg-1"], "ue_pool": "10.128.0.0/16"},
        {"id": "vg-2", "address": addresses["vg-2"], "ue_pool": "10.129.0.0/16"},
    ]
    contacts: dict[str, str] = {}

    def node(name: str, roles: str, home: str) -> Served:
        port = free_tcp_port("127.0.0.1", 0)
        contacts[name] = f"http://127.0.0.1:{port}"
        return Served(
            folder / name,
            gateway_address=addresses["vg-1"],
            api_port=free_tcp_port("127.0.0.1", 0),
            environment={
                **environment,
                "AIRLOOM_NODE__NAME": name,
                "AIRLOOM_NODE__ROLES": roles,
                "AIRLOOM_NODE__HOME": home,
                "AIRLOOM_CONTROL__PORT": str(port),
                "AIRLOOM_CONTROL__SECRET": SECRET,
                "AIRLOOM_GATEWAY__VIRTUAL": json.dumps(virtual),
                "AIRLOOM_GATEWAY__SESSIONS_MAX": "4096",
                "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET, "0.0.0.0/0"),
                "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
                "AIRLOOM_EDGE__INSIDE": "off",
                "AIRLOOM_API__SANDBOX_PLMN": "90170",  # sgsnemu loses the leading zeros of an IMSI
            },
        )

    nodes = {
        "node-1": node("node-1", "gateway,aaa,edge", "vg-1"),
        "node-2": node("node-2", "gateway,aaa,edge", "vg-2"),
    }
    api = node("node-3", "api,meter", "vg-1")
    del contacts["node-3"]
    return Cluster(nodes, api, contacts, addresses)


async def environment_of(stack: AsyncExitStack) -> tuple[dict[str, str], str]:
    """A Cassandra with its tables, a Kinesis with a stream: what points nodes to them, and the endpoint."""
    (server,) = await asyncio.to_thread(stack.enter_context, cassandra.served())
    await migrate(address=cassandra.address_of([server], KEYSPACE), replication_factor=1)
    endpoint = await asyncio.to_thread(stack.enter_context, kinesis.served("kinesis-local"))
    await kinesis.create_stream(endpoint, STREAM, shards=SHARDS)
    return {
        "AIRLOOM_STORE__CASSANDRA": server.host,
        "AIRLOOM_STORE__PORT": str(server.port),
        "AIRLOOM_STORE__KEYSPACE": KEYSPACE,
        "AIRLOOM_STREAM__KINESIS": STREAM,
        "AIRLOOM_STREAM__ENDPOINT": endpoint,
        **kinesis.ENVIRONMENT,
    }, endpoint


async def kill_nodes(
    *, kills: int, seed: int, how: str, lab: Lab | None, tell: Callable[[str], None]
) -> NodesFinding:
    """Run it: ``how`` is ``any``, ``holder`` or ``drain``; with a ``lab`` this process is in its ``gw``."""
    finding = NodesFinding(kills, how == "drain", not_run=cassandra.why_not() or kinesis.why_not())
    if finding.not_run:
        return finding
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="airloom-nodes-")))
        environment, endpoint = await environment_of(stack)
        cluster = cluster_in(folder, environment, lab)
        try:
            await cluster.start()
            async with (
                _watched(cluster, environment, finding),
                Customer(cluster.api.endpoint) as customer,
            ):
                await customer.sign_up("nodes@example.com", "Aa1-kill-the-nodes")
                async with _emulated(lab, folder, customer, finding):
                    kill = partial(_kill_one, cluster, finding, how, random.Random(seed))
                    talkers = await _run(cluster, customer, finding, kill, tell)
                await _look(finding, talkers, endpoint)
        finally:
            await cluster.stop()
        finding.takeovers = sum(_taken_over(served) for served in cluster.nodes.values())
    return finding


@asynccontextmanager
async def _watched(
    cluster: Cluster, environment: dict[str, str], finding: NodesFinding
) -> AsyncIterator[None]:
    """Inside, it is watched who holds what."""
    address = CassandraAddress(
        (environment["AIRLOOM_STORE__CASSANDRA"],),
        KEYSPACE,
        cassandra.DATACENTER,
        port=int(environment["AIRLOOM_STORE__PORT"]),
    )
    store = WideStore(
        engine=await CassandraEngine.open(address=address, clock=SystemClock()), clock=SystemClock()
    )
    watch = OwnerWatch(cluster.contacts, SECRET, ("vg-1", "vg-2"), store.leases)
    watching = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await store.aclose()
        finding.two_owners, finding.looks_for_owners = watch.two_owners, watch.looks
        finding.holdings = watch.fences


@asynccontextmanager
async def _emulated(
    lab: Lab | None, folder: Path, customer: Customer, finding: NodesFinding
) -> AsyncIterator[None]:
    """Inside, sgsnemu's phone pings a far host without an end."""
    if lab is None or sgsnemu.why_not():
        yield
        return
    sim = await customer.new_sim()
    imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
    capture = folder / "ran.pcap"
    async with sgsnemu.captured(lab, capture):
        async with sgsnemu.attached(lab, folder, imsi=imsi, apn="internet") as address:
            ping = await asyncio.create_subprocess_exec(
                *lab.command(lab.ran, "ping", "-D", "-n", "-i", str(PING_S), FAR_HOST),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                yield
            finally:
                ping.send_signal(signal.SIGINT)
                printed = (await ping.communicate())[0].decode()
            await asyncio.sleep(SETTLE_S)
            metered_bytes = (await total_of_stats(customer, sim["simId"]))["download"]
            events = await customer.call("GET", f"/sims/{sim['simId']}/events/sessions")
    came = [float(at) for at in re.findall(r"^\[(\d+\.\d+)\] 64 bytes", printed, re.MULTILINE)]
    finding.emulated = {
        "sent": float(re.findall(r"(\d+) packets transmitted", printed)[-1]),
        "received": float(len(came)),
        "gap_s_max": max(later - earlier for earlier, later in pairwise(came)),
        "seen_bytes": float(ledger_of_capture(capture, GATEWAY).down_bytes[address]),
        "metered_bytes": float(metered_bytes),
        "events": float(len(events)),
    }


async def _kill_one(cluster: Cluster, finding: NodesFinding, how: str, dice: random.Random) -> None:
    await asyncio.sleep(0.3 + dice.random() * 1.5)
    victim = dice.choice([*cluster.nodes, API]) if how == "any" else await cluster.holder_of(FIRST)
    finding.killed[victim] = finding.killed.get(victim, 0) + 1
    killed = time.monotonic()
    if how == "drain":
        await cluster.drain(victim)
        held = [FIRST]
    else:
        held = await cluster.kill(victim)
    if dice.random() < 0.8:  # else it comes back so soon that both want the gateway
        for gateway_id in held:
            await cluster.holder_of(gateway_id)
            finding.held_again_s_max = max(finding.held_again_s_max, time.monotonic() - killed)
    await cluster.served(victim).start()


async def _run(
    cluster: Cluster,
    customer: Customer,
    finding: NodesFinding,
    kill: Callable[[], Awaitable[None]],
    tell: Callable[[str], None],
) -> list[Talker]:
    first, second = cluster.addresses["vg-1"], cluster.addresses["vg-2"]

    def peer(kind: type[GtpPeer[Any]], address: str, gateway: str) -> GtpPeer[Any]:
        return kind(network=UdpNetwork(), address=address, gateway=gateway, entropy=SystemEntropy())

    sgsn, sgw = peer(Sgsn, "127.0.1.1", first), peer(Sgw, "127.0.2.1", first)
    other = peer(Sgsn, "127.0.1.2", second)
    nas = Nas(
        address="127.0.3.1",
        authentication=(first, 1812),
        accounting=(first, 1813),
        secret=NAS_SECRET.encode(),
        network=UdpNetwork(),
        entropy=SystemEntropy(),
        repeat_s=0.3,
    )
    async with sgsn.running(), sgw.running(), other.running(), nas.running():
        talkers = [await attach_talker(customer, each) for each in (sgsn, sgw, other) for _ in range(3)]
        meters = [await attach_meter(customer, nas) for _ in range(2)]
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as traffic:
            for talker in talkers:
                traffic.create_task(talk(talker, stopped, answer_s=ANSWER_S))
            for meter in meters:
                traffic.create_task(report_again(nas, meter, stopped))
            await asyncio.sleep(WARM_S)
            for talker in talkers:
                talker.gap_s_max = 0.0
            probes = [traffic.create_task(_probe(talker, stopped)) for talker in talkers]
            for number in range(finding.kills):
                await kill()
                finding.restart_counters += [await each.echo() for each in (sgsn, sgw)]
                tell(f"kill {number + 1} of {finding.kills}")
            await asyncio.sleep(1.0)
            stopped.set()
        await asyncio.sleep(SETTLE_S)
        finding.gap_s_max = max(probe.result() for probe in probes)
        finding.message_gap_s_max = max(talker.gap_s_max for talker in talkers)
        finding.restart_counters = sorted(set(finding.restart_counters))
        finding.error_indications = sum(each.error_indications for each in (sgsn, sgw, other))
        await _look_at_sessions(customer, finding, talkers, meters)
    return talkers


async def _probe(talker: Talker, stopped: asyncio.Event) -> float:
    """The longest time without a packet down: the device asks the gateway's name server, again and again."""
    address, served = GatewayConfig().dns[0], talker.context.on_down
    query = udp_packet(talker.context.ue_address, address, DNS_PORT, QUERY)
    came, gap_s_max = time.monotonic(), 0.0

    def on_down(packet: bytes) -> None:
        nonlocal came, gap_s_max
        if packet[12:16] == address.packed:
            now = time.monotonic()
            came, gap_s_max = now, max(gap_s_max, now - came)
        served(packet)

    talker.context.on_down = on_down
    while not stopped.is_set():
        talker.peer.send_up(talker.context, query)
        await asyncio.sleep(PROBE_S)
    return max(gap_s_max, time.monotonic() - came)


async def _look_at_sessions(
    customer: Customer, finding: NodesFinding, talkers: list[Talker], meters: list[Meter]
) -> None:
    """Each session is the one that was granted, and the meter is what devices and NAS saw."""
    granted = [(talker.sim_id, talker.context.ue_address) for talker in talkers]
    granted += [(meter.sim_id, meter.session.ue_address) for meter in meters]
    for sim_id, ue_address in granted:
        status = (await customer.call("GET", f"/sims/{sim_id}"))["sessionStatus"]
        finding.sessions += 1
        finding.sessions_lost += not (
            status and status["online"] and status["ueIpAddress"] == str(ue_address)
        )
        events = await customer.call("GET", f"/sims/{sim_id}/events/sessions")
        finding.signalled_anew += len(events) - 1
    for talker in talkers:
        finding.down_seen_bytes += talker.seen_bytes
        finding.down_metered_bytes += (await metered(customer, talker))["download"]
    for meter in meters:
        finding.nas_told_bytes += meter.session.acknowledged_up + meter.session.acknowledged_down
        finding.nas_metered_bytes += sum((await total_of_stats(customer, meter.sim_id)).values())


async def _look(finding: NodesFinding, talkers: list[Talker], endpoint: str) -> None:
    """Whatever was acknowledged is in the stream, as Amazon's client reads it."""
    stored = payloads_by_imsi(await kinesis.read_stream(endpoint, STREAM))
    for talker in talkers:
        finding.acknowledged += len(talker.acknowledged)
        missing = set(talker.acknowledged) - set(stored.get(talker.imsi, []))
        finding.lost += sorted(payload.decode() for payload in missing)


def _taken_over(served: Served) -> int:
    return (served.data_dir / "serve.log").read_text(errors="replace").count(f"{FIRST}: taken over")


def main(argv: list[str]) -> int:
    """`python -m loadtest.killing_nodes KILLS SEED [any|holder|drain [LAB]]`: print the finding as JSON."""
    finding = asyncio.run(
        kill_nodes(
            kills=int(argv[0]),
            seed=int(argv[1]),
            how=argv[2] if len(argv) > 2 else "any",
            lab=Lab.entered(argv[3]) if len(argv) > 3 else None,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
