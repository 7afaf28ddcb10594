"""Devices' connections on real sockets: identity, bounds, order, and a stream that stalls.

The inside network is the loopback's here: what a connection comes from is 127.0.0.1, which holds a session.
"""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import aiomqtt
import pytest

import mqtt_bridge.connections
from core.adapters.clock import SystemClock
from core.adapters.files import MemoryObjectStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.message import StreamRecord
from core.domain.session import Session
from core.ports.clock import Clock
from core.ports.inside import ConnectionFactory
from core.ports.stream import PutResult
from core.services.delivery import Delivery
from loadtest.virtual import SeededEntropy
from mqtt_bridge.connections import ConnectionCount, DeviceConnections
from mqtt_bridge.edge.http import BODY_BYTES_MAX, HttpEntryPoint, Metadata, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import LINE_BYTES_MAX, Lines, TcpEntryPoint
from mqtt_bridge.edge.tcp import WINDOW as TCP_WINDOW
from mqtt_bridge.mqtt.connection import WINDOW
from tests.unit.test_device_edge import session
from tests.unit.test_mqtt_connection import connect, publish

HERE = IPv4Address("127.0.0.1")


class StallingStream(MemoryStream):
    """Takes records at once, or not until ``is_flowing`` is set."""

    def __init__(self, disk: MemoryDisk, clock: Clock) -> None:
        super().__init__(disk=disk, clock=clock)
        self.is_flowing = asyncio.Event()
        self.is_flowing.set()
        self.poison = b""
        """A record with this in it is never taken."""

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        await self.is_flowing.wait()
        if self.poison and any(self.poison in record.data for record in records):
            return [PutResult(error="ValidationException", is_poison=True)] * len(records)
        return await super().put(records)


class LoopbackNetwork:
    """Implements ``InsideNetwork``: any port, and packets that are kept."""

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.servers: list[asyncio.Server] = []
        self.sent: list[bytes] = []
        self.deliver: Callable[[bytes], None] = lambda _: None

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        server = await asyncio.get_running_loop().create_server(factory, str(HERE), 0)
        self.servers.append(server)
        self.ports[port] = server.sockets[0].getsockname()[1]

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        self.deliver = deliver

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return len(self.sent) < 3

    async def aclose(self) -> None:
        for server in self.servers:
            server.close()


MQTT, TCP, HTTP, METADATA = 1883, 23_080, 80, 81


