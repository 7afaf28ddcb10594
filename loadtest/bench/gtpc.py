"""Sessions created by GTP-C, against osmo-ggsn: rate, latency beside many sessions, and memory.

Rules: gateways run on cpu 1, the load on cpu 0 (``loadtest.bench.gtpc_load``). For the rates they take turns
(A B A B); each turn creates and deletes the same number of sessions, and a figure is the median of the turns.
A rate must keep its floor both by wall time and by CPU per session, so that a busy machine favours neither.
``durable`` is `airloom serve` on its embedded store: each session is fsynced before its answer. ``volatile``
is the same node, front end and session service over a store in memory (``loadtest.bench.gtpc_volatile``),
because osmo-ggsn stores nothing. osmo-ggsn has at most 1,024 contexts, is restarted for each turn and speaks
version 1 only. Figures with many sessions are Airloom's only: the sessions are in the store before it starts,
as after a kill.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.adapters.clock import SystemClock
from core.adapters.store.sqlite import SqliteEngine
from core.domain.values import replace
from loadtest.bench.gtpc_store import seed
from loadtest.bench.reporting import report
from loadtest.bench.userplane_lab import OSMO, OURS, OURS_VOLATILE, PEER, Child, Lab
from loadtest.folders import temporary_folder
from loadtest.serving import Served

CREATES = 1_000
"""Of one turn: osmo-ggsn holds 1,024 contexts."""
WINDOWS = 64, 1
GENERATOR_CPU, GATEWAY_CPU = 0, 1
BUSY_SHARE = 0.8
"""Of its CPU; a gateway that got less while its window was full shared it, or waited for its disk."""
FLOORS = {"volatile": 1.0, "durable": 0.7}
P99_MS_MAX = {"volatile": 10.0, "durable": 50.0}
READY_S_MAX, RSS_MIB_MAX, PAUSE_MS_MAX = 5.0, 1_049, 50.0
FREE_SIMS = 65_000
"""Of a store with sessions: those that attach while the others are held."""
START_S = 300.0


PARTS = "rates", "held", "most"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. ``held`` and ``most`` are sessions that are there before."""

    rounds: int = 7
    held: int = 100_000
    paced_s: float = 8.0
    most: int = 1_000_000
    pauses_s: float = 20.0
    parts: tuple[str, ...] = PARTS


QUICK = Plan(rounds=1, held=2_000, paced_s=1.0, most=4_000, pauses_s=2.0)
"""For a test of the benchmark itself: its figures say nothing."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One under test."""

    pid: int
    address: str


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two CPUs"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    return ""


def _why_no_peer() -> str:
    return "" if shutil.which("osmo-ggsn") else "osmo-ggsn is not installed (Debian package osmo-ggsn)"


async def _measure(plan: Plan) -> list[dict[str, Any]]:
    with Lab() as lab, temporary_folder("gtpc") as folder:
        load = lab.start_module("ran", "loadtest.bench.gtpc_load", PEER, cpu=GENERATOR_CPU)
        rows, half = await _rates(lab, folder, load, plan)
        if "held" in plan.parts:
            rows += await _held(lab, folder, load, plan, half)
        if "most" in plan.parts:
            rows += await _most(lab, folder, load, plan)
        return rows


# -- how many a second ----------------------------------------------------------------------------------


