"""A served node whose readers meet what can never be read in Kinesis: it lives, attaches go on."""

# ruff: noqa: ASYNC110 - what is awaited happens in another process

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.api_client import ApiClient
from loadtest.external import kinesis
from loadtest.external.kinesis_front import Faults, Front
from loadtest.peers.sgsn import Sgsn
from loadtest.serving import Served, free_gateway_address, free_tcp_port

pytestmark = [pytest.mark.e2e, pytest.mark.kinesis]

NAME = "devices"
WITHIN_S = 60.0
CALM = Faults(0, 0, 0, 0, 0, 0)


class Stage:
    """A node, a front before its Kinesis, and a producer beside it."""

    def __init__(self, served: Served, front: Front, sdk: Any, endpoint: str) -> None:
        self.served, self.front, self.sdk, self.endpoint = served, front, sdk, endpoint
        self.put_so_far = 0

    async def put(self, data: bytes) -> None:
        await self.sdk.put_record(StreamName=NAME, Data=data, PartitionKey="other")

    async def message(self) -> None:
        self.put_so_far += 1
        record: dict[str, object] = {
            "imsi": "440100000000001",
            "operatorId": "OP0000000001",
            "payloads": "AA==",
        }
        record |= {"recordId": f"r{self.put_so_far}", "timestamp": 1_796_000_000_000}
        await self.put(json.dumps(record).encode())

    async def until(self, series: str, least: float) -> None:
        """Wait for a metric of the node, which must live."""
        async with asyncio.timeout(WITHIN_S):
            while (await asyncio.to_thread(self.served.metrics)).get(series, 0) < least:
                await asyncio.sleep(0.2)

    async def standing(self) -> str:
        """What an operator sees of it."""
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "airloom", "node", "status"),
            env=self.served.variables,
            stdout=asyncio.subprocess.PIPE,
        )
        return (await asked.communicate())[0].decode()

    async def attach(self) -> None:
        sgsn = Sgsn(
            network=UdpNetwork(),
            address=free_gateway_address("127.0.1"),
            gateway=self.served.gateway_address,
            entropy=SystemEntropy(),
        )
        async with ApiClient(self.served.endpoint) as customer, sgsn.running():
            await customer.sign_up(f"{self.put_so_far}@example.com", "Aa1-still-attaches")
            sim = await customer.new_sim()
            imsi = next(iter(sim["profiles"].values()))["primaryImsi"]
            await sgsn.attach(imsi=imsi, apn="soracom.io")


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    control_port = free_tcp_port("127.0.0.1", 0)
    front_port = free_tcp_port("127.0.0.1", 0)
    with kinesis.served("kinesis-local") as endpoint:
        await kinesis.create_stream(endpoint, NAME, shards=1)
        front = Front(endpoint, CALM, 0)
        async with front.served(front_port) as front_endpoint, kinesis.client(endpoint) as sdk:
            served = Served(
                folder,
                gateway_address=free_gateway_address(),
                api_port=free_tcp_port("127.0.0.1", 0),
                control_port=control_port,
                environment={
                    **kinesis.ENVIRONMENT,
                    "AIRLOOM_CONTROL__SECRET": "a secret of the readers' test",
                    "AIRLOOM_STREAM__KINESIS": NAME,
                    "AIRLOOM_STREAM__ENDPOINT": front_endpoint,
                    "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
                    "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
                    "AIRLOOM_API__SANDBOX": "true",
                },
            )
            await served.start()
            try:
                yield Stage(served, front, sdk, endpoint)
            finally:
                await served.stop()


COUNTED = "airloom_messages_counted_total"
POSITION = 'airloom_loop_faults_total{fault="position",loop="message-meter"}'
FOREIGN = 'airloom_records_passed_over_total{kind="foreign"}'


async def test_foreign_records_and_positions_that_are_lost(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.message()
        await stage.until(COUNTED, 1)

        foreign = {"imsi": "", "operatorId": "OP0000000001", "recordId": "x" * 26, "payloads": "AA=="}
        await stage.put(json.dumps({**foreign, "timestamp": 1_796_000_000_000}).encode())
        await stage.put(b"\xff\xfe\x00\x01")
        await stage.message()
        await stage.until(COUNTED, 2)
        await stage.until(FOREIGN, 2)

        stage.front.refuse("GetRecords", "ExpiredIteratorException", "Iterator expired.")
        stage.front.refuse(
            "GetShardIterator",
            "InvalidArgumentException",
            "StartingSequenceNumber 49 is no longer available",
            asked="AFTER_SEQUENCE_NUMBER",
        )
        await stage.until(POSITION, 1)
        await stage.message()
        await stage.until(COUNTED, 3)

        assert await stage.served.stop() == 0
        await kinesis.delete_stream(stage.endpoint, NAME)
        await kinesis.wait_until_gone(stage.endpoint, NAME)
        await kinesis.create_stream(stage.endpoint, NAME, shards=1)
        await stage.served.start()
        await stage.message()
        await stage.until(COUNTED, 1)
        await stage.until(POSITION, 1)
        await stage.attach()


async def test_a_stream_that_is_deleted_under_a_node(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.message()
        await stage.until(COUNTED, 1)
        await kinesis.delete_stream(stage.endpoint, NAME)
        await kinesis.wait_until_gone(stage.endpoint, NAME)
        await stage.until("airloom_loops_standing", 1)
        await stage.attach()
        async with asyncio.timeout(WITHIN_S):
            while "message-meter: stalled: source:" not in await stage.standing():
                await asyncio.sleep(0.5)
        await kinesis.create_stream(stage.endpoint, NAME, shards=1)
        await stage.message()
        await stage.until(COUNTED, 2)
