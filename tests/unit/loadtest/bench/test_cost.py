"""No operation costs more calls than its budget, and counting it again gives the same.

The calls are counted in processes of their own: what a test run puts around calls would be counted, too.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from loadtest.bench.cost import BUDGETS, PYTHON
from loadtest.bench.cost_operations import OPERATIONS
from loadtest.serving import ROOT

AGAIN = "GTPv1 create, durable", "RADIUS interim, durable"
"""Those with threads, which would not find the same each time if they were let."""
SAME = "ours", "python_functions", "c_functions", "other_threads", "tasks", "clock_readings", "statements"

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != PYTHON,
    reason=f"the budgets of calls are for Python {PYTHON[0]}.{PYTHON[1]}: another one makes other calls",
)


def _counted(hash_seed: str, *names: str) -> dict[str, dict[str, Any]]:
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench", "cost", "--json", *only],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}


def _too_many(row: dict[str, Any], which: str, most: float) -> str:
    return (
        f"{row['name']}: {row[which]} calls ({which}), at most {most}; the callers:"
        f" `./run bench cost --top 40 --only '{row['name']}'`; the budgets are in loadtest/bench/cost.py"
    )


def test_every_operation_is_within_its_budget_and_is_counted_alike_again() -> None:
    assert BUDGETS.keys() == OPERATIONS.keys()
    with ThreadPoolExecutor(2) as both:
        first, second = both.submit(_counted, "1"), both.submit(_counted, "2", *AGAIN)
        rows, again = first.result(), second.result()
    for name, budget in BUDGETS.items():
        row = rows[name]
        assert row["ours"] <= budget.loop, _too_many(row, "ours", budget.loop)
        assert row["other_threads"] <= budget.others, _too_many(row, "other_threads", budget.others)
    for name in AGAIN:
        assert [rows[name][what] for what in SAME] == [again[name][what] for what in SAME]
