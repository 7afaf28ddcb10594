"""Every entry point of the device edge on real sockets, one session, and a stream that stalls on demand.

The device network is the loopback's here: what a connection comes from is 127.0.0.1, which holds a session.
"""

import asyncio
import base64
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

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
from mqtt_bridge.connections import DeviceConnections
from mqtt_bridge.edge.http import HttpEntryPoint, Metadata, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import TcpEntryPoint
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

    def __init__(self, buffer_bytes: int | None) -> None:
        self.buffer_bytes = buffer_bytes
        self.ports: dict[int, int] = {}
        self.servers: list[asyncio.Server] = []
        self.sent: list[bytes] = []
        self.deliver: Callable[[bytes], None] = lambda _: None

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        listening = _socket(self.buffer_bytes)
        listening.bind((str(HERE), 0))
        server = await asyncio.get_running_loop().create_server(factory, sock=listening)
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

    def __init__(self, *, burst: int = 100, per_s: float = 50, buffer_bytes: int | None = None) -> None:
        clock, entropy = SystemClock(), SeededEntropy(random.Random(1))
        self.clock = SteppedClock()
        self.disk = MemoryDisk()
        self.stream = StallingStream(self.disk, clock)
        self.objects = MemoryObjectStore()
        self.delivery = Delivery(
            stream=self.stream, dead_letters=self.objects, clock=clock, entropy=entropy, deadline_s=1e6
        )
        self.network = LoopbackNetwork(buffer_bytes)
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
        socket_ = _socket(self.network.buffer_bytes)
        socket_.setblocking(False)
        await asyncio.get_running_loop().sock_connect(socket_, (str(HERE), self.network.ports[port]))
        reader, writer = await asyncio.open_connection(sock=socket_)
        self.writers.append(writer)
        return reader, writer

    def url(self, port: int, path: str = "/") -> str:
        return f"http://{HERE}:{self.network.ports[port]}{path}"


@asynccontextmanager
async def edge(
    *, burst: int = 100, per_s: float = 50, buffer_bytes: int | None = None
) -> AsyncIterator[Edge]:
    """While it runs; ``buffer_bytes``: of each socket in the kernel, either way."""
    made = Edge(burst=burst, per_s=per_s, buffer_bytes=buffer_bytes)
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


def _socket(buffer_bytes: int | None) -> socket.socket:
    """Of TCP; what a listening one accepts has its buffers."""
    made = socket.socket()
    if buffer_bytes is not None:
        for direction in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            made.setsockopt(socket.SOL_SOCKET, direction, buffer_bytes)
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of ours
            await asyncio.sleep(0.01)
