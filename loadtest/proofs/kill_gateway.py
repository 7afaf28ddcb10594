"""`kill -9` of an embedded gateway that holds thousands of sessions with traffic, and what is left of it.

Rules: it runs inside the radio network's namespace; an SGSN makes the sessions once and then says nothing any
more. Devices send to a host on the far side, which counts and sends back; what comes back is counted here, by
position (``loadtest.simulation.ledger``). After each kill the gateway must answer with the same restart
counter and packets must flow again without a word of signalling. After the last: every session is in the
store and every device reaches the far side; in both directions together the meter is at most one packet for
each kill below what was seen, never above.
"""

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemClock
from core.adapters.store.sqlite import SqliteEngine
from loadtest.bench.gtpc_load import Load, user_end_v1
from loadtest.bench.gtpc_store import seed
from loadtest.external.namespaces import FAR_HOST, GATEWAY, SGSN, Lab
from loadtest.folders import temporary_folder
from loadtest.proofs.kill import far_side, udp_packet
from loadtest.serving import Served
from loadtest.simulation.ledger import GTP_U_PORT, Ledger, all_metered, open_sessions

SESSIONS = 10_000
FAR_PORT = 9_000
PAYLOAD_BYTES = 100
PACKET_BYTES = 28 + PAYLOAD_BYTES
PACKETS_PER_S, TICK_S = 2_000, 0.005
READY_S_MAX = 5.0
RESUMED_S, SETTLE_S, LAST_TRIES = 10.0, 3.0, 20


@dataclass(slots=True)
class Finding:
    """What one run of kills left."""

    kills: int
    sessions: int
    sessions_stored: int = 0
    devices_reached: int = 0
    restart_counters: list[int] = field(default_factory=list)
    """Before the first kill and after each."""
    signalling: int = 0
    """Messages that the gateway sent by itself; it has no reason for any."""
    seen_bytes: int = 0
    metered_bytes: int = 0
    devices_above: int = 0
    """Of which more was metered than was seen."""
    not_resumed: int = 0
    ready_after_s: list[float] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost, however long it took."""
        return (
            self.sessions_stored == self.devices_reached == self.sessions
            and len(set(self.restart_counters)) == 1
            and len(self.restart_counters) == self.kills + 1
            and self.signalling == self.not_resumed == self.devices_above == 0
            and 0 <= self.seen_bytes - self.metered_bytes <= self.kills * PACKET_BYTES
            and self.metered_bytes > 0
        )

    @property
    def ok(self) -> bool:
        """Whether all that must hold holds."""
        return self.is_whole and max(self.ready_after_s, default=0.0) <= READY_S_MAX

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "is_whole": self.is_whole, "ok": self.ok}


class Devices:
    """All of them: they send by turns, and what comes back to them is counted."""

    def __init__(self, ends: list[tuple[int, str]]) -> None:
        self.ledger = Ledger()
        self.ends = ends
        self._next = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((SGSN, GTP_U_PORT))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._messages = [_message(teid, address) for teid, address in ends]

    async def talk(self) -> None:
        """Send at an even pace, until cancelled."""
        began, sent = time.monotonic(), 0
        while True:
            await asyncio.sleep(TICK_S)
            wanted = int((time.monotonic() - began) * PACKETS_PER_S)
            if wanted - sent > PACKETS_PER_S:  # this process paused: skip what was due meanwhile
                sent = wanted
            while sent < wanted:
                self.send(self._next)
                self._next, sent = (self._next + 1) % len(self.ends), sent + 1

    def send(self, number: int) -> None:
        """One packet of one device."""
        self._socket.sendto(self._messages[number], (GATEWAY, GTP_U_PORT))

    async def resume(self) -> bool:
        """Wait until something comes down again; false when nothing does."""
        before, until = self.ledger.down_packets.total(), time.monotonic() + RESUMED_S
        while self.ledger.down_packets.total() == before:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.01)
        return True

    async def reach(self) -> int:
        """Each sends until it hears something, a few times at most; how many did."""
        before = self.ledger.down_packets.copy()

        def silent() -> list[int]:
            heard = self.ledger.down_packets
            return [i for i, (_, address) in enumerate(self.ends) if heard[address] == before[address]]

        for _ in range(LAST_TRIES):
            if not (left := silent()):
                break
            for place, number in enumerate(left):
                self.send(number)
                if place % 20 == 0:
                    await asyncio.sleep(TICK_S)
            await asyncio.sleep(0.5)
        return len(self.ends) - len(silent())

    def close(self) -> None:
        """Hear nothing any more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        for _ in range(256):
            try:
                data = self._socket.recv(2_048)
            except BlockingIOError:
                return
            self.ledger.observe(data, from_gateway=True)


