"""`kill -9` of a served Airloom at random points under traffic, and what is left of it.

Half of the SIMs send messages to the device edge and wait for each answer; where namespaces can be made, the
other half send datagrams through the gateway to a host on the far side, which counts them by itself. After
the last kill: what was acknowledged is in the stream; sessions that were granted are still there; and the
meter is never above the far side's count, and below it by at most one packet for each kill.
"""

import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.config import EdgeConfig
from loadtest.api_client import ApiClient
from loadtest.external.namespaces import FAR_HOST, SGSN, SGW, Lab
from loadtest.folders import temporary_folder
from loadtest.outcome import payloads_by_imsi, read_stream, total_of_stats
from loadtest.peers.device import SimulatedDevice
from loadtest.peers.gtp import GtpPeer, NotAnswered, PdpContext
from loadtest.peers.nas import Nas, NasSession
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.serving import Served, free_gateway_address, free_tcp_port, radius_clients
from loadtest.simulation.ledger import counters_of, metered_of

APN = "soracom.io"
NAS_SECRET = "the secret of the NAS"  # noqa: S105 - of a NAS that lives for this run
FAR_PORT = 9_000
FAR_PAYLOAD_BYTES = 200
SETTLE_S = 3.0


@dataclass(slots=True)
class Finding:
    """What one run of kills left."""

    kills: int
    sessions: int = 0
    sessions_lost: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    down_seen_bytes: int = 0
    down_metered_bytes: int = 0
    far_seen_bytes: int = 0
    far_metered_bytes: int = 0
    nas_told_bytes: int = 0
    nas_metered_bytes: int = 0
    slot_bytes: int = 0
    slots_off_bytes: int = 0
    """By how much the store is off from the gateway's own counters, session by session and direction."""
    packet_bytes_max: int = FAR_PAYLOAD_BYTES + 28
    ready_after_s_max: float = 0.0
    not_run: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        return (
            not self.lost
            and self.sessions_lost == 0
            and self.acknowledged > 0
            and self._within(self.down_seen_bytes, self.down_metered_bytes)
            and self._within(self.far_seen_bytes, self.far_metered_bytes)
            and self.nas_told_bytes == self.nas_metered_bytes > 0
            and self.slots_off_bytes == 0 < self.slot_bytes
        )

    def _within(self, seen: int, metered: int) -> bool:
        return 0 <= seen - metered <= self.kills * self.packet_bytes_max

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"ok": self.ok}


@dataclass(slots=True)
class Talker:
    """A device that sends to the edge, and the answers that it got."""

    imsi: str
    sim_id: str
    peer: GtpPeer[Any]
    context: PdpContext
    device: SimulatedDevice
    acknowledged: list[bytes] = field(default_factory=list)
    seen_bytes: int = 0
    number: int = 0
    gap_s_max: float = 0.0
    """The longest time without an answer."""


@dataclass(slots=True)
class Meter:
    """A device behind the NAS."""

    sim_id: str
    session: NasSession


async def kill_under_traffic(
    *, kills: int, seed: int, lab: Lab | None, tell: Callable[[str], None] = lambda _: None
) -> Finding:
    """Run it; with a ``lab`` this process must itself be in the lab's radio namespace."""
    rng = random.Random(seed)
    with temporary_folder("kill") as folder:
        served = _served(folder, lab)
        finding = Finding(kills)
        if lab is None:
            finding.not_run.append("far side: network namespaces need root")
        await served.start()
        try:
            async with far_side(lab, FAR_PORT) as far_counts, ApiClient(served.endpoint) as customer:
                await _run(served, customer, finding, rng, far=lab is not None, tell=tell)
                counted = await far_counts()
                finding.far_seen_bytes = sum(counted.values())
        finally:
            await served.stop()
    return finding


