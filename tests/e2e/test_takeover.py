"""A node dies and another one goes on: a share of `./run prove nodes`."""

import asyncio
import json
import sys

import pytest

from loadtest.serving import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra, pytest.mark.kinesis]


@pytest.mark.parametrize("how", ["", "drain"])
async def test_the_holder_is_killed_or_drained_and_nobody_notices(how: str) -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.proofs.kill_nodes", "4", "7", *how.split()),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await run.communicate()
    finding = json.loads(output.splitlines()[-1])
    assert finding["ok"], finding
    assert finding["takeovers"] >= 4
    assert bool(finding["others_killed"]) is (not how)
