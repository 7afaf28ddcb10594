"""Each role on nodes of its own, over Cassandra and Kinesis: what holds in one process holds here too."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from loadtest.prove import prove_edge
from loadtest.serving import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra, pytest.mark.kinesis]


def test_the_demo_adds_up() -> None:
    ended = subprocess.run(
        [
            sys.executable, "-m", "loadtest.demo", "--json", "--layout", "spread", "--sims", "12",
            "--messages", "10",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert result["messages"]["in_stream"] == result["messages"]["acked"] == 80
    assert result["not_run"] == []


def test_kills_of_edge_meter_and_gateway_lose_and_disorder_nothing() -> None:
    """A share of `./run prove edge --layout spread`."""
    result = prove_edge(4, seed=2, layout="spread")
    assert result["ok"], result
    assert len(result["killed"]) > 1