class Edge:
    """Every entry point, one session, one stream."""

    def __init__(self) -> None:
        clock, entropy = SystemClock(), SeededEntropy(random.Random(1))
        self.disk = MemoryDisk()
        self.stream = StallingStream(self.disk, clock)
        self.objects = MemoryObjectStore()
        self.delivery = Delivery(
            stream=self.stream, dead_letters=self.objects, clock=clock, entropy=entropy, deadline_s=1e6
        )
        self.network = LoopbackNetwork()
        self.holder: Session | None = session(1)
        self.injected: list[tuple[str, bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.connections = DeviceConnections(
            network=self.network,
            session_at=lambda address: self.holder if address == HERE else None,
            session_of=lambda _: self.holder,
            inject=self._inject,
            delivery=self.delivery,
            clock=clock,
        )
        self.mqtt = MqttEntryPoint(
            url="mqtt://edge", connections=self.connections, clock=clock, entropy=entropy
        )
        self.http = HttpEntryPoint(url="http://edge", connections=self.connections)
        self.metadata: Metadata | None = Metadata(
            subscriber={"imsi": session(1).imsi, "tags": {"name": "meter"}}, userdata="hello"
        )
        self.service = MetadataService(connections=self.connections, metadata_of=self._metadata_of)

    def _inject(self, session_id: str, packet: bytes) -> bool:
        self.injected.append((session_id, packet))
        return True

    async def _metadata_of(self, _: Session) -> Metadata | None:
        return self.metadata

    def records(self) -> list[dict[str, Any]]:
        seen: set[str] = set()
        records = []
        for shard in self.disk.shards:
            for stored in shard:
                record = json.loads(stored.data)
                if record["recordId"] not in seen:
                    seen.add(record["recordId"])
                    records.append(record)
        return records

    def payloads(self) -> list[bytes]:
        return [base64.b64decode(record["payloads"]) for record in self.records()]

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(str(HERE), self.network.ports[port])
        self.writers.append(writer)
        return reader, writer

    def url(self, port: int, path: str = "/") -> str:
        return f"http://{HERE}:{self.network.ports[port]}{path}"


@asynccontextmanager
async def edge() -> AsyncIterator[Edge]:
    made = Edge()
    tcp = TcpEntryPoint(url="tcp://edge", connections=made.connections)
    for port, entry in ((MQTT, made.mqtt), (TCP, tcp), (HTTP, made.http), (METADATA, made.service)):
        await made.connections.serve(HERE, port, entry)
    running = asyncio.create_task(made.delivery.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        for writer in made.writers:
            writer.transport.abort()
        made.connections.end_session(session(1).session_id)
        await asyncio.sleep(0.01)
        await made.network.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of ours
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_aiomqtt_publishes_in_order(version: aiomqtt.ProtocolVersion) -> None:
    async with edge() as made:
        async with aiomqtt.Client(str(HERE), made.network.ports[MQTT], protocol=version) as client:
            for number in range(20):
                await client.publish("meters/1", b"%d" % number, qos=number % 2)
        await until(lambda: len(made.records()) == 20)
        assert made.payloads() == [b"%d" % number for number in range(20)]
        first = made.records()[0]
        assert (first["sourceProtocol"], first["imsi"]) == ("mqtt", session(1).imsi)
        assert first["destination"]["resourceUrl"] == "mqtt://edge/meters/1"


async def test_no_puback_before_the_stream_has_it_and_no_reading_past_the_window() -> None:
    async with edge() as made:
        made.stream.is_flowing.clear()
        reader, writer = await made.open(MQTT)
        writer.write(connect() + b"".join(publish(n, b"%d" % n) for n in range(1, WINDOW + 40)))
        assert await reader.readexactly(4) == b"\x20\x02\0\0"
        await until(lambda: made.delivery.waiting == WINDOW)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(4), 0.2)
        assert made.delivery.waiting == WINDOW, "memory is flat"
        made.stream.is_flowing.set()
        for number in range(1, WINDOW + 40):
            assert await reader.readexactly(4) == b"\x40\x02" + number.to_bytes(2, "big")
        assert made.payloads() == [b"%d" % number for number in range(1, WINDOW + 40)]


async def test_a_client_that_never_reads_is_not_read_either() -> None:
    async with edge() as made:
        reader, writer = await made.open(MQTT)
        transport = writer.transport
        writer.write(connect(keep_alive=0) + b"\xc0\0" * 10)
        await reader.readexactly(4)
        transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        sent = 0
        while sent < 400:
            writer.write(b"\xc0\0" * 50_000)
            sent += 1
            try:
                await asyncio.wait_for(writer.drain(), 0.3)
            except TimeoutError:
                break
        assert sent < 400, "what it sends is taken no more"
        (protocol,) = made.mqtt._named.values()
        assert protocol._transport is not None
        assert protocol._transport.get_write_buffer_size() < 1_000_000


async def test_a_second_client_of_the_same_name_takes_over() -> None:
    async with edge() as made:
        first, first_writer = await made.open(MQTT)
        first_writer.write(connect(5))
        await first.readexactly(5)
        second, second_writer = await made.open(MQTT)
        second_writer.write(connect(5))
        await second.readexactly(5)
        assert (await first.read()).endswith(b"\xe0\x01\x8e")
        second_writer.write(publish(9, version=5))
        assert (await second.readuntil(b"\x40\x02\x00\x09")).endswith(b"\x40\x02\x00\x09")
        assert len(made.mqtt._named) == 1


async def test_a_will_is_delivered() -> None:
    async with edge() as made:
        reader, writer = await made.open(MQTT)
        will = b"\0\x01w" + b"\0\x04gone"
        writer.write(connect(flags=0x06, rest=will))
        await reader.readexactly(4)
        writer.transport.abort()
        await until(lambda: made.payloads() == [b"gone"])


async def test_a_session_that_ends_takes_its_connections_with_it() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"one\n")
        assert await reader.readline() == b"200\r\n"
        made.holder = None
        made.connections.end_session(session(1).session_id)
        with pytest.raises(ConnectionError):
            assert await reader.read() == b"", "closed"
            raise ConnectionError
        await until(lambda: made.connections.open == 0)
        late, _ = await made.open(TCP)
        with pytest.raises(ConnectionError):
            assert await late.read() == b""
            raise ConnectionError
        assert made.connections.counts[ConnectionCount.NO_SESSION] == 1


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_bridge.connections, "SESSION_CONNECTIONS_MAX", 2)
    async with edge() as made:
        pairs = [await made.open(TCP) for _ in range(3)]
        await until(lambda: made.connections.counts[ConnectionCount.TOO_MANY] == 1)
        assert made.connections.open == 2
        for _, writer in pairs:
            writer.close()
        await until(lambda: made.connections.open == 0)


async def test_lines_are_answered_in_order_and_the_last_needs_no_end() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"one\r\n\r\n\ntwo\nthr")
        await asyncio.sleep(0.05)
        writer.write(b"ee")
        writer.write_eof()
        assert await reader.read() == b"200\r\n" * 3
        assert made.payloads() == [b"one", b"two", b"three"]


