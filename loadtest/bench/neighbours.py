"""``./run bench neighbours``: The latency of an attach beside one customer or device at full speed.

Rules: Airloom is served in its default configuration with the sandbox, and another checkout (``--tree``)
beside it in the same run. Each round measures each of them alone and then beside each neighbour, which is a
separate process (``neighbours_children``) behind another peer than the measured one. A figure is a whole
Create PDP Context: request, durable, answer. A refused or unanswered one counts with its time and is
reported. The figure is the median of the rounds. ``RATIO_MAX`` limits the p99 beside a neighbour by the p99
alone.
"""

import argparse
import asyncio
import json as json_
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.api_client import ApiClient
from loadtest.bench.machine import machine
from loadtest.bench.neighbours_children import NEIGHBOURS
from loadtest.folders import temporary_folder
from loadtest.outside.node import Node
from loadtest.peers.gtp import NotAnswered, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.serving import ROOT, free_tcp_port

APN = "soracom.io"
RATIO_MAX = 2.0
"""Of p99 beside a neighbour to quiet (invariant 8)."""
PACE_S = 0.02
"""Between two attaches of the others."""
SIMS = 1_000
"""Of the greedy customer."""
OTHERS = 12
MAKERS = 8
"""SIMs made side by side."""
FIGURE_S = 25.0
"""So long at most are attaches asked for beside one neighbour in a round: each may take seconds."""
SETTLE_S = 1.0
PORT = 8_183
"""Of the first node's API, the one before; each has its control channel 1,000 above."""
QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One served checkout, whom it is measured by, and what a neighbour is given."""

    name: str
    node: Node
    sgsn: Sgsn
    imsis: list[str]
    target: dict[str, str]


@dataclass(slots=True)
class Figures:
    """Of one checkout beside one neighbour."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    max_ms: float = 0.0
    attaches: int = 0
    not_accepted: Counter[str] = field(default_factory=Counter)
    neighbour: Counter[str] = field(default_factory=Counter)

    @property
    def view(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "p50_ms": round(statistics.median(self.p50_ms), 1),
            "p99_ms": round(statistics.median(self.p99_ms), 1),
            "p99_ms_of_rounds": [round(each, 1) for each in self.p99_ms],
            "max_ms": round(self.max_ms, 1),
            "attaches": self.attaches,
            "not_accepted": dict(self.not_accepted),
            "neighbour": dict(self.neighbour),
        }


async def make_sims(customer: ApiClient, count: int) -> list[str]:
    """So many SIMs that may attach; their IMSIs."""
    left = iter(range(count))

    async def some() -> list[str]:
        made: list[str] = []
        for _ in left:
            sim = await customer.new_sim()
            made.append(next(iter(next(iter(sim["profiles"].values()))["subscribers"])))
        return made

    return [imsi for part in await asyncio.gather(*(some() for _ in range(MAKERS))) for imsi in part]


