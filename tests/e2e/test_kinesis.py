"""Kinesis by others: the demo on it, and a split and a merge while devices talk and consumers are killed."""

import asyncio
import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from core.adapters.clock import SystemClock
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.kinesis import KinesisStream
from core.domain.message import DeviceMessage
from core.domain.usage import day_of
from core.errors import ConfigurationError, Unavailable
from core.services.metering.message_meter import MessageMeter
from core.services.running.audit import AuditTrail
from core.services.running.faults import Faults
from core.services.streaming.consumer import Consumer
from core.services.streaming.delivery import Delivery
from loadtest.external import kinesis
from loadtest.outcome import payloads_by_imsi
from loadtest.proofs.prove import prove_edge
from loadtest.serving import ROOT
from loadtest.simulation.virtual import SeededEntropy

pytestmark = [pytest.mark.e2e, pytest.mark.kinesis]

IMSIS = [f"44010{n:010d}" for n in range(12)]
MESSAGES = 60


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in kinesis.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize("server", kinesis.SERVERS)
def test_the_demo_adds_up_on_kinesis(server: str) -> None:
    with kinesis.served(server) as endpoint:
        ended = subprocess.run(
            [
                sys.executable, "-m", "loadtest.demo", "--json", "--sims", "9", "--messages", "10",
                "--stream", "kinesis", "--endpoint", endpoint,
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert result["messages"]["in_stream"] == result["messages"]["acked"] == 60


def test_kills_under_every_kind_of_traffic_lose_and_disorder_nothing() -> None:
    """A share of the kills that `./run prove edge` does."""
    result = prove_edge(4, seed=3, layout="one")
    assert result["ok"], result
    assert result["faults"]["error_after"] + result["faults"]["cut_after"] > 0
    assert result["repeated_by_stream"] > 0, "what was stored and not heard of is put again"


def message(imsi: str, number: int) -> DeviceMessage:
    return DeviceMessage(
        "session", f"sim-{imsi}", imsi, "", "OP0000000001", "mqtt", "mqtt://edge", b"%d" % number,
        datetime.now(UTC),
    )  # fmt: skip


async def talk(delivery: Delivery, imsi: str) -> None:
    for number in range(MESSAGES):
        await delivery.deliver(message(imsi, number))
        await asyncio.sleep(0.05)


async def reshard(sdk: Any, stream: str) -> None:
    """Split the first shard in the middle, then merge what came of it."""
    shard = (await sdk.list_shards(StreamName=stream))["Shards"][0]
    keys = shard["HashKeyRange"]
    middle = (int(keys["StartingHashKey"]) + int(keys["EndingHashKey"])) // 2
    await asyncio.sleep(0.6)
    await sdk.split_shard(StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle))
    await kinesis.wait_until_active(sdk, stream)
    await asyncio.sleep(1.0)
    shards = (await sdk.list_shards(StreamName=stream))["Shards"]
    one, other = [each["ShardId"] for each in shards if each.get("ParentShardId") == shard["ShardId"]]
    await sdk.merge_shards(StreamName=stream, ShardToMerge=one, AdjacentShardToMerge=other)
    await kinesis.wait_until_active(sdk, stream)


async def consume(
    stream: KinesisStream, store: WideColumnStore, dice: random.Random, done: asyncio.Event
) -> None:
    """One worker after the other, each killed at a random point, until all is counted."""
    meter = MessageMeter(counts=store.message_counts)
    while not done.is_set():
        consumer = Consumer(
            stream=stream, leases=store.shard_leases, clock=SystemClock(), application="meter",
            owner="one", effect=meter.count, poll_s=0.1, faults=Faults(clock=SystemClock()),
            audit=AuditTrail(
                audit=store.audit, clock=SystemClock(), entropy=SeededEntropy(dice), actor="one"
            ),
        )  # fmt: skip
        running = asyncio.create_task(consumer.run())
        await asyncio.wait([running, asyncio.create_task(done.wait())], timeout=0.3 + dice.random(),
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        running.cancel()
        await asyncio.wait([running])


async def counted(store: WideColumnStore) -> dict[str, int]:
    rows = {imsi: await store.message_counts.get(imsi, day_of(datetime.now(UTC))) for imsi in IMSIS}
    return {imsi: row.count if row else 0 for imsi, row in rows.items()}


@pytest.mark.parametrize("server", kinesis.SERVERS)
async def test_a_split_and_a_merge_under_traffic_lose_and_disorder_nothing(server: str) -> None:
    dice = random.Random(7)
    clock = SystemClock()
    with kinesis.served(server) as endpoint:
        await kinesis.create_stream(endpoint, "resharded", shards=2)
        stream = await KinesisStream.open(name="resharded", region=kinesis.REGION, endpoint=endpoint)
        store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=clock), clock=clock)
        delivery = Delivery(stream=stream, clock=clock, entropy=SeededEntropy(dice))
        delivering = asyncio.create_task(delivery.run())
        done = asyncio.Event()
        consuming = asyncio.create_task(consume(stream, store, dice, done))
        async with kinesis.client(endpoint) as sdk, asyncio.TaskGroup() as traffic:
            traffic.create_task(reshard(sdk, "resharded"))
            for imsi in IMSIS:
                traffic.create_task(talk(delivery, imsi))
        async with asyncio.timeout(120):
            while set((await counted(store)).values()) != {MESSAGES}:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)
        assert set((await counted(store)).values()) == {MESSAGES}, "and no more than that"
        done.set()
        await consuming
        delivering.cancel()
        await asyncio.wait([delivering])
        stored = payloads_by_imsi(await kinesis.read_stream(endpoint, "resharded"))
        for imsi in IMSIS:
            assert [int(payload) for payload in stored[imsi]] == list(range(MESSAGES)), imsi
        assert len(await stream.shards()) == 5, "two, two of a split, one of a merge"
        await stream.aclose()


async def test_what_cannot_be_used_is_said_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with kinesis.served("kinesalite") as endpoint:
        with pytest.raises(ConfigurationError, match=r"stream.kinesis: absent at http.*create the stream"):
            await KinesisStream.open(name="absent", region=kinesis.REGION, endpoint=endpoint)
        await kinesis.create_stream(endpoint, "there", shards=1)
        stream = await KinesisStream.open(name="there", region=kinesis.REGION, endpoint=endpoint)
    with pytest.raises(Unavailable):
        await stream.shards()
    await stream.aclose()
    for variable in kinesis.ENVIRONMENT:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(ConfigurationError, match=r"stream.kinesis: no AWS credentials or no region"):
        await KinesisStream.open(name="there")