async def test_poison_is_kept_aside_and_its_sender_told_by_every_door() -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        made.stream.poison = base64.b64encode(b"poison")
        async with client.post(made.url(HTTP), data=b"poison") as answer:
            assert answer.status == 400
        reader, writer = await made.open(TCP)
        writer.write(b"poison\n")
        assert await reader.readexactly(5) == b"400\r\n"
        writer.write(b"good\n")
        assert await reader.readexactly(5) == b"200\r\n"
        for version, answers in ((4, [b"\x40\2\0\1"]), (5, [b"\x40\3\0\1\x99"])):
            reader, writer = await made.open(MQTT)
            writer.write(connect(version) + publish(1, b"poison", version=version))
            await reader.readexactly(2)
            await reader.readuntil(answers[0])
        made.holder = None
        assert made.delivery.dead_letters == 4
        assert made.payloads() == [b"good"]


async def test_lines_are_not_read_past_the_window() -> None:
    async with edge() as made:
        made.stream.is_flowing.clear()
        reader, writer = await made.open(TCP)
        writer.write(b"".join(b"%d\n" % number for number in range(TCP_WINDOW + 30)))
        await until(lambda: made.delivery.waiting == TCP_WINDOW)
        await asyncio.sleep(0.05)
        assert made.delivery.waiting == TCP_WINDOW
        made.stream.is_flowing.set()
        for _ in range(TCP_WINDOW + 30):
            assert await reader.readline() == b"200\r\n"


async def test_a_line_without_end_is_refused() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"good\n" + b"x" * (LINE_BYTES_MAX + 1))
        assert await reader.read() == b"200\r\n413\r\n"
        assert made.payloads() == [b"good"]


def test_lines_of_any_pieces() -> None:
    lines = Lines()
    for octet in b"a\r\n\nbc\nd":
        lines.receive_data(bytes((octet,)))
    found = [lines.next_line(), lines.next_line(), lines.next_line(), lines.next_line(is_over=True)]
    assert found == [b"a", b"bc", None, b"d"]


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/", b"21.5", 204),
    ("PUT", "/", b"21.5", 204),
    ("POST", "/", b"", 400),
    ("POST", "/", b"x" * (BODY_BYTES_MAX + 1), 413),
    ("GET", "/", None, 405),
    ("POST", "/elsewhere", b"x", 404),
])  # fmt: skip
async def test_http(method: str, path: str, body: bytes | None, status: int) -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        async with client.request(method, made.url(HTTP, path), data=body) as answer:
            assert answer.status == status
        assert made.payloads() == ([b"21.5"] if status == 204 else [])


async def test_http_is_answered_after_the_stream_and_never_when_it_gives_up() -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        made.stream.is_flowing.clear()
        asked = asyncio.create_task(client.post(made.url(HTTP), data=b"one"))
        await until(lambda: made.delivery.waiting == 1)
        await asyncio.sleep(0.1)
        assert not asked.done()
        made.stream.is_flowing.set()
        assert (await asked).status == 204
        made.holder = None
        async with client.post(made.url(HTTP), data=b"two") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(("path", "status", "body"), [
    ("/v1/subscriber.imsi", 200, session(1).imsi),
    ("/v1/subscriber.tags.name", 200, "meter"),
    ("/v1/subscriber.tags", 200, '{"name": "meter"}'),
    ("/v1/subscriber.tags.no", 404, "Specified key does not exist."),
    ("/v1/userdata", 200, "hello"),
    ("/v2/subscriber", 404, "Specified key does not exist."),
])  # fmt: skip
async def test_metadata(path: str, status: int, body: str) -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        async with client.get(made.url(METADATA, path)) as answer:
            assert (answer.status, await answer.text()) == (status, body)
        async with client.post(made.url(METADATA, path)) as answer:
            assert answer.status == 405
        made.metadata = None
        async with client.get(made.url(METADATA, path)) as answer:
            told = (answer.status, await answer.text())
            assert told == (403, "You are not allowed to access Metadata Server.")


async def test_packets_go_to_who_holds_the_address_and_to_nobody_else() -> None:
    async with edge() as made:
        packet = bytearray(20)
        packet[16:20] = HERE.packed
        made.network.deliver(bytes(packet))
        assert made.injected == [(session(1).session_id, bytes(packet))]
        packet[16:20] = IPv4Address("10.128.0.99").packed
        made.network.deliver(bytes(packet))
        made.network.deliver(b"\x45")
        assert len(made.injected) == 1
        assert made.connections.counts[ConnectionCount.NO_HOLDER] == 1
        for _ in range(3):
            made.connections.on_packet_up(bytes(packet))
        assert made.connections.counts[ConnectionCount.NOT_TAKEN] == 1
