"""Devices' connections on real sockets: identity, bounds, order, and a stream that stalls.

The device network is the loopback's here: what a connection comes from is 127.0.0.1, which holds a session.
"""

import asyncio
import base64
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import aiomqtt
import pytest

from core.adapters.clock import SystemClock
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.message import StreamRecord
from core.domain.session import Session
from core.ports.clock import Clock
from core.ports.device_network import ConnectionFactory
from core.ports.stream import PutResult
from core.services.streaming.delivery import Delivery
from loadtest.simulation.virtual import SeededEntropy
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.connections import GIVE_WAY_S, ConnectionCount, DeviceConnections
from mqtt_bridge.edge.http import BODY_BYTES_MAX, HttpEntryPoint, Metadata, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import LINE_BYTES_MAX, Lines, TcpEntryPoint
from mqtt_bridge.edge.tcp import WINDOW as TCP_WINDOW
from mqtt_bridge.mqtt.connection import PACKET_BYTES_MAX, WINDOW
from tests.unit.mqtt_bridge.test_mqtt_connection import connect, publish
from tests.unit.mqtt_bridge.test_packets import session

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


class SteppedClock(SystemClock):
    """The system's, set forward as a test likes."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class LoopbackNetwork:
    """Implements ``DeviceNetwork``: any port, and packets that are kept."""

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

    def __init__(self, *, burst: int = 100, per_s: float = 50) -> None:
        clock, entropy = SystemClock(), SeededEntropy(random.Random(1))
        self.clock = SteppedClock()
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
            clock=self.clock,
            budget=AnswerBudget(per_s=per_s, burst=burst),
            per_sim_max=4,
        )
        self.mqtt = MqttEntryPoint(url="mqtt://edge", connections=self.connections, entropy=entropy)
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
async def edge(*, burst: int = 100, per_s: float = 50) -> AsyncIterator[Edge]:
    made = Edge(burst=burst, per_s=per_s)
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
    async with edge(burst=100_000_000) as made:
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


async def test_a_packet_out_of_its_state_ends_the_connection_and_is_counted() -> None:
    async with edge() as made:
        for _ in range(2):
            reader, writer = await made.open(MQTT)
            writer.write(publish())
            assert await reader.read(1) == b"", "before CONNECT"
        assert made.connections.refused_packets == {"publish_while_awaiting_connect": 2}


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


async def test_connections_are_bounded() -> None:
    async with edge() as made:
        pairs = [await made.open(TCP) for _ in range(5)]
        await until(lambda: made.connections.counts[ConnectionCount.TOO_MANY] == 1)
        assert made.connections.open == 4
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


async def test_poison_is_kept_aside_and_its_sender_told_by_every_front_end() -> None:
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


class Moved(bytearray):
    """A buffer that counts the octets that are moved or looked through."""

    octets = 0

    def __iadd__(self, data: Any) -> Any:  # type: ignore[misc]  # __add__ is not used
        Moved.octets += len(data)
        return super().__iadd__(data)

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        Moved.octets += len(part) if isinstance(at, slice) else 1
        return part

    def find(self, sought: Any, *range_: int) -> int:  # type: ignore[override]  # where it ends is ours to count
        at = super().find(sought, *range_)
        begin, end = (*range_, len(self), len(self))[:2]
        Moved.octets += max((min(end, len(self)) if at < 0 else at) - begin, 0)
        return at

    def partition(self, separator: Any) -> Any:
        parts = super().partition(separator)
        Moved.octets += sum(map(len, parts))
        return tuple(map(Moved, parts))


@pytest.mark.parametrize("unit", [b"\n", b"\r\n", b"\r", b"a\n", b"a\n\n\n", b"a" * 50_000 + b"\n"])
@pytest.mark.parametrize("piece", [1, 1_000, 256_000])
def test_lines_are_cut_with_work_in_proportion(
    unit: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.tcp.bytearray", Moved, raising=False)
    data = unit * (50_000 // len(unit) + 1)
    Moved.octets = 0
    lines = Lines()
    for at in range(0, len(data), piece):
        lines.receive_data(data[at : at + piece])
        while lines.next_line() is not None:
            pass
    assert Moved.octets <= 6 * len(data)


@pytest.mark.parametrize("burst", [b"\n" * 256_000, b"\r\n" * 128_000])
async def test_empty_lines_are_passed_over(burst: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(burst + b"one\n" + burst + b"two\n")
        assert await reader.readexactly(10) == b"200\r\n" * 2
        assert made.payloads() == [b"one", b"two"]


async def test_a_line_that_never_ends_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.tcp.UNFINISHED_S_MAX", 0.3)
    async with edge() as made:
        slow, writer = await made.open(TCP)
        patient, patient_writer = await made.open(TCP)
        patient_writer.write(b"one\n")
        assert await patient.readexactly(5) == b"200\r\n"
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while not slow.at_eof():
                    writer.write(b"x")
                    await asyncio.sleep(0.05)
            raise ConnectionError
        patient_writer.write(b"two\n")
        assert await patient.readexactly(5) == b"200\r\n", "silence between lines is none of it"


@pytest.mark.parametrize(
    "begun", [b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbegun", b""]
)
async def test_a_request_that_never_ends_costs_its_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.http.UNFINISHED_S_MAX", 0.3)
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(begun)
        try:
            answer = await asyncio.wait_for(reader.read(), 15)
        except ConnectionError:
            answer = b""
        assert answer.startswith(b"HTTP/1.1 408") if begun.endswith(b"begun") else answer == b""
        await until(lambda: made.connections.open == 0)
        assert made.payloads() == []


REQUEST = b"POST / HTTP/1.1\r\nHost: unified.soracom.io\r\nExpect: 100-continue\r\n"


@pytest.mark.parametrize(("head", "body"), [
    (b"Content-Length: 12\r\n", b"hello-expect"),
    (b"Transfer-Encoding: chunked\r\n", b"c\r\nhello-expect\r\n0\r\n\r\n"),
])  # fmt: skip
async def test_a_device_that_asks_first_is_told_to_go_on(head: bytes, body: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(REQUEST + head + b"\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert made.payloads() == []
        writer.write(body)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 204 ")
        assert made.payloads() == [b"hello-expect"]


@pytest.mark.parametrize(("head", "status"), [
    (REQUEST + b"Content-Length: 131073\r\n", b"413"),
    (REQUEST.replace(b"/ ", b"/x ") + b"Content-Length: 1\r\n", b"404"),
    (REQUEST.replace(b"POST", b"PATCH") + b"Content-Length: 1\r\n", b"405"),
    (REQUEST.replace(b"100-continue", b"200-maybe") + b"Content-Length: 1\r\n", b"417"),
    (REQUEST + b"Content-Length: 1\r\nContent-Encoding: compress\r\n", b"415"),
])  # fmt: skip
async def test_what_the_head_already_says_is_answered_without_the_body(head: bytes, status: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(head + b"\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == status


@pytest.mark.parametrize(("extra", "body", "status", "stored"), [
    (b"Content-Encoding: gzip\r\n", gzip.compress(b"21.5", mtime=0), 204, [b"21.5"]),
    (b"Content-Encoding: gzip\r\n", b"not gzip at all", 400, []),
    (b"Content-Encoding: gzip\r\n", gzip.compress(bytes(10_000_000)), 413, []),
    (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"21.5", 204, [b"21.5"]),
    (b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: x\r\n", b"21.5", 204, [b"21.5"]),
    (b"TE: trailers\r\nRange: bytes=0-1\r\nIf-None-Match: *\r\n", b"21.5", 204, [b"21.5"]),
    (b"Connection: close\r\n", b"21.5", 204, [b"21.5"]),
])  # fmt: skip
async def test_rare_headers(extra: bytes, body: bytes, status: int, stored: list[bytes]) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        length = b"Content-Length: %d\r\n" % len(body)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + extra + length + b"\r\n" + body)
        assert int((await asyncio.wait_for(reader.readline(), 5)).split()[1]) == status
        assert made.payloads() == stored


async def test_requests_that_are_none_leave_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with edge() as made:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\nHost: x\r\n\r\n", b"\0\1\2\r\n\r\n"):
            reader, writer = await made.open(HTTP)
            writer.write(nonsense)
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] in (b"400", b"405")
    assert caplog.records == []


@pytest.mark.parametrize("target", ["POST /", "GET /", "GET /v1/subscriber.imsi"])
@pytest.mark.parametrize("ending", ["no gzip", "ends", "is reset"])
async def test_bodies_that_are_none_leave_no_log(
    target: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A radio that drops amid a body is no event of the platform's."""
    head = f"{target} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n".encode()
    async with edge() as made:
        reader, writer = await made.open(METADATA if "v1" in target else HTTP)
        writer.write(head + (b"ab" if ending == "no gzip" else b"a"))
        await asyncio.sleep(0.05)
        if ending == "is reset":
            writer.transport.abort()
        elif ending == "ends":
            writer.close()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()
    assert caplog.records == []


