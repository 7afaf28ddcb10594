"""Floating IP: a gateway instance's address moves to the host of the node that serves it.

Rules: only the holder of a lease term calls, with the time for which the address may stay without a further
``bring``. So the address of a node that was killed or hangs disappears when its lease term ends, without
another node's help.
"""

from ipaddress import IPv4Address
from typing import Protocol


class FloatingIp(Protocol):
    """Moves addresses to this host."""

    def may_attach(self, address: IPv4Address) -> bool:
        """Whether this host can have it; otherwise the node does not seek the gateway instance."""
        ...

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        """Assign it to this host for so many seconds from now, or extend that. Idempotent, bounded in time.

        Raises ``Unavailable`` when it may be tried again, ``ConfigurationError`` with the fix otherwise.
        """
        ...

    async def detach(self, address: IPv4Address) -> None:
        """Remove it from this host. Idempotent. Raises ``Unavailable``."""
        ...

    async def aclose(self) -> None:
        """Release its resources; addresses stay until their time ends."""
        ...
