"""The device edge as a whole: which entry point stands where, and what is left without a device network."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.session import Session
from core.ports.device_network import ConnectionFactory
from core.services.streaming.delivery import Delivery
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual
from mqtt_bridge import inner
from mqtt_bridge.edge.dns import DNS_PORT
from mqtt_bridge.edge.http import HttpEntryPoint, Metadata, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import TcpEntryPoint
from mqtt_bridge.inner import UdpDatagram, build_udp
from mqtt_bridge.service import DeviceEdge, EdgeAddresses
from tests.unit.mqtt_bridge.test_packets import session

MESSAGE, MQTT, METADATA = (IPv4Address(f"100.127.0.{n}") for n in (1, 2, 3))
NAMES = IPv4Address("100.127.0.53")
ADDRESSES = EdgeAddresses(
    message=MESSAGE,
    mqtt=MQTT,
    metadata=METADATA,
    name_servers=(NAMES,),
    names={"messages.example": MESSAGE},
    udp_port=1,
    tcp_port=2,
    http_port=3,
    mqtt_port=4,
    metadata_port=5,
)
TCP_SYN = bytes.fromhex(
    "450000280000000040060000 0a800001 647f0001 00070002 00000000 00000000 5002 0000 0000 0000"
)


class Network:
    """Implements ``RetriedDeviceNetwork``: remembers what it was asked for."""

    def __init__(self) -> None:
        self.served: dict[tuple[IPv4Address, int], type] = {}
        self.taken: list[bytes] = []
        self.why_not = ""

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        self.served[address, port] = type(factory().entry)

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        pass

    def send(self, packet: bytes) -> bool:
        self.taken.append(packet)
        return True

    async def run(self, tell: Callable[[str], None]) -> None:
        pass

    async def aclose(self) -> None:
        pass


class World:
    def __init__(self, network: Network | None) -> None:
        clock, entropy = VirtualClock(), SeededEntropy(random.Random(1))
        self.down: list[tuple[str, bytes]] = []
        self.edge = DeviceEdge(
            addresses=ADDRESSES,
            network=network,
            delivery=Delivery(
                stream=MemoryStream(disk=MemoryDisk(), clock=clock), clock=clock, entropy=entropy
            ),
            session_of=lambda _: session(1),
            session_at=lambda _: session(1),
            inject=self._inject,
            metadata_of=self._metadata_of,
            connections_per_sim_max=4,
            clock=clock,
            entropy=entropy,
        )

    def _inject(self, session_id: str, packet: bytes) -> bool:
        self.down.append((session_id, packet))
        return True

    async def _metadata_of(self, _: Session) -> Metadata | None:
        return None

    def ask_for_a_name(self) -> None:
        question = bytes.fromhex("0001 0100 0001 0000 0000 0000") + b"\x08messages\x07example\0\0\1\0\1"
        ue = session(1).ue_address
        self.edge.on_edge_packet(
            "session-1", build_udp(UdpDatagram.between(ue, 7, NAMES, DNS_PORT, question))
        )


def test_each_entry_point_stands_at_its_address() -> None:
    async def main() -> None:
        network = Network()
        world = World(network)
        await world.edge.start()
        assert network.served == {
            (MESSAGE, 2): TcpEntryPoint,
            (MESSAGE, 3): HttpEntryPoint,
            (MQTT, 4): MqttEntryPoint,
            (METADATA, 5): MetadataService,
        }
        world.edge.on_edge_packet("session-1", _summed(TCP_SYN))
        assert len(network.taken) == 1
        assert world.edge.serves == "udp, tcp, http, mqtt"
        network.why_not = "no permission"
        assert world.edge.serves == "udp alone (no network namespace: no permission)"

    run_virtual(main)


@pytest.mark.parametrize("network", [Network(), None])
def test_names_need_no_device_network(network: Network | None) -> None:
    async def main() -> None:
        world = World(network)
        await world.edge.start()
        world.ask_for_a_name()
        ((_, answer),) = world.down
        datagram = inner.parse(answer)
        assert isinstance(datagram, UdpDatagram)
        assert datagram.payload.endswith(MESSAGE.packed)
        assert world.edge.served == {"question": 1, "answered": 1}
        assert world.edge.dropped == {}

    run_virtual(main)


def test_without_a_device_network_there_is_udp_alone() -> None:
    async def main() -> None:
        world = World(None)
        await world.edge.start()
        world.edge.on_edge_packet("session-1", _summed(TCP_SYN))
        assert world.edge.dropped == {"no_tcp": 1}
        assert world.edge.serves == "udp alone (edge.device_network = off)"
        world.edge.end_session("session-1")
        await world.edge.aclose()

    run_virtual(main)


def _summed(packet: bytes) -> bytes:
    return packet[:10] + inner.checksum(packet[:20]).to_bytes(2, "big") + packet[12:]
