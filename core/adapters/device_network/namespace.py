"""``DeviceNetwork`` in a network namespace of its own, with the kernel's TCP/IP and no route of the host's.

Rules: a child makes the namespace and hands its sockets over; this process never enters it. Packets for
devices are read in bursts, as datagrams are; what the kernel will not take is lost and counted.
"""

import array
import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from core.adapters.device_network.make import EDGE_STATION, READY, SOCKETS_PER_MESSAGE_MAX, WIRE, Wanted
from core.domain.apn import MTU_BYTES_DEFAULT, MTU_BYTES_MAX
from core.errors import ConfigurationError
from core.ports.device_network import ConnectionFactory

PACKETS_PER_TURN_MAX = 64
BUFFER_BYTES = 4 * 1_048_576
READY_TIMEOUT_S = 120.0
"""For the child: a machine that starts many things at once may need long for one of them."""
POLL_S = 0.2
_ETH_P_IP = 0x0800


class NamespaceNetwork:
    """One namespace. ``clients`` are its sockets to connect with, their owner's from here on;
    ``send_failures`` counts packets that the kernel would not take.
    """

    def __init__(
        self,
        packets: socket.socket,
        listeners: dict[tuple[IPv4Address, int], socket.socket],
        clients: list[socket.socket],
    ) -> None:
        self._packets = packets
        self._listeners = listeners
        self.clients = clients
        self._servers: list[asyncio.Server] = []
        self._deliver: Callable[[bytes], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(packets.fileno(), self._read_burst)
        self.send_failures = 0

    @classmethod
    async def open(
        cls,
        *,
        local: IPv4Network,
        remote: Sequence[IPv4Network],
        mtu_bytes: int = MTU_BYTES_DEFAULT,
        listeners: Sequence[tuple[IPv4Address, int]] = (),
        clients: Sequence[IPv4Address] = (),
    ) -> "NamespaceNetwork":
        """Make it: every address of ``local`` is its own, packets for ``remote`` leave it, none of more than
        ``mtu_bytes``.

        Raises ``ConfigurationError`` where the process may not, or after ``READY_TIMEOUT_S``.
        """
        wanted = Wanted(
            str(local),
            tuple(map(str, remote)),
            mtu_bytes,
            tuple((str(address), port) for address, port in listeners),
            tuple(map(str, clients)),
        )
        unwanted = threading.Event()
        try:
            packets, *others = await asyncio.to_thread(_sockets_from_child, wanted, unwanted)
        except asyncio.CancelledError:
            unwanted.set()
            raise
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        packets.setblocking(False)
        listening, connecting = others[: len(listeners)], others[len(listeners) :]
        return cls(packets, dict(zip(listeners, listening, strict=True)), connecting)

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        """Accept connections there until ``aclose``."""
        listener = self._listeners.pop((address, port), None)
        if listener is None:
            raise ConfigurationError(f"{address}:{port} is not one of the device network's listeners")
        self._servers.append(await self._loop.create_server(factory, sock=listener))

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        """Hand each IP packet for a device to ``deliver``."""
        self._deliver = deliver

    def send(self, packet: bytes) -> bool:
        """An IP packet from a device."""
        try:
            self._packets.sendto(packet, (WIRE, _ETH_P_IP, 0, 0, EDGE_STATION))
        except OSError:
            self.send_failures += 1
            return False
        return True

    async def aclose(self) -> None:
        """Let the network go."""
        for server in self._servers:
            server.close()
        for listener in self._listeners.values():
            listener.close()
        if self._packets.fileno() >= 0:
            self._loop.remove_reader(self._packets.fileno())
            self._packets.close()

    def _read_burst(self) -> None:
        receive, deliver = self._packets.recvfrom, self._deliver
        for _ in range(PACKETS_PER_TURN_MAX):
            try:
                packet, (_, _, kind, *_) = receive(MTU_BYTES_MAX)
            except OSError:  # nothing left, or it was closed
                return
            if kind != socket.PACKET_OUTGOING:
                deliver(packet)


def _sockets_from_child(wanted: Wanted, unwanted: threading.Event) -> list[socket.socket]:
    near, far = socket.socketpair()
    with near, far:
        child = subprocess.Popen(  # noqa: S603 - our own module, and what the configuration's types let through
            [sys.executable, "-m", "core.adapters.device_network.make", str(far.fileno()), wanted.as_json()],
            pass_fds=[far.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        far.close()
        expected = 1 + len(wanted.listeners) + len(wanted.clients)
        sockets, is_in_time = _received(near, expected, unwanted)
        if not is_in_time:
            child.kill()
        _, said = child.communicate()
    if len(sockets) < expected or unwanted.is_set():
        for each in sockets:
            each.close()
        words = said.decode(errors="replace").strip().splitlines()
        silence = "no answer" if is_in_time else f"no answer within {READY_TIMEOUT_S:g} s"
        raise ConfigurationError(
            f"the device network could not be created: {words[-1] if words else silence}"
        )
    return sockets


def _received(
    near: socket.socket, expected: int, unwanted: threading.Event
) -> tuple[list[socket.socket], bool]:
    """What the child hands over, and whether it came to its end in time."""
    near.settimeout(POLL_S)
    deadline = time.monotonic() + READY_TIMEOUT_S
    sockets: list[socket.socket] = []
    while len(sockets) < expected:
        if unwanted.is_set() or time.monotonic() > deadline:
            return sockets, False
        try:
            _, ancillary, _, _ = near.recvmsg(len(READY), socket.CMSG_SPACE(SOCKETS_PER_MESSAGE_MAX * 4))
        except TimeoutError:
            continue
        if not ancillary:
            break
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        sockets += [socket.socket(fileno=fd) for fd in fds]
    return sockets, True
