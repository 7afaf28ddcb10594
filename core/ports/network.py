"""Datagram sockets.

Rule: a receiver never raises on hostile input, and never blocks: it is called once per datagram, in bursts.
"""

from collections.abc import Callable
from typing import Protocol

Address = tuple[str, int]
"""Dotted quad and UDP port."""

Receiver = Callable[[bytes, Address], None]
"""Called with each datagram's payload and where it came from."""


class DatagramSocket(Protocol):
    """A bound UDP socket."""

    @property
    def address(self) -> Address:
        """Where it is bound."""
        ...

    def send(self, data: bytes, to: Address) -> bool:
        """Send now; false when the kernel does not accept it, which drops it (counted, never raised)."""
        ...

    def close(self) -> None:
        """Stop receiving; idempotent."""
        ...


class Network(Protocol):
    """Opens datagram sockets."""

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        """Bind ``address`` (port 0: any). Raises ``ConfigurationError`` naming the address and the fix."""
        ...
