"""Servers by others that speak Kinesis' protocol: kinesis-local for its letter, kinesalite for volume.

Rules: each is a child on a free port of the loopback, gone with its block; what is stored is in memory. They
are npm packages, which `./run test` installs beside the Python ones.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aioboto3
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from core.ports.stream import StoredRecord
from loadtest.serving import DidNotStart, free_tcp_port

MODULES = Path(sys.prefix) / "npm" / "node_modules"
SERVERS = ("kinesis-local", "kinesalite")
REGION = "us-east-1"
READY_S, ACTIVE_S = 30.0, 20.0
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "a-key-of-nobody",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody",
    "AWS_DEFAULT_REGION": REGION,
}
"""What a client of these servers needs: they take any credentials."""


def why_not() -> str:
    """Why they cannot be run here; empty when they can."""
    if not shutil.which("node"):
        return "needs the program node"
    missing = [name for name in SERVERS if not (MODULES / name).is_dir()]
    return f"needs the npm packages {', '.join(missing)} (./run test installs them)" if missing else ""


@contextmanager
def served(name: str, *, prefix: Sequence[str] = (), host: str = "127.0.0.1") -> Iterator[str]:
    """The server runs inside; what is yielded is its endpoint. Blocks until it listens.

    ``prefix`` goes before its command line, to run it where ``host`` is its address.
    """
    port = free_tcp_port("127.0.0.1", 0)
    if name == "kinesalite":
        command = [str(MODULES / name / "cli.js"), "--port", str(port), "--shardLimit", "1000"]
        command += ["--createStreamMs", "20", "--updateStreamMs", "20", "--deleteStreamMs", "20"]
    else:
        command = [str(MODULES / name / "main.js")]
    environment = {
        **os.environ,
        "KINESIS_MOCK_PLAIN_PORT": str(port),
        "KINESIS_MOCK_TLS_PORT": str(free_tcp_port("127.0.0.1", 0)),
        "KINESIS_MOCK_CERT_PATH": str(MODULES / name / "server.json"),
        "SHARD_LIMIT": "1000",
        "LOG_LEVEL": "ERROR",
    }
    with subprocess.Popen(
        [*prefix, "node", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            _wait_until_listening(host, port)
            yield f"http://{host}:{port}"
        finally:
            process.kill()


def _wait_until_listening(host: str, port: int) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@asynccontextmanager
async def client(endpoint: str) -> AsyncIterator[Any]:
    """Amazon's own client, for what a test or the demo does as an operator; no ``endpoint``: Amazon's."""
    given = {"region_name": REGION, "aws_access_key_id": ENVIRONMENT["AWS_ACCESS_KEY_ID"]}
    given["aws_secret_access_key"] = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]
    session = aioboto3.Session(**given if endpoint else {})
    async with session.client("kinesis", endpoint_url=endpoint or None) as sdk:
        yield sdk


async def create_stream(endpoint: str, name: str, *, shards: int) -> None:
    """A stream, ready to be used; raises ``DidNotStart`` with what Kinesis says."""
    try:
        async with client(endpoint) as sdk:
            await sdk.create_stream(StreamName=name, ShardCount=shards)
            await wait_until_active(sdk, name)
    except NoRegionError:
        raise DidNotStart("Kinesis: set AWS_DEFAULT_REGION, or name another server (--endpoint)") from None
    except (BotoCoreError, ClientError) as error:
        raise DidNotStart(f"Kinesis: {error}") from None


async def wait_until_active(sdk: Any, name: str) -> None:
    """A stream that is being made or resharded takes a moment."""
    async with asyncio.timeout(ACTIVE_S):
        while True:
            summary = await sdk.describe_stream_summary(StreamName=name)
            if summary["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE":
                return
            await asyncio.sleep(0.05)


async def read_stream(endpoint: str, name: str) -> list[StoredRecord]:
    """Every record, shard by shard from its start, parents before their children, by Amazon's own client."""
    records: list[StoredRecord] = []
    async with client(endpoint) as sdk:
        shards = (await sdk.list_shards(StreamName=name))["Shards"]
        for shard in sorted(shards, key=lambda each: each["ShardId"]):
            answer = await sdk.get_shard_iterator(
                StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )
            iterator = answer["ShardIterator"]
            while iterator:
                answer = await sdk.get_records(ShardIterator=iterator)
                records += [
                    StoredRecord(
                        shard["ShardId"],
                        each["SequenceNumber"],
                        each["PartitionKey"],
                        each["Data"],
                        each["ApproximateArrivalTimestamp"],
                    )
                    for each in answer["Records"]
                ]
                iterator = answer.get("NextShardIterator") if answer["Records"] else None
    return records


async def delete_stream(endpoint: str, name: str) -> None:
    """Take it away."""
    async with client(endpoint) as sdk:
        await sdk.delete_stream(StreamName=name)


async def wait_until_gone(endpoint: str, name: str) -> None:
    """Until the name of a stream that was deleted is free again."""
    async with client(endpoint) as sdk:
        waiter = sdk.get_waiter("stream_not_exists")
        await waiter.wait(StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": int(ACTIVE_S)})
