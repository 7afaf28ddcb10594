"""The processes of the bridge benchmark.

Rules: each reads its parameters as one line of JSON from standard input and answers with lines of JSON; it
ends when its input ends. ``kinesis`` answers PutRecords and only counts records; ``endpoint`` is the device
edge, whose devices come from the loopback instead of a tunnel; ``devices`` publish messages that were made
beforehand, each connection from its own address; ``literal`` is aiomqtt and aioboto3 used as documented.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import aioboto3
import aiomqtt
import uvloop

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.stream.kinesis import KinesisStream
from core.config import EdgeConfig
from core.domain.message import StreamRecord
from core.domain.session import Access, Session
from core.ports.device_network import ConnectionFactory
from core.ports.stream import PutResult
from core.services.streaming.delivery import Delivery
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.connections import DeviceConnections
from mqtt_bridge.edge.mqtt import MqttEntryPoint

MQTT_PORT = 1883
STREAM = "bench"
RECORDS_PER_CALL = 500
LINGER_S = 0.005
CONNECT = bytes.fromhex("101b00044d51545404020000000f")
"""CONNECT of MQTT 3.1.1: clean session, no keep-alive, a client id of 15 octets to follow (§3.1)."""


def say(answer: Any) -> None:
    """Write one line of JSON to the parent process."""
    print(json.dumps(answer), flush=True)


# -- kinesis ------------------------------------------------------------------------------------------


@cache
def _placed(records: int) -> bytes:
    """The answer to a PutRecords of so many."""
    placed = {"SequenceNumber": "49" + "0" * 54, "ShardId": "shardId-000000000000"}
    return _http(json.dumps({"FailedRecordCount": 0, "Records": [placed] * records}).encode())


def _http(body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class NullKinesis(asyncio.Protocol):
    """Accepts every record. ``GET`` returns their number."""

    records = 0

    def __init__(self) -> None:
        self._data = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Whole requests are answered; it is enough to find where a body ends."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end]).lower()
            _, found, length = head.partition(b"content-length:")
            total = end + 4 + (int(length.split(b"\r\n")[0]) if found else 0)
            if len(self._data) < total:
                return
            records = self._data.count(b'"PartitionKey"', end, total)
            del self._data[:total]
            if head.startswith(b"get"):
                self._transport.write(_http(str(NullKinesis.records).encode()))
            elif records:
                NullKinesis.records += records
                self._transport.write(_placed(records))
            else:
                self._transport.write(_http(b'{"StreamDescriptionSummary":{}}'))


async def kinesis(ask: dict[str, Any]) -> None:
    """Serve until the input ends."""
    server = await asyncio.get_running_loop().create_server(NullKinesis, *ask["address"])
    say("ready")
    await _input_end()
    server.close()


# -- endpoint -----------------------------------------------------------------------------------------


class NullStream:
    """Accepts every record without a look; what the entry point itself costs is left."""

    keeps_order = True

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """At once."""
        await asyncio.sleep(0)
        return [PutResult("shardId-000000000000", "1")] * len(records)

    async def aclose(self) -> None:
        """Nothing is held."""


class Loopback:
    """The device network's place is the host's own loopback."""

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        """Accept connections there."""
        await asyncio.get_running_loop().create_server(factory, str(address), port)

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        """The kernel carries the packets itself."""

    def send(self, packet: bytes) -> bool:
        """There is no tunnel."""
        return False

    async def aclose(self) -> None:
        """It ends with the process."""


async def endpoint(ask: dict[str, Any]) -> None:
    """The MQTT entry point over a stream of Kinesis' protocol, or over none, until the input ends."""
    clock, entropy = SystemClock(), SystemEntropy()
    stream: Any = NullStream()
    if ask["kinesis"]:
        stream = await KinesisStream.open(name=STREAM, region="us-east-1", endpoint=ask["kinesis"])
    sessions = {each.ue_address: each for each in map(device_session, device_addresses(ask["devices"]))}
    by_id = {each.session_id: each for each in sessions.values()}
    delivery = Delivery(stream=stream, clock=clock, entropy=entropy)
    connections = DeviceConnections(
        network=Loopback(),
        session_at=sessions.get,
        session_of=by_id.get,
        inject=lambda _, packet: False,
        delivery=delivery,
        clock=clock,
        budget=AnswerBudget(),
        per_sim_max=EdgeConfig().connections_per_sim_max,
    )
    entry = MqttEntryPoint(url="mqtt://bench", connections=connections, entropy=entropy)
    running = asyncio.create_task(delivery.run())
    await connections.serve(IPv4Address(ask["address"]), MQTT_PORT, entry)
    say("ready")
    await _input_end()
    running.cancel()
    await stream.aclose()


def device_addresses(count: int) -> list[IPv4Address]:
    """The loopback addresses that devices have here."""
    network = IPv4Network("127.64.0.0/16")
    return [network[number + 1] for number in range(count)]


