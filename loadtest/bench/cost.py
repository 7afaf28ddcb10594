"""``./run bench cost``: The calls, tasks, clock readings, statements and rows of each operation.

Rules: counts are the same on every machine and under any load, so that one additional call shows; two runs
agree exactly. An operation is counted in its steady state, as the average of some batches (``cost_counting``,
``cost_world``, ``cost_operations``). ``BUDGETS`` apply to one version of Python, because others make other
calls; elsewhere no row is judged. An operation may not exceed its budget. Lower a budget when the code gets
leaner; raise it only with a reason in the commit message. ``blocks_kept`` are the memory blocks that an
operation leaves (``sys.getallocatedblocks``), to one or two; blocks that it frees are not counted.
"""

import argparse
import gc
import json as json_
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from loadtest.bench import cost_instructions
from loadtest.bench.cost_counting import Called, Caller, Counts, run_counted
from loadtest.bench.cost_operations import COUNTED, OPERATIONS, WARM
from loadtest.bench.reporting import report
from loadtest.serving import ROOT

PYTHON = (3, 11)
"""The version that ``BUDGETS`` are for."""


class Budget(NamedTuple):
    """Calls of one operation, at most: on the loop's thread, and on all others."""

    loop: float
    others: float


BUDGETS = {
    "GTPv1 create, volatile": Budget(466, 0),
    "GTPv1 create, durable": Budget(451, 78.5),
    "GTPv2 create, volatile": Budget(523, 0),
    "GTPv2 create, durable": Budget(508, 78.5),
    "RADIUS authentication": Budget(114, 0),
    "RADIUS interim, durable": Budget(155, 8.7),
    "MQTT publish, QoS 1": Budget(62.5, 0),
    "UDP message": Budget(93, 0),
    "G-PDU up": Budget(9.5, 0),
    "G-PDU down": Budget(9.5, 0),
    "API getSim": Budget(486, 39),
    "API page of 100 SIMs": Budget(2_938, 931),
}


def measure(name: str, *, by_place: bool = False) -> tuple[Counts, int]:
    """Count one operation; the counts, and of how many."""
    counts, number = Counts(by_place=by_place), 0

    async def main() -> None:
        nonlocal number
        async with OPERATIONS[name](counts) as batch:
            for warm in range(WARM):
                await batch(warm)
            gc.collect()
            gc.disable()
            try:
                with counts.on():
                    for counted in range(WARM, WARM + COUNTED):
                        number += await batch(counted)
            finally:
                gc.enable()

    run_counted(counts, main)
    return counts, number


def row_of(name: str, counts: Counts, number: int) -> dict[str, Any]:
    """As it is printed; every figure is of one operation."""

    def each(count: int) -> float:
        return round(count / number, 2)

    loop, others, budget = counts.loop, counts.others, BUDGETS[name]
    ours, beside = each(loop.python + loop.c), each(others.python + others.c)
    is_judged = sys.version_info[:2] == PYTHON
    row = {
        "name": name,
        "ours": ours,
        "peer": None,
        "unit": "calls on the loop's thread",
        "ratio": None,
        "floor": budget.loop,
        "ok": ours <= budget.loop and beside <= budget.others if is_judged else None,
        "python_functions": each(loop.python),
        "c_functions": each(loop.c),
        "other_threads": beside,
        "other_threads_floor": budget.others,
        "tasks": each(counts.tasks),
        "clock_readings": each(loop.readings + others.readings),
        "statements": each(counts.statements),
        "rows_written": each(counts.rows_written),
        "blocks_kept": round(counts.blocks_kept / number),
        "instructions": None,
    }
    if not is_judged:
        row["why"] = f"budgets are for Python {PYTHON[0]}.{PYTHON[1]}"
    return row


