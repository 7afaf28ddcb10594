"""`./run bench records`: The cost of making usage durable, embedded and in Cassandra.

Several callers each write one report at a time and wait until it is durable, as accounting does. Each report
is a row of a SIM's day, overwritten as a session's counters rise. A first round over all SIMs writes the
index rows. Embedded: reports per second and the 99th percentile of a call, every commit
fsynced. Cassandra: CPU of this process, the client, per report; the server is another process, whose CPU is
shown beside. There is no peer: floors are absolute, and wall times are this machine's. Reports of one turn of
the loop share a message, as commits share an fsync. Last, two gateway processes against one
(``loadtest.bench.records_gateways``).
"""

import argparse
import asyncio
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from core.adapters.clock import SystemClock
from core.adapters.store.cassandra import CassandraEngine, migrate
from core.adapters.store.engine import Engine
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.usage import SegmentLabel, UsageReport, Volume, day_of
from loadtest.bench import records_gateways
from loadtest.bench.reporting import report
from loadtest.external import cassandra
from loadtest.folders import temporary_folder
from loadtest.measure import Histogram

SIMS, CALLERS = 10_000, 256
KEYSPACE = "airloom_bench"
REPORTS_FLOOR, P99_FLOOR_S, CASSANDRA_FLOOR_US = 20_000, 0.05, 60.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of so many reports."""

    per_s: float
    cpu_us: float
    p99_s: float
    children_us: float


async def _trial(engine: Engine, reports: int) -> Trial:
    usage = WideColumnStore(engine=engine, clock=SystemClock()).usage
    day = day_of(datetime.now(UTC))
    written, latencies = 0, Histogram()

    def report_of(number: int) -> UsageReport:
        sim = number % SIMS
        return UsageReport(
            imsi=f"00101{sim:010d}",
            session_id=f"{sim:032x}",
            operator_id="OP0000000001",
            epoch=1,
            segment=1,
            label=SegmentLabel("s1.standard", "44010"),
            day=day,
            slot=number // SIMS % 288,
            volume=Volume(number, 2 * number, number, number),
            timestamp_us=time.time_ns() // 1_000,
        )

    async def caller(until: int) -> None:
        nonlocal written
        while written < until:
            number, written = written, written + 1
            began = time.perf_counter()
            await usage.record([report_of(number)])
            latencies.add(time.perf_counter() - began)

    async def all_callers(until: int) -> None:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(caller(until))

    await all_callers(SIMS)
    latencies = Histogram()
    began, cpu, others = time.perf_counter(), time.process_time(), _children_cpu()
    await all_callers(SIMS + reports)
    elapsed = time.perf_counter() - began
    return Trial(
        per_s=reports / elapsed,
        cpu_us=(time.process_time() - cpu) / reports * 1e6,
        p99_s=latencies.percentile(99),
        children_us=(_children_cpu() - others) / reports * 1e6,
    )


def _children_cpu() -> float:
    """CPU seconds of the servers that this process started and that still run."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


async def _embedded(reports: int) -> Trial:
    with temporary_folder("records") as folder:
        engine = await SqliteEngine.open(path=folder / "airloom.db", clock=SystemClock())
        try:
            return await _trial(engine, reports)
        finally:
            await engine.aclose()


async def _in_cassandra(nodes: list[cassandra.Node], reports: int) -> Trial:
    address = cassandra.address_of(nodes, KEYSPACE)
    await migrate(address=address, replication_factor=1)
    engine = await CassandraEngine.open(address=address, clock=SystemClock())
    try:
        return await _trial(engine, reports)
    finally:
        await engine.aclose()


