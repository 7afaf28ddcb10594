"""Datagram sockets of this host.

Rules:

- One turn of the event loop reads at most ``DATAGRAMS_PER_TURN_MAX`` datagrams of a socket: a flood on one
  never starves the others. (asyncio's own datagram transport reads one a turn, at a seventh of the rate.)
- What the kernel will not take is lost and counted: a datagram is never queued in this process.
"""

import asyncio
import errno
import socket

from core.errors import ConfigurationError
from core.ports.network import Address, DatagramSocket, Receiver

DATAGRAMS_PER_TURN_MAX = 64
DATAGRAM_BYTES_MAX = 65_535
RECEIVE_BUFFER_BYTES = 8 * 1_048_576
SEND_BUFFER_BYTES = 4 * 1_048_576

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
"""Linux, socket(7): the same as SO_RCVBUF beyond net.core.rmem_max; needs NET_ADMIN."""

_FIXES = {
    errno.EADDRINUSE: "is in use; stop the program that holds it, or configure another address or port",
    errno.EADDRNOTAVAIL: "is not an address of this host; add it (ip address add) or configure another",
    errno.EACCES: "is a privileged port; configure one above 1023 or grant NET_BIND_SERVICE",
}


class UdpNetwork:
    """Implements ``Network`` with non-blocking IPv4 UDP sockets on the running event loop (any loop that has
    ``add_reader``).

    ``receive_buffer_bytes`` is asked of the kernel per socket; without NET_ADMIN it gives at most
    ``net.core.rmem_max``.
    """

    def __init__(self, *, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self._receive_buffer_bytes = receive_buffer_bytes

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        """Bind ``address`` (port 0: any); raises ``ConfigurationError`` naming the address and the fix."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _enlarge(bound, _SO_RCVBUFFORCE, socket.SO_RCVBUF, self._receive_buffer_bytes)
            _enlarge(bound, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            bound.bind(address)
        except (OSError, OverflowError) as error:
            bound.close()
            number = error.errno if isinstance(error, OSError) else None
            fix = _FIXES.get(number or 0, f"cannot be bound ({error}); configure a dotted quad and a port")
            raise ConfigurationError(f"{address[0]}:{address[1]} (UDP) {fix}") from None
        return UdpSocket(bound, receiver)


class UdpSocket:
    """Implements ``DatagramSocket``; ``send_failures`` and ``receive_failures`` count what was refused."""

    def __init__(self, bound: socket.socket, receiver: Receiver) -> None:
        self.send_failures = 0
        self.receive_failures = 0
        self._socket = bound
        self._receiver = receiver
        self._send_to = bound.sendto
        self._address: Address = bound.getsockname()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(bound.fileno(), self._read_burst)

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._address

    def send(self, data: bytes, to: Address) -> bool:
        """Send now or drop; ``to`` is a dotted quad (a name would be looked up) and a port."""
        try:
            self._send_to(data, to)
        except (OSError, OverflowError):
            self.send_failures += 1
            return False
        return True

    def close(self) -> None:
        """Stop receiving; idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read_burst(self) -> None:
        receive = self._socket.recvfrom
        receiver = self._receiver
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            try:
                data, source = receive(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # closed by the receiver, or a pending error of the socket: the next turn goes on
                self.receive_failures += 1
                return
            receiver(data, source)


def _enlarge(bound: socket.socket, forced: int, asked: int, size_bytes: int) -> None:
    try:
        bound.setsockopt(socket.SOL_SOCKET, forced, size_bytes)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, asked, size_bytes)
