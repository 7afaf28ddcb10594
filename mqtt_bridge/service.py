"""The device edge: the front end behind which all entry points stand that devices reach inside their tunnels.

Rules: UDP, pings and names are answered from packets alone (``mqtt_bridge.packets``); MQTT, TCP, HTTP and
metadata end in the device network's TCP (``mqtt_bridge.connections``) and are not there without it. All of a
SIM's answers that are no message's come out of one budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from core.domain.session import Session
from core.ports.clock import Clock, Entropy
from core.ports.device_network import RetriedDeviceNetwork
from core.services.streaming.delivery import Delivery
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.connections import DeviceConnections
from mqtt_bridge.edge.dns import DNS_PORT, NameServer
from mqtt_bridge.edge.http import HttpEntryPoint, MetadataOf, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import TcpEntryPoint
from mqtt_bridge.edge.udp import UdpEntryPoint
from mqtt_bridge.packets import SERVED, DevicePackets

ALL, UDP_ALONE = "udp, tcp, http, mqtt", "udp alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeAddresses:
    """Where devices reach what; ``names``: what the name servers answer for, without the last dot."""

    message: IPv4Address
    mqtt: IPv4Address
    metadata: IPv4Address
    name_servers: Sequence[IPv4Address]
    names: Mapping[str, IPv4Address]
    udp_port: int
    tcp_port: int
    http_port: int
    mqtt_port: int
    metadata_port: int


class DeviceEdge:
    """Serves devices while ``run`` runs. ``network`` is where their TCP ends; without it they have UDP alone.

    ``session_of`` finds a session by its id, ``session_at`` by the device's address; ``inject`` sends an IP
    packet down a session's tunnel.
    """

    def __init__(
        self,
        *,
        addresses: EdgeAddresses,
        network: RetriedDeviceNetwork | None,
        delivery: Delivery,
        session_of: Callable[[str], Session | None],
        session_at: Callable[[IPv4Address], Session | None],
        inject: Callable[[str, bytes], bool],
        metadata_of: MetadataOf,
        connections_per_sim_max: int,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._addresses = addresses
        self._network = network
        self._metadata_of = metadata_of
        self._entropy = entropy
        budget = AnswerBudget()
        self.connections: DeviceConnections | None = None
        if network is not None:
            self.connections = DeviceConnections(
                network=network,
                session_at=session_at,
                session_of=session_of,
                inject=inject,
                delivery=delivery,
                clock=clock,
                budget=budget,
                per_sim_max=connections_per_sim_max,
            )
        answer = NameServer(addresses.names).answer
        self.packets = DevicePackets(
            delivery=delivery,
            session_of=session_of,
            inject=inject,
            clock=clock,
            budget=budget,
            entry_points=(UdpEntryPoint(addresses.message, addresses.udp_port),),
            responders={(address, DNS_PORT): answer for address in addresses.name_servers},
            on_tcp=self.connections.on_packet_up if self.connections is not None else None,
        )
        self.on_edge_packet = self.packets.on_edge_packet
        """An inner packet from a device to a platform address (``PacketSink``)."""

    async def start(self) -> None:
        """Accept connections, from when the device network is there."""
        connections, to = self.connections, self._addresses
        if connections is None:
            return
        http = HttpEntryPoint(url=f"http://{to.message}:{to.http_port}", connections=connections)
        tcp = TcpEntryPoint(url=f"tcp://{to.message}:{to.tcp_port}", connections=connections)
        mqtt = MqttEntryPoint(
            url=f"mqtt://{to.mqtt}:{to.mqtt_port}",
            connections=connections,
            entropy=self._entropy,
        )
        metadata = MetadataService(connections=connections, metadata_of=self._metadata_of)
        await connections.serve(to.message, to.http_port, http)
        await connections.serve(to.message, to.tcp_port, tcp)
        await connections.serve(to.mqtt, to.mqtt_port, mqtt)
        await connections.serve(to.metadata, to.metadata_port, metadata)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self.packets.run()

    def end_session(self, session_id: str) -> None:
        """The session is over: its connections are cut."""
        if self.connections is not None:
            self.connections.end_session(session_id)

    async def aclose(self) -> None:
        """Cut every connection; a client that was not answered sends again."""
        if self.connections is not None:
            await self.connections.aclose()

    @property
    def serves(self) -> str:
        """Which protocols devices can speak now, and why not all."""
        if self._network is None:
            return f"{UDP_ALONE} (edge.device_network = off)"
        why_not = self._network.why_not
        return f"{UDP_ALONE} (no network namespace: {why_not})" if why_not else ALL

    @property
    def served(self) -> Mapping[str, float]:
        """Packets that were served, by what they were."""
        return {what.value: count for what, count in self.packets.counts.items() if what in SERVED}

    @property
    def dropped(self) -> Mapping[str, float]:
        """Packets that were dropped, by reason."""
        return {reason.value: count for reason, count in self.packets.counts.items() if reason not in SERVED}