def imsi_of(address: IPv4Address) -> str:
    """Which SIM an address is."""
    return f"00101{int(address) & 0xFFFF:010d}"


def device_session(address: IPv4Address) -> Session:
    """The session of the device with this address."""
    imsi = imsi_of(address)
    return Session(
        session_id=f"{int(address):032x}",
        sim_id=f"8981100{imsi[-12:]}",
        imsi=imsi,
        operator_id="OP0000000001",
        access=Access.GTPV2,
        apn="soracom.io",
        ue_address=address,
        gateway_id="bench",
        opened=datetime.now(UTC),
        speed_class="s1.standard",
    )


# -- devices ------------------------------------------------------------------------------------------


class Device(asyncio.Protocol):
    """Publishes with QoS 1, ``window`` at a time; its packets differ by packet identifier alone."""

    def __init__(self, address: IPv4Address, *, window: int, size: int) -> None:
        self._client_id = imsi_of(address).encode()
        topic = b"meters/" + self._client_id + b"/up"
        body = len(topic).to_bytes(2, "big") + topic
        length = len(body) + 2 + size
        fixed = bytes((0x32, length & 0x7F | 0x80, length >> 7)) + body
        payload = bytes(size)
        self._packets = [
            fixed + identifier.to_bytes(2, "big") + payload for identifier in range(1, window + 1)
        ]
        self._next = self._left = self._waiting = 0
        self._transport: Any = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: say who it is."""
        self._transport = transport
        self._transport.write(CONNECT + self._client_id)

    def data_received(self, data: bytes) -> None:
        """Expects CONNACK, then only PUBACKs: four octets each."""
        if not self.ready.done():
            self.ready.set_result(None)
            return
        self._waiting -= len(data) // 4
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Cut off: the trial is void."""
        for future in (self.ready, self.done):
            if future is not None and not future.done():
                future.set_exception(ConnectionError("the server closed the connection"))

    async def publish(self, count: int) -> None:
        """Send so many; returns when all are acknowledged."""
        self._left, self.done = count, asyncio.get_running_loop().create_future()
        self._send()
        await self.done

    def _send(self) -> None:
        window = len(self._packets)
        count = min(window - self._waiting, self._left)
        if count:
            chosen = (self._packets[(self._next + step) % window] for step in range(count))
            self._transport.write(b"".join(chosen))
            self._next, self._left = self._next + count, self._left - count
            self._waiting += count
        elif not self._waiting and self.done is not None and not self.done.done():
            self.done.set_result(None)


async def devices(ask: dict[str, Any]) -> None:
    """Connect all; each further line ``{"each": n}`` is a trial, answered by how long it took."""
    loop = asyncio.get_running_loop()
    protocols = []
    for address in device_addresses(ask["devices"]):
        _, protocol = await loop.create_connection(
            partial(Device, address, window=ask["window"], size=ask["size"]),
            ask["host"],
            ask["port"],
            local_addr=(str(address), 0),
        )
        protocols.append(protocol)
    await asyncio.gather(*(protocol.ready for protocol in protocols))
    say("ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        began, cpu_s = time.monotonic(), time.process_time()
        await asyncio.gather(*(protocol.publish(json.loads(line)["each"]) for protocol in protocols))
        say({"seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu_s})


# -- literal ------------------------------------------------------------------------------------------


async def literal(ask: dict[str, Any]) -> None:
    """Subscribe by aiomqtt, collect, put by aioboto3: until it is ended from outside."""
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with (
        aioboto3.Session().client("kinesis", endpoint_url=ask["kinesis"]) as sdk,
        aiomqtt.Client(
            ask["host"], ask["port"], identifier="literal", protocol=aiomqtt.ProtocolVersion.V5
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.subscribe("meters/#", qos=1)
        tasks.create_task(_put_all(queue, sdk))
        say("ready")
        async for message in client.messages:
            key = str(message.topic).split("/")[1]
            queue.put_nowait({"Data": message.payload, "PartitionKey": key})


async def _put_all(queue: asyncio.Queue[dict[str, Any]], sdk: Any) -> None:
    while True:
        batch = [await queue.get()]
        await asyncio.sleep(LINGER_S)
        while len(batch) < RECORDS_PER_CALL and not queue.empty():
            batch.append(queue.get_nowait())
        while batch:
            answer = await sdk.put_records(StreamName=STREAM, Records=batch)
            results = zip(batch, answer["Records"], strict=True)
            batch = [record for record, result in results if result.get("ErrorCode")]


async def _input_end() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


CHILDREN: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, None]]] = {
    "kinesis": kinesis,
    "endpoint": endpoint,
    "devices": devices,
    "literal": literal,
}


def main() -> None:
    """``python -m loadtest.bench.bridge_children CHILD``, pinned to the CPU in its parameters."""
    ask = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, {ask["cpu"]})
    uvloop.run(CHILDREN[sys.argv[1]](ask))


if __name__ == "__main__":
    main()
