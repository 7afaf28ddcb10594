"""`python -m loadtest.neighbours`: how long an attach takes beside one greedy customer, device or peer.

Rules: an Airloom of its own is served as a child with the embedded defaults, and everything speaks to it from
outside over loopback. Each row is measured twice in one run, quiet and beside its neighbour, which is a
process of its own and does its worst until it is told to end (``NEIGHBOURS``). The figure is the whole of a
Create PDP Context: asked, durable, answered; what is not answered or refused is counted apart.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.customer import ApiError, Customer
from loadtest.peers.gtp import NotAnswered, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.serving import Served, free_gateway_address, free_tcp_port

APN = "soracom.io"
PACE_S = 0.1
"""Between two attaches of the others."""
CONNECTIONS = 40
SIMS = 1_000
MAKERS = 8
"""SIMs made side by side."""


@dataclass(slots=True, kw_only=True)
class Target:
    """Where a neighbour does its worst, and what it was answered."""

    endpoint: str
    gateway: str
    network: int
    sims: int
    counts: Counter[str] = field(default_factory=Counter)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


Neighbour = Callable[[Target], Awaitable[None]]
"""Does its worst from the moment that it sets ``ready`` until it is cancelled."""


async def lister(stage: Target) -> None:
    """A customer who lists all of its SIMs on ``CONNECTIONS`` connections."""
    async with Customer(stage.endpoint) as greedy:
        await greedy.sign_up("greedy@example.com", "Aa1-a-greedy-customer")
        await make_sims(greedy, stage.sims)
        stage.ready.set()

        async def list_on() -> None:
            while True:
                try:
                    await greedy.call("GET", "/sims", limit=1_000)
                    stage.counts["200"] += 1
                except ApiError as error:
                    stage.counts[str(error.status)] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    stage.counts[type(error).__name__] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(list_on())


NEIGHBOURS: Mapping[str, Neighbour] = {"lister": lister}


async def make_sims(customer: Customer, count: int) -> list[str]:
    """So many SIMs that may attach; their IMSIs."""
    left = iter(range(count))

    async def some() -> list[str]:
        made: list[str] = []
        for _ in left:
            sim = await customer.new_sim()
            made.append(next(iter(next(iter(sim["profiles"].values()))["subscribers"])))
        return made

    return [imsi for part in await asyncio.gather(*(some() for _ in range(MAKERS))) for imsi in part]


async def attaches(sgsn: Sgsn, imsis: list[str], count: int) -> dict[str, Any]:
    """Attach and detach the others' SIMs, one after the other; milliseconds of the attaches."""
    taken_ms: list[float] = []
    refused: Counter[str] = Counter()
    for number in range(count):
        began = time.monotonic()
        try:
            context = await sgsn.attach(imsi=imsis[number % len(imsis)], apn=APN)
            taken_ms.append(1_000 * (time.monotonic() - began))
            await sgsn.detach(context)
        except (Refusal, NotAnswered) as error:
            refused[str(error)] += 1
        await asyncio.sleep(PACE_S)
    taken_ms.sort()
    return {
        "asked": count,
        "accepted": len(taken_ms),
        "not_accepted": dict(refused),
        **{
            name: round(taken_ms[min(len(taken_ms) - 1, int(len(taken_ms) * part))], 1) if taken_ms else None
            for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))
        },
    }


async def be(name: str, target: Target) -> None:
    """A neighbour's own process: it says that it is ready, and when its input ends, what it was answered."""
    worst = asyncio.ensure_future(NEIGHBOURS[name](target))
    ready = asyncio.ensure_future(target.ready.wait())
    await asyncio.wait((worst, ready), return_when=asyncio.FIRST_COMPLETED)
    if not worst.done():
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        worst.cancel()
    with suppress(asyncio.CancelledError):
        await worst
    sys.stdout.write(json.dumps(target.counts) + "\n")


async def measure(name: str, target: Target, sgsn: Sgsn, imsis: list[str], count: int) -> dict[str, Any]:
    """One row: quiet, then beside the neighbour."""
    quiet = await attaches(sgsn, imsis, count)
    where = (target.endpoint, target.gateway, str(target.network))
    neighbour = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.neighbours", "--be", name, *where, "--sims", str(target.sims)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert neighbour.stdout is not None
    if await neighbour.stdout.readline() != b"ready\n":
        await neighbour.wait()
        return {"name": name, "ok": None, "why": "the neighbour did not begin"}
    beside = await attaches(sgsn, imsis, count)
    said, _ = await neighbour.communicate(b"")
    ratio = beside["p99_ms"] / quiet["p99_ms"] if beside["p99_ms"] and quiet["p99_ms"] else None
    return {
        "name": name,
        "quiet": quiet,
        "beside": beside,
        "neighbour_was_answered": json.loads(said or b"{}"),
        "p99_ratio": None if ratio is None else round(ratio, 2),
        "ok": beside["accepted"] == count,
    }


async def run(names: list[str], *, count: int, sims: int, network: int) -> dict[str, Any]:
    """All rows on one served Airloom."""
    with tempfile.TemporaryDirectory(prefix="airloom-neighbours-") as folder:
        served = Served(
            Path(folder) / "var",
            gateway_address=free_gateway_address(f"127.{network}.0"),
            api_port=free_tcp_port("127.0.0.1", 0),
            environment={"AIRLOOM_API__SANDBOX": "true"},
            ready_timeout_s=180,
        )
        await served.start()
        sgsn = Sgsn(
            address=free_gateway_address(f"127.{network}.1"),
            gateway=served.gateway_address,
            network=UdpNetwork(),
            entropy=SystemEntropy(),
        )
        target = Target(endpoint=served.endpoint, gateway=served.gateway_address, network=network, sims=sims)
        try:
            async with sgsn.running(), Customer(served.endpoint) as others:
                await others.sign_up("others@example.com", "Aa1-all-the-others")
                imsis = await make_sims(others, 12)
                rows = [await measure(name, target, sgsn, imsis, count) for name in names]
        finally:
            await served.stop()
    return {"bench": "neighbours", "rows": rows, "ok": all(row["ok"] for row in rows)}


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.neighbours", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NEIGHBOURS), help=f"of {', '.join(NEIGHBOURS)}")
    parser.add_argument("--attaches", type=int, default=100, help="attaches of the others for each figure")
    parser.add_argument("--sims", type=int, default=SIMS, help="SIMs of the customer who lists them")
    parser.add_argument("--network", type=int, default=0, help="N of 127.N.0.0/16, where all of it is")
    parser.add_argument("--be", nargs=4, metavar="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.be:
        name, endpoint, gateway, network = asked.be
        target = Target(endpoint=endpoint, gateway=gateway, network=int(network), sims=asked.sims)
        asyncio.run(be(name, target))
        return 0
    if unknown := set(asked.names) - set(NEIGHBOURS):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(NEIGHBOURS)}")
    wanted = run(asked.names, count=asked.attaches, sims=asked.sims, network=asked.network)
    result = asyncio.run(wanted)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
