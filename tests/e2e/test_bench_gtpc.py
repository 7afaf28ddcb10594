"""The benchmark of sessions runs to its end, with osmo-ggsn beside it; its figures are not looked at."""

import json
import subprocess
import sys

import pytest

from loadtest.serving import ROOT

RUN_S = 240


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("osmo-ggsn", "ip", "nsenter", "taskset")
def test_every_row_of_the_quick_run_has_a_figure() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.bench", "gtpc", "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=RUN_S,
    )
    assert ended.returncode in (0, 1), ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["rows"]
    assert len(rows) == 13
    for row in rows:
        assert row["ours"] is not None, row
        assert row["peer"] is not None or not row["name"].startswith("GTPv1 creates") or "p99" in row["name"]
