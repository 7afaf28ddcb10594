"""A simulated device with its SIM behind a simulated SGSN or SGW, its programs, and its own account.

Rules: every inner octet of both directions is counted here, at the device, from the IP header's own length;
what is counted owes nothing to the gateway. The devices' TCP is the kernel's, in a network of their own.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import aiomqtt

from core.adapters.device_network.namespace import NamespaceNetwork
from core.config import EdgeConfig, GatewayConfig
from loadtest.peers.device import SimulatedDevice
from loadtest.peers.gtp import GtpPeer, PdpContext
from loadtest.peers.programs import CONNECTED, HttpProgram, MqttProgram, Program, TcpProgram, UdpProgram

PROTOCOL_TCP = 6
QUIET_S = 0.2
QUIET_S_MAX = 5.0
ENDING_S = 1.0


@dataclass(slots=True)
class UserEquipment:
    """One device. ``protocol`` is how its program speaks."""

    sim_id: str
    imsi: str
    peer: GtpPeer[Any]
    context: PdpContext
    device: SimulatedDevice
    protocol: str = "udp"
    stack: NamespaceNetwork | None = None
    program: Program | None = None
    sent: list[bytes] = field(default_factory=list)
    acknowledged: list[bytes] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0

    @classmethod
    async def attach(cls, peer: GtpPeer[Any], *, sim_id: str, imsi: str, apn: str) -> "UserEquipment":
        """Ask for a session; raises ``Refusal`` or ``NotAnswered``."""
        context = await peer.attach(imsi=imsi, apn=apn)
        edge = EdgeConfig()
        device = SimulatedDevice(
            send_up=lambda packet: ue.send_up(packet),  # noqa: PLW0108 - the phone is made of it
            ue_address=context.ue_address,
            entry_address=edge.message_address,
            entry_port=edge.udp_port,
        )
        ue = cls(sim_id, imsi, peer, context, device)
        context.on_down = ue._on_down
        return ue

    def send_up(self, packet: bytes) -> None:
        """A packet of the device, into its tunnel if that still stands."""
        if self.context.is_active:
            self.bytes_up += struct.unpack_from("!H", packet, 2)[0]
            self.peer.send_up(self.context, packet)

    async def say(self, payload: bytes) -> bool:
        """One message; whether it was acknowledged."""
        assert self.program is not None, "a program is started by start_programs"
        self.sent.append(payload)
        if not await self.program.send(payload):
            return False
        self.acknowledged.append(payload)
        return True

    def _on_down(self, packet: bytes) -> None:
        self.bytes_down += struct.unpack_from("!H", packet, 2)[0]
        if packet[9] == PROTOCOL_TCP and self.stack is not None:
            self.stack.send(packet)
        else:
            self.device.receive(packet)


class NoSocketLeft(Exception):
    """A device has connected as often as sockets were made for it."""


async def _end(program: Program) -> None:
    """Whatever became of its connection; it is not waited for long."""
    with suppress(TimeoutError, OSError, aiohttp.ClientError, aiomqtt.MqttError):
        async with asyncio.timeout(ENDING_S):
            await program.aclose()


class UserEquipments:
    """Several devices and the network that their TCP lives in."""

    def __init__(self, ues: Sequence[UserEquipment]) -> None:
        self._at: dict[IPv4Address, UserEquipment] = {ue.context.ue_address: ue for ue in ues}
        self._stack: NamespaceNetwork | None = None
        self._sockets: dict[str, list[socket.socket]] = {}
        self._speaks_v5 = False

    async def start_programs(self, protocols: Sequence[str], *, sockets_each: int = 1) -> None:
        """A program for each device, by these protocols in turn; it may connect ``sockets_each`` times."""
        ues = list(self._at.values())
        for number, ue in enumerate(ues):
            ue.protocol = protocols[number % len(protocols)]
        connected = [ue for ue in ues if ue.protocol in CONNECTED]
        if connected:
            self._stack = await NamespaceNetwork.open(
                local=GatewayConfig().ue_pool,
                remote=[EdgeConfig().platform_network],
                clients=[ue.context.ue_address for ue in connected for _ in range(sockets_each)],
            )
            self._stack.on_packet(self._on_packet)
            for number, ue in enumerate(connected):
                first = number * sockets_each
                self._sockets[ue.imsi] = self._stack.clients[first : first + sockets_each]
        for ue in ues:
            ue.stack = self._stack
            await self.start_program(ue)

    async def start_program(self, ue: UserEquipment) -> None:
        """A program on a fresh socket, in the place of one that was there before; raises ``NoSocketLeft``."""
        before, ue.program = ue.program, self._program_of(ue)
        if before is not None:
            await _end(before)
        await ue.program.open()

    async def stop_programs(self) -> None:
        """End them in order, and wait until the last packet has come."""
        for ue in self._at.values():
            program, ue.program = ue.program, None
            if program is not None:
                await program.aclose()
        async with asyncio.timeout(QUIET_S_MAX):
            before = -1
            while before != (now := sum(p.bytes_up + p.bytes_down for p in self._at.values())):
                before = now
                await asyncio.sleep(QUIET_S)

    async def aclose(self) -> None:
        """Let the devices' network go, and what programs still run."""
        await asyncio.gather(*(_end(ue.program) for ue in self._at.values() if ue.program is not None))
        for own in self._sockets.values():
            for each in own:
                each.close()
        if self._stack is not None:
            await self._stack.aclose()

    def _program_of(self, ue: UserEquipment) -> Program:
        edge = EdgeConfig()
        if ue.protocol == "udp" or self._stack is None:
            return UdpProgram(ue.device)
        if not self._sockets[ue.imsi]:
            raise NoSocketLeft(ue.imsi)
        own = self._sockets[ue.imsi].pop()
        if ue.protocol == "tcp":
            return TcpProgram(own, edge)
        if ue.protocol == "http":
            return HttpProgram(own, edge)
        version = aiomqtt.ProtocolVersion.V5 if self._speaks_v5 else aiomqtt.ProtocolVersion.V311
        self._speaks_v5 = not self._speaks_v5  # one after the other
        return MqttProgram(own, edge, version=version)

    def _on_packet(self, packet: bytes) -> None:
        if len(packet) >= 20 and (ue := self._at.get(IPv4Address(packet[12:16]))) is not None:
            ue.send_up(packet)