async def attaches(place: Place, count: int, figures: Figures) -> None:
    """Attach and detach the others' SIMs, one after the other."""
    took_ms: list[float] = []
    ends = time.monotonic() + FIGURE_S
    for number in range(count):
        began = time.monotonic()
        if began > ends:
            break
        try:
            context = await place.sgsn.attach(imsi=place.imsis[number % len(place.imsis)], apn=APN)
            took_ms.append(1_000 * (time.monotonic() - began))
            await place.sgsn.detach(context)
        except (Refusal, NotAnswered) as error:
            figures.not_accepted[f"{type(error).__name__} {error}"] += 1
            if len(took_ms) <= number:
                took_ms.append(1_000 * (time.monotonic() - began))
        await asyncio.sleep(PACE_S)
    took_ms.sort()
    done = len(took_ms)
    figures.p50_ms.append(took_ms[done // 2])
    figures.p99_ms.append(took_ms[min(done - 1, int(done * 0.99))])
    figures.max_ms = max(figures.max_ms, took_ms[-1])
    figures.attaches += done


@asynccontextmanager
async def beside(name: str, place: Place, figures: Figures) -> AsyncIterator[None]:
    """A neighbour does its worst inside."""
    neighbour = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.bench.neighbours_children", name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert neighbour.stdin is not None
    assert neighbour.stdout is not None
    neighbour.stdin.write(json_.dumps(place.target).encode() + b"\n")
    if await neighbour.stdout.readline() != b"ready\n":
        raise RuntimeError(f"{name}: the neighbour did not begin")
    await asyncio.sleep(SETTLE_S)
    try:
        yield
    finally:
        said, _ = await neighbour.communicate(b"")
    figures.neighbour.update(json_.loads(said))


@asynccontextmanager
async def served(name: str, tree: Path, number: int, *, sims: int, network: int) -> AsyncIterator[Place]:
    """A checkout with its customers, SIMs and the others' peer."""

    def address(last: int) -> str:
        return f"127.{network}.{number}.{last}"

    port = free_tcp_port("127.0.0.1", PORT + number)
    settings = {"METRICS__PORT": "0"} if tree == ROOT else {}  # another checkout may not know it
    with (
        temporary_folder("neighbours") as folder,
        Node(tree, folder, address(1), port, **settings) as node,
    ):
        sgsn = Sgsn(address=address(2), gateway=node.address, network=UdpNetwork(), entropy=SystemEntropy())
        async with sgsn.running(), ApiClient(node.endpoint) as others, ApiClient(node.endpoint) as greedy:
            await others.sign_up("others@example.com", "Aa1-all-the-others")
            await greedy.sign_up("greedy@example.com", "Aa1-a-greedy-customer")
            greedy_imsis = await make_sims(greedy, sims)
            yield Place(
                name=name,
                node=node,
                sgsn=sgsn,
                imsis=await make_sims(others, OTHERS),
                target={
                    "api": node.endpoint.removeprefix("http://"),
                    "gateway": node.address,
                    "address": address(3),
                    "imsi": greedy_imsis[0],
                    "auth_key_id": greedy.auth_key_id,
                    "auth_key": greedy.auth_key,
                },
            )


async def measure(
    trees: dict[str, Path], names: Sequence[str], *, count: int, rounds: int, sims: int, network: int
) -> dict[str, dict[str, Figures]]:
    """By checkout and neighbour."""
    found = {tree: {name: Figures() for name in (QUIET, *names)} for tree in trees}
    async with AsyncExitStack() as stack:
        places = [
            await stack.enter_async_context(served(name, tree, number, sims=sims, network=network))
            for number, (name, tree) in enumerate(trees.items(), 1)
        ]
        for _ in range(rounds):
            for place in places:
                await asyncio.sleep(SETTLE_S)
                await attaches(place, count, found[place.name][QUIET])
            for name in names:
                for place in places:
                    figures = found[place.name][name]
                    async with beside(name, place, figures):
                        await attaches(place, count, figures)
    return found


def row_of(name: str, found: dict[str, dict[str, Figures]]) -> dict[str, Any]:
    """One neighbour: each checkout's figures, and p99 beside it by the quiet one."""
    row: dict[str, Any] = {"name": name, "floor": RATIO_MAX}
    for tree, figures in found.items():
        quiet, loud = figures[QUIET].view, figures[name].view
        row[tree] = loud | {
            "quiet_p99_ms": quiet["p99_ms"],
            "ratio": round(loud["p99_ms"] / quiet["p99_ms"], 2),
        }
    row["ratio"] = row["now"]["ratio"]
    row["ok"] = row["ratio"] < RATIO_MAX and not row["now"]["not_accepted"]
    return row


def _line(row: dict[str, Any]) -> str:
    parts = [
        f"{tree} p99 {row[tree]['quiet_p99_ms']} ms quiet, {row[tree]['p99_ms']} ms beside it"
        f" (x {row[tree]['ratio']}; {sum(row[tree]['not_accepted'].values())} of {row[tree]['attaches']}"
        " not accepted)"
        for tree in ("before", "now")
        if tree in row
    ]
    return f"{row['name']}: {'; '.join(parts)}; below {row['floor']}: {'kept' if row['ok'] else 'MISSED'}"


def main(argv: Sequence[str]) -> int:
    """`./run bench neighbours`: exit code 1 when a neighbour is felt more than the floor says."""
    parser = argparse.ArgumentParser("./run bench neighbours", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NEIGHBOURS), help=f"of {', '.join(NEIGHBOURS)}")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--tree", type=Path, help="another checkout, measured beside this one as 'before'")
    parser.add_argument("--attaches", type=int, default=200, help="of a figure in a round (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default 3)")
    parser.add_argument("--sims", type=int, default=SIMS, help="of the customer who lists them")
    parser.add_argument("--network", type=int, default=84, help="N of 127.N.0.0/16, where all of it is")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(NEIGHBOURS):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(NEIGHBOURS)}")
    trees = ({"before": options.tree.absolute()} if options.tree else {}) | {"now": ROOT}
    wanted = measure(
        trees, options.names, count=options.attaches, rounds=options.rounds, sims=options.sims,
        network=options.network,
    )  # fmt: skip
    found = asyncio.run(wanted)
    rows = [row_of(name, found) for name in options.names]
    for row in rows:
        print(_line(row))
    ok = all(row["ok"] for row in rows)
    if options.json:
        quiet = {tree: figures[QUIET].view for tree, figures in found.items()}
        result = {"bench": "neighbours", "machine": machine(), "quiet": quiet, "rows": rows, "ok": ok}
        print(json_.dumps(result))
    return 0 if ok else 1
