"""What a device does, as operations whose cost is counted: messages and packets, without a node around them.

Rules: those of ``loadtest.bench.cost_operations``. The stream accepts everything at once, as that of the last
row of ``./run bench bridge``.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from core.config import EdgeConfig, GatewayConfig
from core.domain.session import Session
from core.domain.usage import SegmentLabel
from core.ports.user_plane import Bearer
from core.services.streaming.delivery import Delivery
from gtp.userplane.forwarding import Forwarding
from loadtest.bench.bridge_children import (
    CONNECT,
    Loopback,
    NullStream,
    device_addresses,
    device_session,
    imsi_of,
)
from loadtest.bench.cost_counting import CountedClock, Counts, SeededEntropy
from loadtest.bench.cost_world import BATCH, PEER, Batch, Transport, until
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.connections import DeviceConnections
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.udp import UdpEntryPoint
from mqtt_bridge.packets import DevicePackets

PAYLOAD_BYTES = 200
PUBACK = bytes.fromhex("40020001")
INTERNET = IPv4Address("8.8.8.8")


# -- messages -------------------------------------------------------------------------------------------


class _Inside(Loopback):
    """Keeps what serves connections, and makes none."""

    factory: Callable[[], asyncio.Protocol]

    async def serve(self, address: IPv4Address, port: int, factory: Callable[[], asyncio.Protocol]) -> None:
        self.factory = factory


@asynccontextmanager
async def publish(counts: Counts) -> AsyncIterator[Batch]:
    """QoS 1, one of each client, to a stream that accepts everything at once."""
    clock, network = CountedClock(), _Inside()
    stream: Any = NullStream()
    sessions = {each.ue_address: each for each in map(device_session, device_addresses(BATCH))}
    delivery = Delivery(stream=stream, clock=clock, entropy=SeededEntropy())
    connections = DeviceConnections(
        network=network,
        session_at=sessions.get,
        session_of={each.session_id: each for each in sessions.values()}.get,
        inject=lambda _, packet: False,
        delivery=delivery,
        clock=clock,
        budget=AnswerBudget(),
        per_sim_max=EdgeConfig().connections_per_sim_max,
    )
    entry = MqttEntryPoint(url="mqtt://bench", connections=connections, entropy=SeededEntropy())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(delivery.run())
        await connections.serve(IPv4Address("127.0.0.1"), 1883, entry)
        devices = [_connected(network, address) for address in sessions]
        read = _publish(1)

        async def batch(_: int) -> int:
            for protocol, transport in devices:
                transport.written.clear()
                protocol.data_received(read)
            await until(lambda: all(each.written == PUBACK for _, each in devices))
            return len(devices)

        yield batch
        running.cancel()


def _connected(network: _Inside, address: IPv4Address) -> tuple[Any, Transport]:
    protocol: Any = network.factory()
    transport = Transport(str(address))
    protocol.connection_made(transport)
    protocol.data_received(CONNECT + imsi_of(address).encode())
    return protocol, transport


def _publish(identifier: int) -> bytes:
    topic = b"meters/001010000000001/up"
    body = len(topic).to_bytes(2, "big") + topic + identifier.to_bytes(2, "big") + bytes(PAYLOAD_BYTES)
    return bytes((0x32, len(body) & 0x7F | 0x80, len(body) >> 7)) + body


# -- packets --------------------------------------------------------------------------------------------


def _tunnels(clock: CountedClock, sessions: Sequence[Session]) -> Forwarding:
    config = GatewayConfig()
    tunnels = Forwarding(
        words=memoryview(bytearray(8 * 40 * len(sessions))).cast("Q"),
        monotonic=clock.monotonic,
        address=IPv4Address("127.9.0.1"),
        inner_addresses=[config.ue_pool[1]],
        devices=(IPv4Network("127.64.0.0/16"),),
        platform=EdgeConfig().platform_network,
    )
    for number, session in enumerate(sessions):
        bearer = Bearer(
            session_id=session.session_id,
            imsi=session.imsi,
            operator_id=session.operator_id,
            ue_address=session.ue_address,
            local_teid=number + 1,
            peer_teid=number + 1,
            peer_address=PEER,
            epoch=1,
            label=SegmentLabel("s1.standard", ""),
            up_kbps=1_000_000,
            down_kbps=1_000_000,
            apn=session.apn,
        )
        tunnels.install(bearer, 40 * number)
    return tunnels


def _packet(source: IPv4Address, destination: IPv4Address, port: int, payload: bytes) -> bytes:
    """IPv4 and UDP without a checksum of UDP (RFC 768 allows 0)."""
    size = 28 + len(payload)
    head: bytes = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 17, 0, source.packed, destination.packed
    )
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + checksum.to_bytes(2, "big") + head[12:]
    return head + struct.pack("!HHHH", 40_000, port, 8 + len(payload), 0) + payload


def _g_pdu(teid: int, packet: bytes) -> bytes:
    return struct.pack("!BBHI", 0x30, 255, len(packet), teid) + packet


@asynccontextmanager
async def g_pdu(counts: Counts, *, up: bool) -> AsyncIterator[Batch]:
    """64 octets; all checks on, a speed that is not reached, counted into a slot."""
    sessions = [device_session(address) for address in device_addresses(BATCH)]
    tunnels = _tunnels(CountedClock(), sessions)
    sent = [0]

    def take(*_: object) -> bool:
        sent[0] += 1
        return True

    tunnels.write_internet, tunnels.send = take, take
    if up:
        packets = [_packet(each.ue_address, INTERNET, 9, bytes(36)) for each in sessions]
        datagrams = [_g_pdu(number + 1, packet) for number, packet in enumerate(packets)]
    else:
        datagrams = [_packet(INTERNET, each.ue_address, 9, bytes(36)) for each in sessions]
    peer = (PEER, 2152)

    async def batch(_: int) -> int:
        sent[0] = 0
        for datagram in datagrams:
            if up:
                tunnels.uplink(datagram, peer)
            else:
                tunnels.downlink(datagram)
        return sent[0]

    yield batch


@asynccontextmanager
async def udp_message(counts: Counts) -> AsyncIterator[Batch]:
    """From its G-PDU to that of its answer; the stream accepts everything at once."""
    clock, edge_config = CountedClock(), EdgeConfig()
    stream: Any = NullStream()
    sessions = [device_session(address) for address in device_addresses(BATCH)]
    tunnels = _tunnels(clock, sessions)
    delivery = Delivery(stream=stream, clock=clock, entropy=SeededEntropy())
    edge = DevicePackets(
        delivery=delivery,
        session_of={each.session_id: each for each in sessions}.get,
        inject=tunnels.inject,
        clock=clock,
        budget=AnswerBudget(),
        entry_points=(UdpEntryPoint(edge_config.message_address, edge_config.udp_port),),
    )
    answers: list[bytes] = []

    def send(data: bytes, _: object) -> bool:
        answers.append(data)
        return True

    tunnels.send, tunnels.on_edge_packet = send, edge.on_edge_packet
    to, port = edge_config.message_address, edge_config.udp_port
    datagrams = [
        _g_pdu(number + 1, _packet(each.ue_address, to, port, bytes(PAYLOAD_BYTES)))
        for number, each in enumerate(sessions)
    ]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in (delivery, edge)]
        await asyncio.sleep(0)

        async def batch(_: int) -> int:
            answers.clear()
            for datagram in datagrams:
                tunnels.uplink(datagram, (PEER, 2152))
            await until(lambda: len(answers) == BATCH)
            return sum(answer.endswith(b"200") for answer in answers)

        yield batch
        for each in running:
            each.cancel()
