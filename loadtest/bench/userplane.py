"""The ``udp`` user plane against osmo-ggsn: 64-byte packets up and down, both gateways on one core.

Rules: the two take turns (A B A B) in the same namespaces, between the same generator (cpu 0) and sink; each
is pinned to cpu 1; the figure is the median of the rounds, and the floor must be kept by wall time and by CPU
per packet, so that a busy machine favours neither. Packets are those that the far device received
(kernel interface counter), CPU is the gateway process's own (/proc/PID/stat). Airloom runs with all checks:
TEID, peer, inner header, source, destination, speed, and counts into its counter table. Needs root, iproute2,
two CPUs and osmo-ggsn; without them the row has the reason instead of a figure.
"""

import argparse
import os
import shutil
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.reporting import report
from loadtest.bench.userplane_children import inner_packet
from loadtest.bench.userplane_lab import FAR, OSMO, OUR_POOL, OURS, PEER, SINK, Child, Lab, cpu_seconds

SESSIONS = 500
PACKET_BYTES = 64
SETTLE_S = 0.2
GENERATOR_CPU, GATEWAY_CPU = 0, 1
FLOORS = {"uplink": 0.45, "downlink": 0.6}
GENERATOR_IS_THE_LIMIT = 0.97
"""Received of sent, from which on the generator may have been the limit."""
BUSY_SHARE = 0.8
"""Of its CPU; a saturated gateway that got less shared it with others, and wall time says little."""
_HOW = (
    "sessions by real Create PDP Context on osmo-ggsn, by install() on ours (uvloop, TUN, all checks on); "
    "packets by the far device's rx counter; osmo-ggsn with its own socket buffer"
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """One of the two under test: its process, its address, and its sessions' TEIDs and device addresses."""

    pid: int
    address: str
    sessions: list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one gateway in one direction."""

    packets_per_s: float
    cpu_us: float
    cpu_share: float
    received_of_sent: float


def bench(*, json: bool = False, seconds: float = 2.0, rounds: int = 3) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``; takes about 12 × (``seconds`` + 1)."""
    why = _why_not()
    rows = [_row_without(name, why) for name in FLOORS] if why else _measure(seconds, rounds)
    return report("userplane", rows, _line, json=json)


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two CPUs"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("osmo-ggsn", "osmo-ggsn")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    return ""


def _measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    trials: dict[tuple[str, str], list[Trial]] = {}
    with Lab() as lab:
        peer = _start_peer(lab)
        ours, child = _start_ours(lab)
        for _ in range(rounds):
            for direction in FLOORS:
                for name, gateway in (("ours", ours), ("peer", peer)):
                    trial = _run_trial(lab, direction, gateway, seconds)
                    trials.setdefault((direction, name), []).append(trial)
        child.end_input()
        counted = child.answer()
    return [_row(name, trials[name, "ours"], trials[name, "peer"], counted) for name in FLOORS]


def _start_peer(lab: Lab) -> Gateway:
    pid = lab.start_osmo_ggsn(shutil.which("osmo-ggsn") or "", GATEWAY_CPU)
    time.sleep(1.0)
    ask = {"peer": PEER, "gateway": OSMO, "sessions": SESSIONS}
    made = lab.start_child("ran", "contexts", ask).answer()
    return Gateway(pid, OSMO, [(teid, address) for teid, address in made])


def _start_ours(lab: Lab) -> tuple[Gateway, Child]:
    ask = {
        "peer": PEER,
        "gateway": OURS,
        "sessions": SESSIONS,
        "pool": OUR_POOL,
        "tun": "airloom0",
        "cpu": GATEWAY_CPU,
    }
    child = lab.start_child("gw", "gateway", ask)
    return Gateway(child.pid, OURS, [(teid, address) for teid, address in child.answer()]), child


def _run_trial(lab: Lab, direction: str, gateway: Gateway, seconds: float) -> Trial:
    namespace, ask, sink = _PLANS[direction](gateway)
    ask |= {"seconds": seconds + 4 * SETTLE_S, "cpu": GENERATOR_CPU}
    generator = lab.start_child(namespace, "generator", ask)
    generator.answer()
    time.sleep(SETTLE_S)
    packets, cpu, at = lab.received_packets(*sink), cpu_seconds(gateway.pid), time.monotonic()
    time.sleep(seconds)
    packets = lab.received_packets(*sink) - packets
    cpu, took = cpu_seconds(gateway.pid) - cpu, time.monotonic() - at
    report = generator.answer()
    time.sleep(SETTLE_S)
    sent_per_s = report["sent"] / report["seconds"]
    rate = packets / took
    return Trial(rate, cpu / max(packets, 1) * 1e6, cpu / took, rate / sent_per_s)


def _uplink(gateway: Gateway) -> tuple[str, dict[str, Any], tuple[str, str]]:
    datagrams = []
    for teid, address in gateway.sessions:
        packet = inner_packet(address, SINK, PACKET_BYTES)
        message = struct.pack("!BBHI", 0x30, 255, len(packet), teid) + packet
        datagrams.append((message.hex(), gateway.address, 2152))
    return "ran", {"source": PEER, "port": 2152, "datagrams": datagrams}, ("inet", "i0")


def _downlink(gateway: Gateway) -> tuple[str, dict[str, Any], tuple[str, str]]:
    payload = bytes(PACKET_BYTES - 28).hex()
    datagrams = [(payload, address, 9) for _, address in gateway.sessions]
    return "inet", {"source": FAR, "port": 0, "datagrams": datagrams}, ("ran", "r0")


_PLANS: dict[str, Callable[[Gateway], tuple[str, dict[str, Any], tuple[str, str]]]] = {
    "uplink": _uplink,
    "downlink": _downlink,
}


def _row(name: str, ours: list[Trial], peer: list[Trial], counted: dict[str, Any]) -> dict[str, Any]:
    ratio = statistics.median(a.packets_per_s / b.packets_per_s for a, b in zip(ours, peer, strict=True))
    cpu_ratio = statistics.median(b.cpu_us / a.cpu_us for a, b in zip(ours, peer, strict=True))
    sides = {"ours": ours, "osmo-ggsn": peer}
    return {
        "name": f"{name}, {PACKET_BYTES} B, {SESSIONS} sessions",
        "ours": round(_median(ours, "packets_per_s")),
        "peer": round(_median(peer, "packets_per_s")),
        "unit": "packets/s",
        "ratio": round(ratio, 3),
        "floor": FLOORS[name],
        "ok": min(ratio, cpu_ratio) >= FLOORS[name],
        "ours_cpu_us": round(_median(ours, "cpu_us"), 2),
        "peer_cpu_us": round(_median(peer, "cpu_us"), 2),
        "cpu_ratio": round(cpu_ratio, 3),
        "limits": [limit for who, trials in sides.items() for limit in _limits(who, trials)],
        "ours_drops": counted["drops"],
        "how": _HOW,
    }


def _limits(who: str, trials: list[Trial]) -> list[str]:
    """What stood in the way of a side other than the gateway itself."""
    limits = []
    if _median(trials, "received_of_sent") >= GENERATOR_IS_THE_LIMIT:
        limits.append(f"the generator is the limit of {who}")
    share = _median(trials, "cpu_share")
    if share < BUSY_SHARE:
        limits.append(f"{who} had {share:.0%} of its CPU, the machine was busy: trust cpu_ratio")
    return limits


def _median(trials: list[Trial], field: str) -> float:
    values: list[float] = [getattr(trial, field) for trial in trials]
    return statistics.median(values)


def _row_without(name: str, why: str) -> dict[str, Any]:
    return {
        "name": f"{name}, {PACKET_BYTES} B, {SESSIONS} sessions",
        "ours": None,
        "peer": None,
        "unit": "packets/s",
        "ratio": None,
        "floor": FLOORS[name],
        "ok": None,
        "why": why,
    }


def _line(row: dict[str, Any]) -> str:
    if "why" in row:
        return f"{row['name']}: not run, {row['why']}"
    parts = [
        f"{row['name']}: ours {row['ours']:,}/s at {row['ours_cpu_us']} us CPU",
        f"osmo-ggsn {row['peer']:,}/s at {row['peer_cpu_us']} us CPU",
        f"ratio {row['ratio']} (floor {row['floor']}: {'kept' if row['ok'] else 'MISSED'})",
        f"by CPU {row['cpu_ratio']}",
        *row["limits"],
    ]
    return ", ".join(parts)


def main(argv: Sequence[str]) -> int:
    """`./run bench userplane`: exit code 1 only when a floor was measured and missed."""
    parser = argparse.ArgumentParser(
        prog="./run bench userplane", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each trial (default 2)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="trials of each gateway and direction (default 3)"
    )
    options = parser.parse_args(argv)
    figures = bench(json=options.json, seconds=options.seconds, rounds=options.rounds)
    return 1 if figures["ok"] is False else 0
