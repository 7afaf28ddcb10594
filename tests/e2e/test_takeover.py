"""A node dies and another one goes on: a share of `./run prove nodes`."""

import asyncio
import json
import sys

import pytest

from loadtest.serving import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra, pytest.mark.kinesis]


async def test_the_holder_is_killed_and_nobody_notices() -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.killing_nodes", "4", "7"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await run.communicate()
    finding = json.loads(output.splitlines()[-1])
    assert finding["ok"], finding
    assert finding["takeovers"] >= 4
