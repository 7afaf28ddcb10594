"""`kill -9` of the node that holds the sessions, with another on standby: repeated takeovers.

Two gateway nodes, one node for API and meter, a real Cassandra and a third-party Kinesis server. Devices send
to the edge, a NAS reports, and osmo-ggsn's sgsnemu pings if it is installed. The node that holds the first
gateway instance is killed, the other takes over, and the killed one restarts and requests its instance back.
Sometimes another node is killed too, also the one with API and meter.

Afterwards: every session is open, no peer signalled again, the restart counter is unchanged, no two nodes
reported the same gateway instance as theirs, every acknowledged message is in the stream, and the meter is
never above what the devices saw, and below it by at most one packet per kill once the killed node has
reported its last counters.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import CassandraAddress, CassandraEngine
from core.adapters.store.wide_column import WideColumnStore
from core.config import EdgeConfig, GatewayConfig
from loadtest.api_client import ApiClient
from loadtest.external import cassandra, kinesis, sgsnemu
from loadtest.folders import temporary_folder
from loadtest.layouts import Gateways, Layout, Nodes, shared_parts, spread
from loadtest.outcome import payloads_by_imsi, total_of_stats
from loadtest.peers.gtp import GtpPeer
from loadtest.peers.nas import Nas
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.proofs.kill import (
    APN,
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
from loadtest.serving import Served, free_gateway_address, radius_clients
from loadtest.simulation.owners import OwnerWatch
from mqtt_bridge.edge.dns import DNS_PORT

NAME, SHARDS = "airloom_nodes", 2
"""Of the keyspace and of the stream."""
FIRST = "vg-1"
GATEWAYS: Gateways = {"vg-1": ("gtp", "radius"), "vg-2": ("gtp", "radius")}
NODES: Nodes = {
    "node-1": ("gateway,aaa,edge", "vg-1"),
    "node-2": ("gateway,aaa,edge", "vg-2"),
    "node-3": ("api,meter", ""),
}
ANOTHER = 0.25
"""How often any node is killed besides."""
PINGS_PER_S = 20
WARM_S, HELD_S, SETTLE_S = 4.0, 20.0, 5.0
ANSWER_S, PROBE_S = 0.1, 0.03
PAUSE_S = 0.5
"""Between a device's messages: kinesis-local is for its letter, not for volume."""
QUERY = bytes.fromhex("000101000001000000000000") + b"\x06funnel\x07soracom\x02io\x00" + bytes((0, 1, 0, 1))
"""For the address of funnel.soracom.io (RFC 1035 §4.1)."""


@dataclass(slots=True)
class NodesFinding:
    """What one run of kills left."""

    kills: int
    is_drained: bool = False
    """The node was drained, not killed: then nothing may be missing."""
    others_killed: int = 0
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
    packet_bytes_max: int = sgsnemu.PING_BYTES
    pings: int = 0
    pings_answered: int = 0
    without_sgsnemu: str = ""
    looks_at_owners: int = 0
    two_owners: list[str] = field(default_factory=list)
    lease_terms: int = 0
    """As the fences of the leases count them."""
    nas_told_bytes: int = 0
    nas_metered_bytes: int = 0
    takeovers: int = 0
    not_run: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        behind, kills = self.down_seen_bytes - self.down_metered_bytes, self.kills + self.others_killed
        return not self.not_run and (
            not self.lost
            and self.acknowledged > 0
            and self.sessions_lost == 0
            and self.gap_s_max < 3.0
            and set(self.restart_counters) == {1}
            and self.error_indications == 0
            and not self.two_owners
            and self.looks_at_owners > 0
            and 0 <= behind <= (0 if self.is_drained else kills * self.packet_bytes_max)
            and self.nas_told_bytes == self.nas_metered_bytes > 0
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


async def kill_the_holder(
    *, kills: int, seed: int, is_drained: bool, tell: Callable[[str], None]
) -> NodesFinding:
    """Run it."""
    finding = NodesFinding(kills, is_drained, not_run=cassandra.why_not() or kinesis.why_not())
    if finding.not_run:
        return finding
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("nodes"))
        environment = SETTINGS | await shared_parts(stack, NAME, shards=SHARDS)
        layout = spread(folder, environment, nodes=NODES, gateways=GATEWAYS)
        stack.push_async_callback(layout.stop)
        await layout.start()
        async with _watched(layout, environment, finding), ApiClient(layout.endpoint) as customer:
            talkers = await _run(layout, customer, finding, random.Random(seed), tell)
            await _look(finding, talkers, environment["AIRLOOM_STREAM__ENDPOINT"])
        finding.takeovers = sum(_taken_over(served) for served in layout.nodes.values())
    return finding


SETTINGS = {
    "AIRLOOM_API__SANDBOX_PLMN": "90170",  # sgsnemu loses the leading zeros of an IMSI
    "AIRLOOM_GATEWAY__SESSIONS_MAX": "4096",
    "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET, "0.0.0.0/0"),
    "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
    "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
}


