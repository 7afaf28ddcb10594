"""RADIUS authentication and accounting against FreeRADIUS: the same load on both, in turns.

Rules: each server is pinned to cpu 1 and the load to cpu 0; the figure is CPU per answered request, the
median of the rounds, with each server kept busy. The load is a GGSN's requests made by pyrad
(``loadtest.bench.radius_load``). FreeRADIUS looks SIMs up in its `files` module and writes accounting by
`detail`, without fsync. Airloom looks SIMs up in its store, group and status included, and answers an
accounting request after its fsync. Each Interim-Update has new counters, so that no answer comes from a
cache.
"""

import argparse
import asyncio
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.api_client import ApiClient
from loadtest.bench.radius_load import Request, access_requests, drive, interim_updates
from loadtest.bench.reporting import report
from loadtest.folders import temporary_folder
from loadtest.peers.nas import Nas, NasSession
from loadtest.serving import Served, free_gateway_address, free_tcp_port, radius_clients
from radius.codec import Code

SIMS = 500
REPEATED = 16
"""How often each SIM asks in one trial."""
GENERATOR_CPU, SERVER_CPU = 0, 1
FLOORS = {"authentication": 1.3, "accounting, durable": 1.0}
SECRET = "the secret of the bench"  # noqa: S105 - of servers that live for this run
APN = "soracom.io"
PEER = "127.0.3.200"
READY_S = 15.0
CONFIGURATION = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = {folder}
run_dir = {folder}
pidfile = {folder}/pid
max_requests = 65536
security {{
    allow_vulnerable_openssl = yes
}}
client all {{
    ipaddr = 127.0.0.0/8
    secret = "{secret}"
    require_message_authenticator = yes
}}
modules {{
    files {{
        usersfile = {folder}/users
    }}
    detail {{
        filename = {folder}/detail
        permissions = 0600
    }}
}}
server bench {{
    listen {{
        type = auth
        ipaddr = {address}
        port = 1812
    }}
    listen {{
        type = acct
        ipaddr = {address}
        port = 1813
    }}
    authorize {{
        files
    }}
    accounting {{
        detail
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one server."""

    cpu_us: float
    per_s: float


def _why_not() -> str:
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two CPUs"
    programs = (("freeradius", "freeradius"), ("taskset", "util-linux"))
    for program, package in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    return ""


async def _measure(rounds: int) -> list[dict[str, Any]]:
    trials: dict[tuple[str, str], list[Trial]] = {}
    with temporary_folder("bench") as folder:
        served = Served(
            folder / "var",
            gateway_address=free_gateway_address(),
            api_port=free_tcp_port("127.0.0.1", 0),
            prefix=("taskset", "-c", str(SERVER_CPU)),
            environment={
                "AIRLOOM_GATEWAY__SESSIONS_MAX": str(2 * SIMS),
                "AIRLOOM_RADIUS__CLIENTS": radius_clients(SECRET, "127.0.0.0/8"),
                "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
            },
        )
        await served.start()
        try:
            sessions = await _attach_all(served)
            peer = await _start_peer(folder, sessions)
            try:
                servers = {"ours": served.gateway_address, "peer": PEER}
                pids = {"ours": _pid(served.process), "peer": peer.pid}
                for number in range(rounds):
                    for kind in FLOORS:
                        for who, address in servers.items():
                            trial = await asyncio.to_thread(
                                _trial, kind, address, pids[who], sessions, number
                            )
                            trials.setdefault((kind, who), []).append(trial)
            finally:
                peer.terminate()
                await peer.wait()
        finally:
            await served.stop()
    return [_row(kind, trials[kind, "ours"], trials[kind, "peer"]) for kind in FLOORS]


async def _attach_all(served: Served) -> list[NasSession]:
    gateway = served.gateway_address
    nas = Nas(
        network=UdpNetwork(),
        address="127.0.3.1",
        authentication=(gateway, 1812),
        accounting=(gateway, 1813),
        secret=SECRET.encode(),
        entropy=SystemEntropy(),
    )
    async with ApiClient(served.endpoint) as customer, nas.running():
        await customer.sign_up("bench@example.com", "Aa1-radius-bench")
        sims = [await customer.new_sim() for _ in range(SIMS)]
        imsis = [next(iter(next(iter(sim["profiles"].values()))["subscribers"])) for sim in sims]
        return [await nas.attach(imsi=imsi, apn=APN) for imsi in imsis]


async def _start_peer(folder: Path, sessions: list[NasSession]) -> asyncio.subprocess.Process:
    users = "".join(
        f"{each.imsi} Auth-Type := Accept\n\tFramed-IP-Address = {each.ue_address},"
        f' Class = "{each.class_.decode()}", Acct-Interim-Interval = 600\n\n'
        for each in sessions
    )
    await asyncio.to_thread((folder / "users").write_text, users)
    text = CONFIGURATION.format(folder=folder, secret=SECRET, address=PEER)
    await asyncio.to_thread((folder / "radiusd.conf").write_text, text)
    peer = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(SERVER_CPU), shutil.which("freeradius") or "freeradius",
        "-f", "-l", "stdout", "-d", str(folder), "-n", "radiusd",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert peer.stdout is not None
    async with asyncio.timeout(READY_S):
        while b"Ready to process requests" not in (line := await peer.stdout.readline()):
            if not line:
                raise RuntimeError("freeradius ended before it was ready")
    return peer


def cpu_seconds(pid: int) -> float:
    """What all threads of a process ran so far (proc(5), schedstat: nanoseconds on a CPU)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _trial(kind: str, address: str, pid: int, sessions: list[NasSession], number: int) -> Trial:
    os.sched_setaffinity(0, {GENERATOR_CPU})  # of this thread alone
    secret = SECRET.encode()
    requests: list[Request] = []
    for step in range(REPEATED):
        if kind == "authentication":
            requests += access_requests(sessions, apn=APN, secret=secret)
        else:
            octets = (number * REPEATED + step + 1) * 1_000
            requests += interim_updates(sessions, octets=octets, apn=APN, secret=secret)
    is_auth = kind == "authentication"
    cpu = cpu_seconds(pid)
    took, repeats = drive(
        (address, 1812 if is_auth else 1813),
        requests,
        Code.ACCESS_ACCEPT if is_auth else Code.ACCOUNTING_RESPONSE,
        secret,
    )
    if repeats > len(requests) // 100:
        raise RuntimeError(f"{kind} at {address}: {repeats} of {len(requests)} requests were sent again")
    return Trial((cpu_seconds(pid) - cpu) / len(requests) * 1e6, len(requests) / took)


def _row(kind: str, ours: list[Trial], peer: list[Trial]) -> dict[str, Any]:
    ratio = statistics.median(b.cpu_us / a.cpu_us for a, b in zip(ours, peer, strict=True))
    return {
        "name": f"{kind}, {SIMS} SIMs",
        "ours": round(statistics.median(trial.cpu_us for trial in ours), 1),
        "peer": round(statistics.median(trial.cpu_us for trial in peer), 1),
        "unit": "us CPU per request",
        "ratio": round(ratio, 3),
        "floor": FLOORS[kind],
        "ok": ratio >= FLOORS[kind],
        "ours_per_s": round(statistics.median(trial.per_s for trial in ours)),
        "peer_per_s": round(statistics.median(trial.per_s for trial in peer)),
        "limits": [],
    }


def bench(*, json: bool = False, rounds: int = 5) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``."""
    why = _why_not()
    rows = [_row_without(kind, why) for kind in FLOORS] if why else asyncio.run(_measure(rounds))
    return report("radius", rows, _line, json=json)


def _row_without(kind: str, why: str) -> dict[str, Any]:
    none = dict.fromkeys(("ours", "peer", "ratio", "ok"))
    name, unit = f"{kind}, {SIMS} SIMs", "us CPU per request"
    return {"name": name, **none, "unit": unit, "floor": FLOORS[kind], "why": why}


def _line(row: dict[str, Any]) -> str:
    if "why" in row:
        return f"{row['name']}: not run, {row['why']}"
    return (
        f"{row['name']}: ours {row['ours']} us CPU, FreeRADIUS {row['peer']} us CPU, ratio {row['ratio']}"
        f" (floor {row['floor']}: {'kept' if row['ok'] else 'MISSED'}); by wall {row['ours_per_s']:,}/s and"
        f" {row['peer_per_s']:,}/s"
    )


def _pid(process: asyncio.subprocess.Process | None) -> int:
    assert process is not None, "a server that was started has a process"
    return process.pid


def main(argv: Sequence[str]) -> int:
    """`./run bench radius`: exit code 1 only when a floor was measured and missed."""
    parser = argparse.ArgumentParser(prog="./run bench radius", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--rounds", type=int, default=5, help="trials of each server and kind (default 5)")
    options = parser.parse_args(argv)
    return 1 if bench(json=options.json, rounds=options.rounds)["ok"] is False else 0