async def _run(
    served: Served,
    customer: ApiClient,
    finding: Finding,
    rng: random.Random,
    *,
    far: bool,
    tell: Callable[[str], None],
) -> None:
    await customer.sign_up("kill@example.com", "Aa1-kill-under-traffic")
    common: dict[str, Any] = {
        "network": UdpNetwork(),
        "gateway": served.gateway_address,
        "entropy": SystemEntropy(),
    }
    sgsn = Sgsn(address=SGSN if far else free_gateway_address("127.0.1"), **common)
    sgw = Sgw(address=SGW if far else free_gateway_address("127.0.2"), **common)
    nas = Nas(
        address=SGSN if far else free_gateway_address("127.0.3"),
        authentication=(served.gateway_address, 1812),
        accounting=(served.gateway_address, 1813),
        secret=NAS_SECRET.encode(),
        network=UdpNetwork(),
        entropy=SystemEntropy(),
        repeat_s=0.3,
    )
    async with sgsn.running(), sgw.running(), nas.running():
        talkers = [await attach_talker(customer, peer) for peer in (sgsn, sgw) for _ in range(3)]
        senders = [
            await attach_talker(customer, peer) for peer in (sgsn, sgw) for _ in range(2 if far else 0)
        ]
        meters = [await attach_meter(customer, nas) for _ in range(2)]
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as traffic:
            for talker in talkers:
                traffic.create_task(talk(talker, stopped))
            for sender in senders:
                traffic.create_task(_send_far(sender, stopped))
            for meter in meters:
                traffic.create_task(report_again(nas, meter, stopped))
            for number in range(finding.kills):
                await asyncio.sleep(0.05 + rng.random() * 0.7)
                await served.kill()
                await served.start()
                finding.ready_after_s_max = max(finding.ready_after_s_max, served.ready_after_s)
                tell(f"kill {number + 1} of {finding.kills}")
            await asyncio.sleep(1.0)
            stopped.set()
        await asyncio.sleep(SETTLE_S)
        await _look(served, customer, finding, talkers, senders)
        await _look_at_meters(customer, finding, meters)


async def _look_at_meters(customer: ApiClient, finding: Finding, meters: list[Meter]) -> None:
    """What the NAS was acknowledged last is what is metered, and its sessions are still there."""
    for meter in meters:
        session = meter.session
        finding.nas_told_bytes += session.acknowledged_up + session.acknowledged_down
        finding.nas_metered_bytes += sum((await total_of_stats(customer, meter.sim_id)).values())
        await _look_at_session(customer, finding, meter.sim_id, session.ue_address)


async def _look_at_session(
    customer: ApiClient, finding: Finding, sim_id: str, ue_address: IPv4Address
) -> None:
    online = (await customer.call("GET", f"/sims/{sim_id}"))["sessionStatus"]
    finding.sessions += 1
    finding.sessions_lost += not (online and online["online"] and online["ueIpAddress"] == str(ue_address))


async def _look(
    served: Served, customer: ApiClient, finding: Finding, talkers: list[Talker], senders: list[Talker]
) -> None:
    """Compare the devices' answers with the store."""
    stored = payloads_by_imsi(await read_stream(served.data_dir))
    for talker in talkers:
        finding.acknowledged += len(talker.acknowledged)
        missing = set(talker.acknowledged) - set(stored.get(talker.imsi, []))
        finding.lost += sorted(payload.decode() for payload in missing)
        finding.down_seen_bytes += talker.seen_bytes
        finding.down_metered_bytes += (await metered(customer, talker))["download"]
    for sender in senders:
        finding.far_metered_bytes += (await metered(customer, sender))["upload"]
    for each in (*talkers, *senders):
        await _look_at_session(customer, finding, each.sim_id, each.context.ue_address)
    await asyncio.to_thread(_look_at_slots, served.data_dir, finding)


def _look_at_slots(folder: Path, finding: Finding) -> None:
    for session_id, counted in counters_of(folder / "vg-1.slots").items():
        stored = metered_of(folder / "airloom.db", session_id)
        finding.slot_bytes += sum(counted)
        finding.slots_off_bytes += sum(abs(one - other) for one, other in zip(counted, stored, strict=True))


async def metered(customer: ApiClient, talker: Talker) -> dict[str, int]:
    """What the API says that its SIM used."""
    return await total_of_stats(customer, talker.sim_id)


async def attach_meter(customer: ApiClient, nas: Nas) -> Meter:
    """A new SIM behind the NAS."""
    sim = await customer.new_sim()
    imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
    return Meter(sim["simId"], await nas.attach(imsi=imsi, apn=APN))


async def report_again(nas: Nas, meter: Meter, stopped: asyncio.Event) -> None:
    """A NAS with traffic and reports; its last report is acknowledged after the last kill."""
    while True:
        is_last = stopped.is_set()
        meter.session.carry(1_000, 3_000)
        with contextlib.suppress(NotAnswered):
            await nas.report(meter.session)
            if is_last:
                return
        await asyncio.sleep(0.02)


