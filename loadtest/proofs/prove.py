"""`./run prove`: the long proofs with all seeds and kills: minutes to hours.

`./run test` runs a share of each; the documents quote the figures of these runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.external.namespaces import Lab, why_not
from loadtest.outside import tries as outside
from loadtest.outside.tries import ROOT
from loadtest.proofs import scale
from loadtest.proofs.kill_gateway import SESSIONS
from loadtest.proofs.kill_store import KINDS
from loadtest.proofs.sizing import Demand
from loadtest.simulation.checks import simulate
from loadtest.simulation.plan import EXACTLY_ONCE, ROAMING, Plan

PROOFS = {
    "seeds": "simulated runs of a whole node, with every fault",
    "exact": "usage exactly once: repeats, kills, takeovers, clock jumps",
    "roaming": "peers that restart with any restart counter, and handovers",
    "kills": "kill -9 of a served node under traffic",
    "gateway": "kill -9 of a gateway with thousands of sessions (as root)",
    "edge": "kill -9 while devices send messages, with a faulty Kinesis",
    "nodes": "kill -9 of gateway nodes over Cassandra: another node takes over",
    "store": "a Cassandra that fails or is slow, partitions, a full disk",
    "hostile": "mutated messages at a served gateway",
    "scale": "sizing of a large fleet, and a simulation of its nodes while they fail",
    "outside": "attacks from outside, by code that shares nothing with the product",
}


def findings_of(plan: Plan, seed: int) -> tuple[int, list[str], str]:
    """One seed, its findings and the hash of its run."""
    world = simulate(seed, plan)
    return seed, world.findings, world.network.trace


def prove_seeds(plan: Plan, first: int, count: int) -> dict[str, Any]:
    """Run seeds on every core; what was found, by seed."""
    began, found = time.monotonic(), {}
    run = partial(findings_of, plan)
    with ProcessPoolExecutor() as pool:
        for number, (seed, findings, _) in enumerate(
            pool.map(run, range(first, first + count), chunksize=10), 1
        ):
            if findings:
                found[seed] = findings
                tell(f"seed {seed}: {findings}")
            if number % 100 == 0:
                tell(
                    f"{number} of {count} seeds, {time.monotonic() - began:.0f} s, {len(found)} with findings"
                )
        again = pool.submit(run, first).result()[2] == pool.submit(run, first).result()[2]
    return {"seeds": count, "found": found, "same_seed_same_run": again, "ok": again and not found}


def prove_kills(kills: int, seed: int) -> dict[str, Any]:
    """``kill -9`` of a served node; with root in network namespaces, where a far host counts by itself."""
    if why := why_not():
        tell(f"far side not run: {why}")
        return _killing([sys.executable, "-m", "loadtest.proofs.kill", str(kills), str(seed)])
    with Lab() as lab:
        command = [sys.executable, "-m", "loadtest.proofs.kill", str(kills), str(seed), lab.mark]
        return _killing(lab.command(lab.ran, *command))


def prove_gateway(kills: int, seed: int, sessions: int = SESSIONS) -> dict[str, Any]:
    """``kill -9`` of an embedded gateway with thousands of sessions and traffic to a far host that counts."""
    if why := why_not():
        tell(f"gateway not run: {why}")
        return {"ok": True, "not_run": why}
    with Lab() as lab:
        command = [
            sys.executable,
            "-m",
            "loadtest.proofs.kill_gateway",
            *map(str, (kills, seed, sessions)),
        ]
        return _killing(lab.command(lab.ran, *command, lab.mark))


def prove_edge(kills: int, seed: int, layout: str) -> dict[str, Any]:
    """``kill -9`` under the traffic of every entry point, into a Kinesis that misbehaves."""
    return _killing([sys.executable, "-m", "loadtest.proofs.kill_edge", str(kills), str(seed), layout])


def prove_nodes(kills: int, seed: int) -> dict[str, Any]:
    """``kill -9`` of the gateway that holds the sessions, over a real Cassandra: the other one takes over."""
    return _killing([sys.executable, "-m", "loadtest.proofs.kill_nodes", str(kills), str(seed)])


def prove_store(seed: int) -> dict[str, Any]:
    """Stores that fail: the simulation on real ones, the store's contract with one of three nodes killed,
    gateways that are cut off or stand still, a store of five seconds.
    """
    found = [
        _killing([sys.executable, "-m", "loadtest.proofs.kill_store", str(seed), kind]) for kind in KINDS
    ]
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "e2e"]
    runs = {
        "contract": ([*pytest, "-k", "cassandra", "tests/contract"], {"AIRLOOM_CASSANDRA_NODES": "3"}),
        "faults": (
            [*pytest, *(f"tests/e2e/test_{name}.py" for name in ("store_faults", "partition", "disk_full"))],
            {"AIRLOOM_LONG": "1"},
        ),
    }
    passed = {
        name: not subprocess.run(
            command, check=False, env={**os.environ, **variables}, cwd=ROOT, stdout=sys.stderr
        ).returncode
        for name, (command, variables) in runs.items()
    }
    ok = all(passed.values()) and all(finding["ok"] for finding in found)
    return {"runs": found, "passed": passed, "ok": ok}


def prove_hostile(messages: int, seed: int) -> dict[str, Any]:
    """Mutated messages at a served gateway while good peers go on."""
    return _killing([sys.executable, "-m", "loadtest.proofs.hostile", str(messages), str(seed)])


def prove_scale(sims: int, faults: int, seed: int, html: Path | None) -> dict[str, Any]:
    """Nodes and gateway instances for so many SIMs, laid out and then simulated while nodes fail."""
    return scale.run(demand=Demand(sims=sims), faults=faults, seed=seed, html=html, tell=tell)


def _killing(command: Sequence[str]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, cwd=ROOT)
    if not ended.stdout.strip():
        return {"ok": False, "why": f"the run ended with {ended.returncode} and no result"}
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; exit code 0 when everything holds."""
    parser = argparse.ArgumentParser(
        prog="./run prove",
        description=(__doc__ or "").splitlines()[0],
        epilog="\n".join(["proofs:", *(f"  {name:<8} {text}" for name, text in PROOFS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", default=list(PROOFS), help="proofs, see below (default: all)")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--kills", type=int, default=50, help="how many kills (default 50)")
    parser.add_argument("--seed", type=int, default=1, help="the seed for the times of the kills (default 1)")
    parser.add_argument(
        "--layout", choices=("one", "spread"), default="one", help="edge: the layout, as for ./run demo"
    )
    parser.add_argument(
        "--messages", type=int, default=1_000_000, help="hostile: number of messages (default 1000000)"
    )
    parser.add_argument(
        "--sims", type=int, default=10_000_000, help="scale: number of SIMs (default 10000000)"
    )
    parser.add_argument(
        "--faults", type=int, default=7, help="scale: number of faults besides the loss of a zone (default 7)"
    )
    parser.add_argument(
        "--html", type=Path, help="scale: write a page with the figures and a plot to this file"
    )
    options = parser.parse_args(argv)
    unknown = set(options.what) - set(PROOFS)
    if unknown:
        parser.error(f"unknown proof: {', '.join(sorted(unknown))}; there are {', '.join(PROOFS)}")
    results: dict[str, Any] = {}
    if "seeds" in options.what:
        results["seeds"] = prove_seeds(Plan(), options.first, options.seeds)
    if "exact" in options.what:
        results["exact"] = prove_seeds(EXACTLY_ONCE, options.first, options.seeds)
    if "roaming" in options.what:
        results["roaming"] = prove_seeds(ROAMING, options.first, options.seeds)
    if "kills" in options.what:
        results["kills"] = prove_kills(options.kills, options.seed)
    if "gateway" in options.what:
        results["gateway"] = prove_gateway(options.kills, options.seed)
    if "edge" in options.what:
        results["edge"] = prove_edge(options.kills, options.seed, options.layout)
    if "nodes" in options.what:
        results["nodes"] = prove_nodes(options.kills, options.seed)
    if "store" in options.what:
        results["store"] = prove_store(options.seed)
    if "hostile" in options.what:
        results["hostile"] = prove_hostile(options.messages, options.seed)
    if "scale" in options.what:
        results["scale"] = prove_scale(options.sims, options.faults, options.seed, options.html)
    if "outside" in options.what:
        results["outside"] = outside.run(ROOT, list(outside.TRIES))
    results["ok"] = all(result["ok"] for result in results.values())
    print(json.dumps(results))
    return 0 if results["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