def bench(
    names: Sequence[str], *, json: bool = False, instructions: bool = False, tree: Path | None = None
) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``."""
    rows = [row_of(name, *measure(name)) for name in names]
    before = _of_tree(tree, names) if tree is not None else {}
    for row in rows:
        if instructions:
            row.update(cost_instructions.measure(row["name"]))
        else:
            row["why_no_instructions"] = "--instructions asks for them"
        if row["name"] in before:
            row["peer"] = before[row["name"]]["ours"]
            row["ratio"] = round(row["peer"] / row["ours"], 3)
    return report("cost", rows, _line, json=json)


def _of_tree(tree: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of another checkout, by name; raises ``RuntimeError`` when it has no such benchmark."""
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-m", "loadtest.bench", "cost", "--json", *only]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    try:
        rows = json_.loads(done.stdout.splitlines()[-1])["rows"]
    except (IndexError, ValueError) as error:
        raise RuntimeError(f"{tree}: cannot be counted: {done.stderr.strip()[-500:]}") from error
    return {row["name"]: row for row in rows}


def _line(row: dict[str, Any]) -> str:
    kept = {True: "kept", False: "MISSED", None: "not judged"}[row["ok"]]
    before = "" if row["peer"] is None else f", before {row['peer']}"
    more = [
        f"{row['python_functions']} of Python and {row['c_functions']} of C",
        f"{row['other_threads']} on other threads (at most {row['other_threads_floor']})",
        f"tasks {row['tasks']}, clock {row['clock_readings']}",
        f"statements {row['statements']}, rows written {row['rows_written']}",
        f"blocks kept {row['blocks_kept']}",
    ]
    if row["instructions"] is not None:
        more.append(f"instructions {row['instructions']:,}")
    return f"{row['name']}: {row['ours']} calls (at most {row['floor']}: {kept}){before}; {', '.join(more)}"


# -- where the calls go ---------------------------------------------------------------------------------


def print_places(name: str, top: int) -> None:
    """The functions that are called most often in one operation, and by whom."""
    counts, number = measure(name, by_place=True)
    for thread, calls in (("the loop's thread", counts.loop), ("other threads", counts.others)):
        total = calls.python + calls.c
        print(f"\n{name}, {thread}: {total / number:.2f} calls")
        callers: dict[Called, Counter[Caller | None]] = {}
        for (called, caller), count in calls.by_place.items():
            callers.setdefault(called, Counter())[caller] += count
        for called, by in sorted(callers.items(), key=lambda each: -each[1].total())[:top]:
            print(f"{by.total() / number:8.2f}  {_function(called)}")
            for caller, count in by.most_common(6):
                print(f"{count / number:16.2f}  {_place(caller)}")


def _function(called: Called) -> str:
    if isinstance(called, CodeType):
        return f"{called.co_qualname}  {_path(called)}:{called.co_firstlineno}"
    return f"{called}  (C)"


def _place(caller: Caller | None) -> str:
    return "the loop" if caller is None else f"{_path(caller[0])}:{caller[1]} {caller[0].co_qualname}"


def _path(code: CodeType) -> str:
    path = Path(code.co_filename)
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return "/".join(path.parts[-2:])


def main(argv: Sequence[str]) -> int:
    """`./run bench cost`: exit code 1 only when a budget is exceeded."""
    parser = argparse.ArgumentParser("./run bench cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--only", action="append", metavar="NAME", help="operations with NAME in their name")
    parser.add_argument("--tree", type=Path, help="another checkout, counted as the peer: the one before")
    parser.add_argument(
        "--instructions", action="store_true",
        help="user instructions, too, by valgrind's callgrind: a minute for each operation",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=int, metavar="N", help="instead, the N functions called most often, and by whom"
    )
    options = parser.parse_args(argv)
    names = [
        name
        for name in OPERATIONS
        if not options.only or any(each.lower() in name.lower() for each in options.only)
    ]
    if not names:
        parser.error(f"no operation has that in its name; there are {'; '.join(OPERATIONS)}")
    if options.top:
        for name in names:
            print_places(name, options.top)
        return 0
    tree = options.tree.absolute() if options.tree else None
    figures = bench(names, json=options.json, instructions=options.instructions, tree=tree)
    return 1 if figures["ok"] is False else 0
