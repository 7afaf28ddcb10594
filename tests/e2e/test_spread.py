"""Each role on nodes of its own, over Cassandra and Kinesis: what holds in one process holds here too."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.api_client import ApiClient
from loadtest.layouts import shared_parts, spread
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.ue import UserEquipment, UserEquipments
from loadtest.proofs.prove import prove_edge
from loadtest.serving import ROOT, free_gateway_address, radius_clients

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


async def test_connections_outlive_their_gateway(tmp_path: Path) -> None:
    """The gateway is killed; what devices opened to the edge goes on by way of the one that takes over."""
    async with AsyncExitStack() as stack:
        environment = await shared_parts(stack, "outlived", shards=1)
        settings = {
            "AIRLOOM_EDGE__DEVICE_NETWORK": "on",
            "AIRLOOM_RADIUS__CLIENTS": radius_clients("a secret of NASes"),
        }
        layout = spread(tmp_path, environment | settings)
        stack.push_async_callback(layout.stop)
        await layout.start()
        customer = await stack.enter_async_context(ApiClient(layout.endpoint))
        await customer.sign_up("outlived@example.com", "Aa1-connections-go-on")
        sgsn = Sgsn(
            network=UdpNetwork(),
            address=free_gateway_address("127.0.1"),
            gateway=layout.gtp[0],
            entropy=SystemEntropy(),
        )
        async with sgsn.running():
            ues = []
            for _ in range(3):
                sim = await customer.new_sim()
                imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
                ues.append(await UserEquipment.attach(sgsn, sim_id=sim["simId"], imsi=imsi, apn="soracom.io"))
            together = UserEquipments(ues)
            stack.push_async_callback(together.aclose)
            await together.start_programs(("mqtt", "http", "tcp"))  # each on its only socket
            for said in (b"before", b"after"):
                async with asyncio.timeout(30):
                    assert all(await asyncio.gather(*(ue.say(said) for ue in ues)))
                if said == b"before":
                    assert await layout.gauge("airloom_edge_links") == 2
                    assert await layout.gauge('airloom_edge_link_packets_total{event="sent"}') > 0
                    await layout.nodes["gateway-1"].kill()
            await together.stop_programs()