async def _run(
    layout: Layout,
    customer: ApiClient,
    finding: NodesFinding,
    dice: random.Random,
    tell: Callable[[str], None],
) -> list[Talker]:
    await customer.sign_up("nodes@example.com", "Aa1-kill-the-holder")
    first, second = layout.gtp

    def peer(kind: type[GtpPeer[Any]], network: str, gateway: str) -> GtpPeer[Any]:
        address = free_gateway_address(network)
        return kind(network=UdpNetwork(), address=address, gateway=gateway, entropy=SystemEntropy())

    sgsn, sgw = peer(Sgsn, "127.0.1", first), peer(Sgw, "127.0.2", first)
    other = peer(Sgsn, "127.0.9", second)
    nas = Nas(
        address=free_gateway_address("127.0.3"),
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
        async with _pinging(layout, customer, finding), asyncio.TaskGroup() as traffic:
            for talker in talkers:
                traffic.create_task(talk(talker, stopped, answer_s=ANSWER_S, pause_s=PAUSE_S))
            for meter in meters:
                traffic.create_task(report_again(nas, meter, stopped))
            await asyncio.sleep(WARM_S)
            for talker in talkers:
                talker.gap_s_max = 0.0
            probes = [traffic.create_task(_probe(talker, stopped)) for talker in talkers]
            for number in range(finding.kills):
                await asyncio.sleep(0.3 + dice.random() * 1.5)
                await _end_one(layout, finding, dice)
                finding.restart_counters += [await each.echo() for each in (sgsn, sgw)]
                tell(f"kill {number + 1} of {finding.kills}")
            await asyncio.sleep(1.0)
            stopped.set()
        await _settled(talkers)
        finding.gap_s_max = max(finding.gap_s_max, *(probe.result() for probe in probes))
        finding.message_gap_s_max = max(talker.gap_s_max for talker in talkers)
        finding.restart_counters = sorted(set(finding.restart_counters))
        finding.error_indications = sum(each.error_indications for each in (sgsn, sgw, other))
        await _look_at_sessions(customer, finding, talkers, meters)
    return talkers


async def _end_one(layout: Layout, finding: NodesFinding, dice: random.Random) -> None:
    """The holder is killed or drained, and restarts; sometimes any other node is killed before."""
    if not finding.is_drained and dice.random() < ANOTHER:
        any_node = layout.nodes[dice.choice(list(layout.nodes))]
        await any_node.kill()
        await any_node.start()
        finding.others_killed += 1
    victim = layout.nodes[await layout.holder_of(FIRST)]
    killed = time.monotonic()
    if finding.is_drained:
        await victim.drain()
    else:
        await victim.kill()
    if dice.random() < 0.8:  # else it comes back so soon that both want the gateway
        await layout.holder_of(FIRST)
        finding.held_again_s_max = max(finding.held_again_s_max, time.monotonic() - killed)
    await victim.start()


@asynccontextmanager
async def _watched(
    layout: Layout, environment: Mapping[str, str], finding: NodesFinding
) -> AsyncIterator[None]:
    """Inside, it is watched who holds what."""
    hosts = (environment["AIRLOOM_STORE__CASSANDRA"],)
    port = int(environment["AIRLOOM_STORE__PORT"])
    address = CassandraAddress(hosts, NAME, cassandra.DATACENTER, port=port)
    clock = SystemClock()
    store = WideColumnStore(engine=await CassandraEngine.open(address=address, clock=clock), clock=clock)
    watch = OwnerWatch(layout.contacts, layout.secret, tuple(GATEWAYS), store.leases)
    watching = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await store.aclose()
        finding.two_owners, finding.looks_at_owners = watch.two_owners, watch.looks
        finding.lease_terms = watch.fences


@asynccontextmanager
async def _pinging(layout: Layout, customer: ApiClient, finding: NodesFinding) -> AsyncIterator[None]:
    """Sgsnemu holds a context of its own and pings the platform through all of it."""
    if why := sgsnemu.why_not():
        finding.without_sgsnemu = why
        yield
        return
    sim = await customer.new_sim()
    (profile,) = sim["profiles"].values()
    (imsi,) = profile["subscribers"]
    async with sgsnemu.pinging(
        layout.api.data_dir,
        listen=free_gateway_address("127.0.8"),
        gateway=layout.gtp[0],
        imsi=imsi,
        apn=APN,
        host=str(EdgeConfig().message_address),
        rate=PINGS_PER_S,
    ) as pings:
        await asyncio.sleep(WARM_S)
        pings.gap_s_max = 0.0
        yield
    finding.gap_s_max = max(finding.gap_s_max, pings.gap_s_max)
    finding.sessions += 1
    finding.sessions_lost += not pings.is_deleted
    await asyncio.sleep(SETTLE_S)
    finding.down_seen_bytes += pings.replies * sgsnemu.PING_BYTES
    finding.pings, finding.pings_answered = pings.transmitted, pings.replies
    finding.down_metered_bytes += (await total_of_stats(customer, sim["simId"]))["download"]


async def _settled(talkers: list[Talker]) -> None:
    """Until nothing more comes down: a slow stream answers late, and what comes is metered a moment later."""
    before = -1
    while before != (now := sum(talker.seen_bytes for talker in talkers)):
        before = now
        await asyncio.sleep(SETTLE_S)


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
    customer: ApiClient, finding: NodesFinding, talkers: list[Talker], meters: list[Meter]
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
    stored = payloads_by_imsi(await kinesis.read_stream(endpoint, NAME))
    for talker in talkers:
        finding.acknowledged += len(talker.acknowledged)
        missing = set(talker.acknowledged) - set(stored.get(talker.imsi, []))
        finding.lost += sorted(payload.decode() for payload in missing)


def _taken_over(served: Served) -> int:
    return (served.data_dir / "serve.log").read_text(errors="replace").count(f"{FIRST}: taken over")


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.kill_nodes KILLS SEED [drain]`: print the finding as JSON."""
    finding = asyncio.run(
        kill_the_holder(
            kills=int(argv[0]),
            seed=int(argv[1]),
            is_drained=argv[2:] == ["drain"],
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