def bench(*, json: bool = False, rounds: int = 5, reports: int = 100_000) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``."""
    rows = _embedded_rows([uvloop.run(_embedded(reports)) for _ in range(rounds)])
    if why := cassandra.why_not():
        rows.append(_row(CASSANDRA_ROW, None, "us CPU per report", CASSANDRA_FLOOR_US, ok=None, why=why))
        rows.append(
            _row(GATEWAYS_ROW, None, "us CPU per session", records_gateways.CPU_RATIO_MAX, ok=None, why=why)
        )
    else:
        with cassandra.served() as nodes:
            trials = [uvloop.run(_in_cassandra(nodes, reports // 5)) for _ in range(rounds + 1)]
            rows.append(_cassandra_row(trials[1:]))  # the server's first trial is the compiler's
            found = uvloop.run(
                records_gateways.measure(nodes, sessions=max(reports // 500, 1), rounds=rounds)
            )
        rows.append(_gateways_row(found))
    return report(
        "records", rows, _line, json=json, peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    )


CASSANDRA_ROW = "in Cassandra, one report a call: client CPU"
GATEWAYS_ROW = "two gateway processes against one, over one Cassandra"


def _embedded_rows(trials: list[Trial]) -> list[dict[str, Any]]:
    per_s = statistics.median(trial.per_s for trial in trials)
    p99_ms = statistics.median(trial.p99_s for trial in trials) * 1e3
    cpu_us = round(statistics.median(trial.cpu_us for trial in trials), 1)
    name = f"embedded, {CALLERS} callers, one report a call"
    return [
        _row(
            f"{name}: rate",
            round(per_s),
            "durable reports/s",
            REPORTS_FLOOR,
            ok=per_s >= REPORTS_FLOOR,
            cpu_us=cpu_us,
        ),
        _row(f"{name}: p99", round(p99_ms, 1), "ms", P99_FLOOR_S * 1e3, ok=p99_ms < P99_FLOOR_S * 1e3),
    ]


def _cassandra_row(trials: list[Trial]) -> dict[str, Any]:
    cpu_us = statistics.median(trial.cpu_us for trial in trials)
    return _row(
        CASSANDRA_ROW,
        round(cpu_us, 1),
        "us CPU per report",
        CASSANDRA_FLOOR_US,
        ok=cpu_us <= CASSANDRA_FLOOR_US,
        per_s=round(statistics.median(trial.per_s for trial in trials)),
        server_us=round(statistics.median(trial.children_us for trial in trials), 1),
        p99_ms=round(statistics.median(trial.p99_s for trial in trials) * 1e3, 1),
    )


def _gateways_row(found: records_gateways.Gateways) -> dict[str, Any]:
    """Throughput where processors allow two gateways to be faster, else what a session costs them."""
    one, two = found.one, found.two
    if len(os.sched_getaffinity(0)) >= records_gateways.CPUS_FOR_RATE:
        floor = records_gateways.RATE_RATIO_MIN
        return _row(
            GATEWAYS_ROW,
            round(two.per_s),
            "sessions/s",
            floor,
            ok=found.rate_ratio >= floor,
            peer=round(one.per_s),
            ratio=round(found.rate_ratio, 2),
        )
    floor = records_gateways.CPU_RATIO_MAX
    return _row(
        GATEWAYS_ROW,
        round(two.cpu_us),
        "us CPU per session",
        floor,
        ok=found.cpu_ratio <= floor,
        peer=round(one.cpu_us),
        ratio=round(found.cpu_ratio, 2),
        per_s=round(two.per_s),
        note="Cassandra and the SGSNs share these processors: they bound the rate, not the gateways",
    )


def _row(
    name: str, ours: float | None, unit: str, floor: float, *, ok: bool | None, **more: Any
) -> dict[str, Any]:
    common = {"name": name, "ours": ours, "peer": None, "unit": unit, "ratio": None}
    return {**common, "floor": floor, "ok": ok, **more}


def _line(row: dict[str, Any]) -> str:
    if "why" in row:
        return f"{row['name']}: not run, {row['why']}"
    told = ("peer", "ratio", "cpu_us", "per_s", "server_us", "p99_ms")
    beside = [f"{what} {row[what]:,}" for what in told if row.get(what) is not None]
    beside += [row["note"]] if "note" in row else []
    kept = "kept" if row["ok"] else "MISSED"
    return (
        f"{row['name']}: {row['ours']:,} {row['unit']} (floor {row['floor']:,}: {kept}) {', '.join(beside)}"
    )


def main(argv: Sequence[str]) -> int:
    """`./run bench records`: exit code 1 only when a floor was measured and missed."""
    parser = argparse.ArgumentParser(prog="./run bench records", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--rounds", type=int, default=5, help="counted trials of each store (default 5)")
    parser.add_argument("--reports", type=int, default=100_000, help="reports of one trial (default 100000)")
    options = parser.parse_args(argv)
    result = bench(json=options.json, rounds=options.rounds, reports=options.reports)
    return 1 if result["ok"] is False else 0
