"""The device network: the TCP/IP stack with the platform's addresses that devices reach through their
tunnels.

Rules: what a device's connection comes from is the device's own address, so that it tells the session; the
network reaches nothing of the host; a packet that it cannot take is lost, as packets are.
"""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, Protocol

ConnectionFactory = Callable[[], Any]
"""Makes what serves one connection: an ``asyncio.Protocol``, or a library's own."""


class DeviceNetwork(Protocol):
    """A TCP/IP stack of its own with the platform's addresses."""

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        """Accept connections there until ``aclose``; which addresses and ports there are was settled when
        the network was made. Raises ``ConfigurationError`` for another.
        """
        ...

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        """Hand each IP packet for a device to ``deliver``, which must not raise."""
        ...

    def send(self, packet: bytes) -> bool:
        """An IP packet from a device; false when the network does not take it now."""
        ...

    async def aclose(self) -> None:
        """Accept nothing any more and let the network go; idempotent."""
        ...


class RetriedDeviceNetwork(DeviceNetwork, Protocol):
    """One that may be there only later; until then it takes no packet."""

    @property
    def why_not(self) -> str:
        """Why it is not there yet; empty once it is."""
        ...

    async def run(self, tell: Callable[[str], None]) -> None:
        """Try until it is there; ``tell`` logs a line."""
        ...