async def kill_gateway(
    *, kills: int, seed_: int, sessions: int, lab: Lab, tell: Callable[[str], None] = lambda _: None
) -> Finding:
    """Run it; this process must itself be in the lab's radio namespace."""
    rng, finding = random.Random(seed_), Finding(kills, sessions)
    with temporary_folder("gateway") as folder:
        engine = await SqliteEngine.open(path=folder / "airloom.db", clock=SystemClock())
        await seed(engine, sims=sessions, sessions=0, peer=SGSN)
        await engine.aclose()
        served = _served(folder, sessions, lab)
        await served.start()
        try:
            async with far_side(lab, FAR_PORT, is_echo=True) as far_counts:
                await _run(served, finding, rng, far_counts, tell)
        finally:
            await served.stop()
    return finding


async def _run(
    served: Served,
    finding: Finding,
    rng: random.Random,
    far_counts: Callable[[], Any],
    tell: Callable[[str], None],
) -> None:
    load = Load(SGSN)
    answers = await asyncio.to_thread(load.hold, GATEWAY, finding.sessions)
    tell(f"{finding.sessions} sessions")
    devices = Devices([user_end_v1(answer) for answer in answers])
    talking = asyncio.create_task(devices.talk())
    finding.restart_counters.append(await asyncio.to_thread(_restart_counter))
    for number in range(finding.kills):
        finding.not_resumed += not await devices.resume()
        await asyncio.sleep(0.2 + 2 * rng.random())
        await served.kill()
        await served.start()
        finding.ready_after_s.append(round(served.ready_after_s, 2))
        finding.restart_counters.append(await asyncio.to_thread(_restart_counter))
        tell(f"kill {number + 1} of {finding.kills}: ready after {served.ready_after_s:.1f} s")
    finding.not_resumed += not await devices.resume()
    talking.cancel()
    await asyncio.wait((talking,))
    finding.devices_reached = await devices.reach()
    finding.signalling = len(load.unasked())
    await asyncio.sleep(SETTLE_S)
    up = await far_counts()
    await asyncio.to_thread(_compare, finding, served.data_dir / "airloom.db", up, devices.ledger)
    devices.close()


def _compare(finding: Finding, database: Path, up: dict[str, int], ledger: Ledger) -> None:
    stored, metered = open_sessions(database), all_metered(database)
    finding.sessions_stored = len(stored)
    finding.seen_bytes = sum(up.values()) + ledger.down_bytes.total()
    finding.metered_bytes = sum(map(sum, metered.values()))
    for session_id, address in stored.items():
        metered_up, metered_down = metered.get(session_id, (0, 0))
        is_above = metered_up > up.get(address, 0) or metered_down > ledger.down_bytes[address]
        finding.devices_above += is_above


def _restart_counter() -> int:
    """By an Echo Request (TS 29.060 §7.2.1, §7.2.2) of another program on the SGSN's host."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.bind((SGSN, 0))
        asking.settimeout(RESUMED_S)
        asking.sendto(struct.pack("!BBHIHH", 0x32, 1, 4, 0, 1, 0), (GATEWAY, 2123))
        answer = asking.recv(2_048)
    return answer[13] if answer[1] == 2 and answer[12] == 14 else -1


def _message(teid: int, address: str) -> bytes:
    packet = udp_packet(IPv4Address(address), IPv4Address(FAR_HOST), FAR_PORT, bytes(PAYLOAD_BYTES))
    return struct.pack("!BBHI", 0x30, 255, len(packet), teid) + packet


def _served(folder: Path, sessions: int, lab: Lab) -> Served:
    return lab.served(
        folder,
        {
            "AIRLOOM_NODE__ROLES": '["gateway"]',
            "AIRLOOM_GATEWAY__TUN": "airloom0",
            "AIRLOOM_GATEWAY__SESSIONS_MAX": str(2 * sessions),
            "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
        },
        api_port=0,
    )


def main(argv: list[str]) -> int:
    """`python -m loadtest.proofs.kill_gateway KILLS SEED SESSIONS MARK`: print the finding as JSON."""
    kills, seed_, sessions = map(int, argv[:3])
    finding = asyncio.run(
        kill_gateway(
            kills=kills,
            seed_=seed_,
            sessions=sessions,
            lab=Lab.entered(argv[3]),
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(finding.as_dict()))
    return 0 if finding.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
