"""The device network: the TCP/IP stack with the platform's addresses that devices reach through their
tunnels.

Rules: the source address of a device's connection is the device's own address, which identifies the session.
The network reaches nothing on the host. A packet that it cannot accept is lost.
"""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, Protocol

ConnectionFactory = Callable[[], Any]
"""Creates the object that serves one connection: an ``asyncio.Protocol``, or a library's own."""


class DeviceNetwork(Protocol):
    """A TCP/IP stack of its own with the platform's addresses."""

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        """Accept connections there until ``aclose``. The addresses and ports are fixed when the network is
        created; raises ``ConfigurationError`` for any other.
        """
        ...

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        """Hand each IP packet for a device to ``deliver``, which must not raise."""
        ...

    def send(self, packet: bytes) -> bool:
        """Pass in an IP packet from a device; false when the network does not accept it now."""
        ...

    async def aclose(self) -> None:
        """Stop accepting and release the network; idempotent."""
        ...


class RetriedDeviceNetwork(DeviceNetwork, Protocol):
    """A network that may be created later; until then it accepts no packet."""

    @property
    def why_not(self) -> str:
        """Why it does not exist yet; empty once it does."""
        ...

    async def run(self, tell: Callable[[str], None]) -> None:
        """Try until it exists; ``tell`` logs a line."""
        ...