async def attach_talker(customer: ApiClient, peer: GtpPeer[Any]) -> Talker:
    """A new SIM behind the peer, ready to talk."""
    sim = await customer.new_sim()
    imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
    context = await peer.attach(imsi=imsi, apn=APN)
    edge = EdgeConfig()
    device = SimulatedDevice(
        send_up=lambda packet: peer.send_up(context, packet),
        ue_address=context.ue_address,
        entry_address=edge.message_address,
        entry_port=edge.udp_port,
    )
    talker = Talker(imsi, sim["simId"], peer, context, device)

    def on_down(packet: bytes) -> None:
        talker.seen_bytes += struct.unpack_from("!H", packet, 2)[0]
        device.receive(packet)

    context.on_down = on_down
    return talker


async def talk(
    talker: Talker, stopped: asyncio.Event, *, answer_s: float = 0.5, pause_s: float = 0.0
) -> None:
    """Message after message, each waiting for its answer."""
    answered = time.monotonic()
    while not stopped.is_set():
        talker.number += 1
        payload = b"%s %d" % (talker.imsi.encode(), talker.number)
        if await talker.device.send_raw(payload, answer_s=answer_s) == b"200":
            talker.acknowledged.append(payload)
            talker.gap_s_max = max(talker.gap_s_max, time.monotonic() - answered)
            answered = time.monotonic()
        await asyncio.sleep(pause_s)


async def _send_far(sender: Talker, stopped: asyncio.Event) -> None:
    """Datagrams to the far host, some hundreds a second."""
    packet = udp_packet(sender.context.ue_address, IPv4Address(FAR_HOST), FAR_PORT, bytes(FAR_PAYLOAD_BYTES))
    while not stopped.is_set():
        sender.peer.send_up(sender.context, packet)
        await asyncio.sleep(0.003)


def udp_packet(source: IPv4Address, destination: IPv4Address, port: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram from this port to the same; its checksum is absent (RFC 768)."""
    head = bytearray(
        struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            0,
            28 + len(payload),
            0,
            0,
            64,
            17,
            0,
            source.packed,
            destination.packed,
        )
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", head, 10, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    return bytes(head) + struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload


def _served(folder: Path, lab: Lab | None) -> Served:
    environment = {
        "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
        "AIRLOOM_GATEWAY__SESSIONS_MAX": "256",
        "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET, "0.0.0.0/0"),
    }
    if lab is None:
        return Served(
            folder / "var",
            gateway_address=free_gateway_address(),
            api_port=free_tcp_port("127.0.0.1", 0),
            environment=environment,
        )
    return lab.served(
        folder / "var",
        {**environment, "AIRLOOM_GATEWAY__TUN": "airloom0"},
    )


@contextlib.asynccontextmanager
async def far_side(lab: Lab | None, port: int, *, is_echo: bool = False) -> AsyncIterator[Callable[[], Any]]:
    """The counting host; what is yielded ends it and returns its counts."""
    if lab is None:

        async def nothing() -> dict[str, int]:
            return {}

        yield nothing
        return
    sink = await asyncio.create_subprocess_exec(
        *lab.command(lab.inet, sys.executable, "-m", "loadtest.external.sink", FAR_HOST, str(port)),
        *(["echo"] if is_echo else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert sink.stdin is not None
    assert sink.stdout is not None
    await sink.stdout.readline()

    async def counts() -> dict[str, int]:
        assert sink.stdin is not None
        assert sink.stdout is not None
        sink.stdin.close()
        answer: dict[str, int] = json.loads(await sink.stdout.read())
        await sink.wait()
        return answer

    try:
        yield counts
    finally:
        if sink.returncode is None:
            sink.kill()
            await sink.wait()


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.kill KILLS SEED`: print the finding as JSON; used in a namespace too."""
    kills, seed = int(argv[0]), int(argv[1])
    lab = Lab.entered(argv[2]) if len(argv) > 2 else None
    finding = asyncio.run(
        kill_under_traffic(
            kills=kills, seed=seed, lab=lab, tell=lambda text: print(text, file=sys.stderr, flush=True)
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
