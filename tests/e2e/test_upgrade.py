"""A rolling upgrade: the tables first, then node after node, while devices send; no device notices."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.tables import SCHEMA_VERSION
from loadtest.api_client import ApiClient
from loadtest.external import kinesis
from loadtest.layouts import Layout, shared_parts, spread
from loadtest.outcome import payloads_by_imsi, total_of_stats
from loadtest.peers.gtp import GtpPeer
from loadtest.peers.nas import Nas
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.proofs.kill import NAS_SECRET, attach_meter, attach_talker, report_again, talk
from loadtest.serving import free_gateway_address, radius_clients

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra, pytest.mark.kinesis]

NEXT = "tests.e2e.next_version"
STREAM = "upgraded"
SETTLE_S = 3.0
SETTINGS = {
    "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
    "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
    "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET, "127.0.0.0/8"),
    "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
}


def peer(kind: type[GtpPeer[Any]], network: str, gateway: str) -> GtpPeer[Any]:
    address = free_gateway_address(network)
    return kind(network=UdpNetwork(), address=address, gateway=gateway, entropy=SystemEntropy())


async def upgrade(layout: Layout) -> None:
    """As docs/scale.md has it: the tables, then each node, drained and started again."""
    migrating = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", NEXT, "store", "migrate"],
        env=layout.api.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"schema {SCHEMA_VERSION} before, {SCHEMA_VERSION + 1} now" in migrating.stdout, migrating
    for node in layout.nodes.values():
        await node.drain()
        node.module = NEXT
        await node.start()
        await asyncio.sleep(1.0)


async def test_from_one_version_to_the_next(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        environment = SETTINGS | await shared_parts(stack, STREAM, shards=2)
        layout = spread(tmp_path, environment)
        stack.push_async_callback(layout.stop)
        await layout.start()
        customer = await stack.enter_async_context(ApiClient(layout.endpoint))
        await customer.sign_up("upgrade@example.com", "Aa1-from-one-to-the-next")
        sgsn, sgw = peer(Sgsn, "127.0.1", layout.gtp[0]), peer(Sgw, "127.0.2", layout.gtp[1])
        nas = Nas(
            address=free_gateway_address("127.0.3"),
            authentication=(layout.radius, 1812),
            accounting=(layout.radius, 1813),
            secret=NAS_SECRET.encode(),
            network=UdpNetwork(),
            entropy=SystemEntropy(),
            repeat_s=0.3,
        )
        async with sgsn.running(), sgw.running(), nas.running():
            talkers = [await attach_talker(customer, each) for each in (sgsn, sgw) for _ in range(2)]
            meter = await attach_meter(customer, nas)
            stopped = asyncio.Event()
            async with asyncio.TaskGroup() as traffic:
                for talker in talkers:
                    traffic.create_task(talk(talker, stopped))
                traffic.create_task(report_again(nas, meter, stopped))
                await upgrade(layout)
                later = await attach_talker(customer, sgsn)  # the next version opens sessions too
                traffic.create_task(talk(later, stopped))
                await asyncio.sleep(1.0)
                stopped.set()
            await asyncio.sleep(SETTLE_S)
            assert [await each.echo() for each in (sgsn, sgw)] == [1, 1]
            assert sgsn.error_indications + sgw.error_indications == 0
        stored = payloads_by_imsi(await kinesis.read_stream(environment["AIRLOOM_STREAM__ENDPOINT"], STREAM))
        for talker in (*talkers, later):
            status = (await customer.call("GET", f"/sims/{talker.sim_id}"))["sessionStatus"]
            assert (status["online"], status["ueIpAddress"]) == (True, str(talker.context.ue_address))
            events = await customer.call("GET", f"/sims/{talker.sim_id}/events/sessions")
            assert [event["event"] for event in events] == ["Created"]
            assert talker.acknowledged
            assert set(talker.acknowledged) <= set(stored[talker.imsi])
            assert (await total_of_stats(customer, talker.sim_id))["download"] == talker.seen_bytes
        told = meter.session.acknowledged_up + meter.session.acknowledged_down
        assert sum((await total_of_stats(customer, meter.sim_id)).values()) == told > 0
