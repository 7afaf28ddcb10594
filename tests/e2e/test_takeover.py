"""A node dies and another one goes on: a share of `./run prove nodes`."""

import asyncio
import json
import sys

import pytest

from loadtest.prove import prove_nodes
from loadtest.serving import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra, pytest.mark.kinesis]


def test_any_node_is_killed_and_nobody_notices() -> None:
    """As root with an SGSN by others; the seed draws each of the three."""
    finding = prove_nodes(4, 3)
    assert finding["ok"], finding
    assert set(finding["killed"]) == {"node-1", "node-2", "node-3"}
    assert finding["takeovers"] >= 1
    assert finding["holdings"] >= 4


async def test_the_holder_is_drained_and_nobody_notices() -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.killing_nodes", "4", "7", "drain"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await run.communicate()
    finding = json.loads(output.splitlines()[-1])
    assert finding["ok"], finding
    assert finding["takeovers"] >= 4