async def _rates(
    lab: Lab, folder: Path, load: Child, plan: Plan
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows, and what each of ours did a second at most."""
    trials: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    async with (
        _durable(lab, folder / "rates", sims=CREATES, sessions=0) as (durable, _),
        _volatile(lab, sims=CREATES, sessions=0) as volatile,
    ):
        gateways = {"volatile": volatile, "durable": durable}
        if not _why_no_peer():
            gateways = {"peer": Gateway(0, OSMO), **gateways}
        for number in range(plan.rounds + 1):
            for who, version, window in _turns(gateways):
                if who == "peer":
                    gateways["peer"] = await _fresh_peer(lab, load, gateways["peer"])
                found = await _storm(load, gateways[who], version, window)
                if number or not plan.rounds > 1:  # the first round is the interpreter's
                    trials.setdefault((who, version, window), []).append(found)
    rows = [
        _rate_row(who, version, window, trials[who, version, window], trials.get(("peer", version, window)))
        for who, version, window in _turns(FLOORS)
    ]
    half = {
        who: statistics.median(each["per_s"] for each in trials[who, 1, WINDOWS[0]]) / 2 for who in FLOORS
    }
    return rows, half


async def _fresh_peer(lab: Lab, load: Child, last: Gateway) -> Gateway:
    """Its memory of answers holds 1,024; once that is full it keeps none, and looks cheaper than it is."""
    lab.kill(last.pid)
    pid = lab.start_osmo_ggsn(shutil.which("osmo-ggsn") or "", GATEWAY_CPU)
    await _turn(load, {"turn": "wait", "gateway": OSMO})
    return Gateway(pid, OSMO)


def _turns(gateways: Sequence[str] | dict[str, Any]) -> list[tuple[str, int, int]]:
    """Neighbours are compared: so by version and window, and of these each gateway."""
    return [
        (who, version, window)
        for version in (1, 2)
        for window in WINDOWS
        for who in gateways
        if who != "peer" or version == 1
    ]


async def _storm(load: Child, gateway: Gateway, version: int, window: int) -> dict[str, Any]:
    count = CREATES if window > 1 else CREATES // 2
    ask = {"turn": "storm", "gateway": gateway.address, "pid": gateway.pid, "version": version}
    found: dict[str, Any] = await _turn(load, {**ask, "window": window, "first": 0, "count": count})
    return found


async def _turn(load: Child, ask: dict[str, Any]) -> Any:
    """A turn of the load; meanwhile this process sleeps."""
    load.tell(ask)
    return await asyncio.to_thread(load.answer)


def _rate_row(
    who: str, version: int, window: int, ours: list[dict[str, Any]], peer: list[dict[str, Any]] | None
) -> dict[str, Any]:
    floor = FLOORS[who] if version == 1 else None
    row: dict[str, Any] = {
        "name": f"GTPv{version} creates, {who}, window {window}",
        "ours": round(_median(ours, "per_s")),
        "peer": None,
        "unit": "sessions/s",
        "ratio": None,
        "floor": floor,
        "ok": None,
        "ours_cpu_us": round(_median(ours, "cpu_us"), 1),
        "generator_max_per_s": round(1e6 / _median(ours, "own_us")),
        "limits": _limits("ours", ours, window),
    }
    if version == 2:
        return {**row, "why": "osmo-ggsn does not speak version 2"}
    if peer is None:
        return {**row, "why": _why_no_peer()}
    pairs = list(zip(ours, peer, strict=True))
    ratio = statistics.median(a["per_s"] / b["per_s"] for a, b in pairs)
    cpu_ratio = statistics.median(b["cpu_us"] / a["cpu_us"] for a, b in pairs)
    return {
        **row,
        "peer": round(_median(peer, "per_s")),
        "ratio": round(ratio, 3),
        "ok": floor is not None and min(ratio, cpu_ratio) >= floor,
        "peer_cpu_us": round(_median(peer, "cpu_us"), 1),
        "cpu_ratio": round(cpu_ratio, 3),
        "limits": row["limits"] + _limits("osmo-ggsn", peer, window),
    }


def _limits(who: str, trials: list[dict[str, Any]], window: int) -> list[str]:
    """What stood in the way of a side other than the gateway itself."""
    limits = []
    share = statistics.median(each["per_s"] * each["cpu_us"] / 1e6 for each in trials)
    own = statistics.median(each["per_s"] * each["own_us"] / 1e6 for each in trials)
    if window > 1 and share < BUSY_SHARE:
        limits.append(f"{who} had {share:.0%} of its CPU: trust cpu_ratio")
    if window > 1 and own > BUSY_SHARE:
        limits.append(f"the generator is the limit of {who}")
    if repeats := sum(each["repeats"] for each in trials):
        limits.append(f"{repeats} requests to {who} were sent again")
    return limits


# -- while many are held --------------------------------------------------------------------------------


async def _held(
    lab: Lab, folder: Path, load: Child, plan: Plan, half: dict[str, float]
) -> list[dict[str, Any]]:
    sims = plan.held + FREE_SIMS
    rows = []
    async with _volatile(lab, sims=sims, sessions=plan.held) as gateway:
        rows.append(await _paced_row(load, gateway, plan, "volatile", half["volatile"]))
    async with _durable(lab, folder / "held", sims=sims, sessions=plan.held) as (gateway, served):
        rows.append(await _paced_row(load, gateway, plan, "durable", half["durable"]))
        ready = [served.ready_after_s]
        for _ in range(2):
            await served.kill()
            await served.start()
            ready.append(served.ready_after_s)
        ready_s = statistics.median(ready)
        name = f"kill -9 with {plan.held:,} sessions: serving again after"
        rows.append(_row(name, round(ready_s, 2), "s", READY_S_MAX, ok=ready_s <= READY_S_MAX))
    return rows


async def _paced_row(load: Child, gateway: Gateway, plan: Plan, who: str, rate: float) -> dict[str, Any]:
    found = await _paced(load, gateway, rate=rate, seconds=plan.paced_s, first=plan.held)
    name = f"GTPv1 creates, {who}, half load with {plan.held:,} sessions: p99"
    bound = P99_MS_MAX[who]
    p99_ms = found["p99_ms"]
    is_good = _all_accepted(found) and p99_ms <= bound
    told = {key: found[key] for key in ("asked", "answered", "refused")} | {
        "max_ms": round(found["max_ms"], 1)
    }
    return _row(name, round(p99_ms, 2), "ms", bound, ok=is_good, rate=round(rate), **told)


def _all_accepted(found: dict[str, Any]) -> bool:
    return bool(found["answered"] == found["asked"] and not found["refused"])


async def _paced(load: Child, gateway: Gateway, *, rate: float, seconds: float, first: int) -> dict[str, Any]:
    count = min(int(rate * seconds), FREE_SIMS)
    ask = {"turn": "paced", "gateway": gateway.address, "version": 1, "rate": rate}
    found: dict[str, Any] = await _turn(load, {**ask, "first": first, "count": count})
    return found


# -- as many as there may be ----------------------------------------------------------------------------


async def _most(lab: Lab, folder: Path, load: Child, plan: Plan) -> list[dict[str, Any]]:
    async with _durable(lab, folder / "most", sims=plan.most + 5_000, sessions=plan.most) as (
        gateway,
        served,
    ):
        await asyncio.sleep(plan.pauses_s / 4)
        found = await _paced(load, gateway, rate=100.0, seconds=plan.pauses_s, first=plan.most)
        rss = _memory_mib(gateway.pid)
    held = f"{plan.most:,} sessions held"
    return [
        _row(
            f"{held}: memory",
            rss["VmRSS"],
            "MiB",
            RSS_MIB_MAX,
            ok=rss["VmRSS"] <= RSS_MIB_MAX,
            own_mib=rss["RssAnon"],
            slot_table_mib=rss["RssFile"] + rss["RssShmem"],
            ready_s=round(served.ready_after_s, 1),
        ),
        _row(
            f"{held}: longest wait for an answer, 100 creates/s",
            round(found["max_ms"], 1),
            "ms",
            PAUSE_MS_MAX,
            ok=_all_accepted(found) and found["max_ms"] <= PAUSE_MS_MAX,
            p99_ms=round(found["p99_ms"], 1),
        ),
    ]


def _memory_mib(pid: int) -> dict[str, int]:
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    wanted = ("VmRSS:", "RssAnon:", "RssFile:", "RssShmem:")
    return {words[0][:-1]: int(words[1]) >> 10 for words in lines if words and words[0] in wanted}


# -- the gateways ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _durable(
    lab: Lab, folder: Path, *, sims: int, sessions: int
) -> AsyncIterator[tuple[Gateway, Served]]:
    """`airloom serve` with the role of a gateway alone."""
    engine = await SqliteEngine.open(path=folder / "airloom.db", clock=SystemClock())
    await seed(engine, sims=sims, sessions=sessions, peer=PEER)
    await engine.aclose()
    served = Served(
        folder,
        gateway_address=OURS,
        api_port=0,
        prefix=(*lab.inside("gw"), "taskset", "-c", str(GATEWAY_CPU)),
        environment={
            "AIRLOOM_NODE__ROLES": '["gateway"]',
            "AIRLOOM_GATEWAY__SESSIONS_MAX": str(2 * sims),
        },
        ready_timeout_s=START_S,
    )
    await served.start()
    try:
        assert served.process is not None, "it was started"
        yield Gateway(served.process.pid, OURS), served
    finally:
        await served.kill()


@asynccontextmanager
async def _volatile(lab: Lab, *, sims: int, sessions: int) -> AsyncIterator[Gateway]:
    module, sizes = "loadtest.bench.gtpc_volatile", (str(sims), str(sessions))
    child = lab.start_module("gw", module, OURS_VOLATILE, *sizes, PEER, cpu=GATEWAY_CPU)
    await asyncio.to_thread(child.answer)
    try:
        yield Gateway(child.pid, OURS_VOLATILE)
    finally:
        child.end_input()
        await asyncio.to_thread(child.wait)


# -- rows -----------------------------------------------------------------------------------------------


def _median(trials: list[dict[str, Any]], field: str) -> float:
    values: list[float] = [each[field] for each in trials]
    return statistics.median(values)


def _row(
    name: str, ours: float | None, unit: str, floor: float, *, ok: bool | None, **more: Any
) -> dict[str, Any]:
    common = {"name": name, "ours": ours, "peer": None, "unit": unit, "ratio": None}
    return {**common, "floor": floor, "ok": ok, **more}


def bench(*, json: bool = False, plan: Plan = Plan()) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``."""
    if why := _why_not():
        rows = [
            _row(f"GTPv1 creates, {who}, window {window}", None, "sessions/s", FLOORS[who], ok=None, why=why)
            for who, version, window in _turns(FLOORS)
            if version == 1
        ]
    else:
        began = time.monotonic()
        rows = asyncio.run(_measure(plan))
        print(f"measured in {time.monotonic() - began:.0f} s")
    return report("gtpc", rows, _line, json=json)


def _line(row: dict[str, Any]) -> str:
    if row["ours"] is None:
        return f"{row['name']}: not run, {row['why']}"
    told = ("peer", "ratio", "cpu_ratio", "ours_cpu_us", "peer_cpu_us", "rate", "refused", "max_ms", "p99_ms")
    more = ("generator_max_per_s", "own_mib", "slot_table_mib", "ready_s", "why")
    beside = [f"{what} {row[what]}" for what in (*told, *more) if row.get(what) is not None]
    kept = {True: "kept", False: "MISSED", None: "not judged"}[row["ok"]]
    floor = "" if row["floor"] is None else f" (floor {row['floor']}: {kept})"
    return ", ".join(
        [f"{row['name']}: {row['ours']:,} {row['unit']}{floor}", *beside, *row.get("limits", [])]
    )


def main(argv: Sequence[str]) -> int:
    """`./run bench gtpc`: exit code 1 only when a floor was measured and missed."""
    parser = argparse.ArgumentParser(prog="./run bench gtpc", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--rounds", type=int, default=Plan().rounds, help="turns of each gateway (default 7)")
    parser.add_argument("--quick", action="store_true", help="try the benchmark; the figures say nothing")
    parser.add_argument("--only", choices=PARTS, help="the rates, and this part")
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else replace(Plan(), rounds=options.rounds)
    if options.only:
        plan = replace(plan, parts=(options.only,))
    return 1 if bench(json=options.json, plan=plan)["ok"] is False else 0