async def test_a_sim_has_a_budget_for_what_is_no_message() -> None:
    async with edge(burst=3, per_s=0.001) as made, aiohttp.ClientSession() as client:
        statuses = []
        for _ in range(5):
            async with client.get(made.url(METADATA, "/v1/subscriber.imsi")) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 200, 429, 429]
        reader, writer = await made.open(MQTT)
        writer.write(connect(5) + b"\xc0\0" * 1_000)
        assert (await reader.read()).endswith(b"\xe0\x01\x96"), "message rate too high"
        for number in range(10):
            async with client.post(made.url(HTTP), data=b"%d" % number) as answer:
                assert answer.status == 204, "messages are not counted"
        refusal = bytearray(40)
        refusal[0], refusal[9], refusal[33] = 0x45, 6, 0x14
        refusal[16:20] = HERE.packed
        made.network.deliver(bytes(refusal))
        assert made.injected == []
        assert made.connections.counts[ConnectionCount.OVER_BUDGET] >= 4


async def test_connections_that_nobody_ends_give_way() -> None:
    async with edge() as made:
        dead = [await made.open(TCP) for _ in range(4)]
        made.clock.ahead_s += GIVE_WAY_S / 2
        alive, alive_writer = dead.pop(0)
        alive_writer.write(b"one\n")
        assert await alive.readexactly(5) == b"200\r\n"
        made.clock.ahead_s += GIVE_WAY_S / 2
        for number in range(3):
            reader, writer = await made.open(TCP)
            writer.write(b"%d\n" % number)
            assert await asyncio.wait_for(reader.readexactly(5), 5) == b"200\r\n"
        assert made.connections.counts[ConnectionCount.GAVE_WAY] == 3
        for reader, _ in dead:
            with pytest.raises(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
                raise ConnectionError
        alive_writer.write(b"two\n")
        assert await alive.readexactly(5) == b"200\r\n"
        assert made.connections.open == 4
    assert made.connections._by_sim == {}


async def test_version_3_is_served_where_it_has_no_word_for_a_refusal() -> None:
    """QoS 2, a payload of no octets, one that is too long, one to be retained: each once, and the next."""
    too_long = b"x" * (PACKET_BYTES_MAX + 50_000)
    async with edge() as made:
        reader, writer = await made.open(MQTT)
        writer.write(
            connect()
            + publish(qos=0, payload=b"", flags=1)
            + publish(7, b"")
            + publish(8, b"two", qos=2)
            + publish(8, b"two", qos=2, flags=8)
            + b"\x62\2\0\x08"
            + publish(9, too_long)
            + publish(10, b"on", flags=1)
        )
        assert await reader.readexactly(4) == b"\x20\2\0\0"
        told = await asyncio.wait_for(reader.readexactly(5 * 4), 10)
        told = b"".join(sorted(told[at : at + 4] for at in range(0, len(told), 4)))
        assert told == b"\x40\2\0\7" + b"\x40\2\0\x09" + b"\x40\2\0\x0a" + b"\x50\2\0\x08" + b"\x70\2\0\x08"
        assert made.payloads() == [b"", b"", b"two", b"on"]
        ((name, kept),) = made.objects._objects.items()
        letter = json.loads(kept)
        beginning = base64.b64decode(letter["payloads"])
        assert name == f"dead-letters/{letter['recordId']}"
        assert beginning == b"x" * len(beginning)
        assert len(beginning) + letter["octetsMissing"] == len(too_long)
        assert letter["destination"]["resourceUrl"] == "mqtt://edge/meters/1"


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/", b"21.5", 204),
    ("PUT", "/", b"21.5", 204),
    ("POST", "/", b"", 204),
    ("POST", "/", b"x" * (BODY_BYTES_MAX + 1), 413),
    ("GET", "/", None, 405),
    ("POST", "/elsewhere", b"x", 404),
])  # fmt: skip
async def test_http(method: str, path: str, body: bytes | None, status: int) -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        async with client.request(method, made.url(HTTP, path), data=body) as answer:
            assert answer.status == status
        assert made.payloads() == ([body] if status == 204 else [])


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
