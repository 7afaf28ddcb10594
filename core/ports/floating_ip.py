"""Floating IP: a gateway instance's address moves to the host of the node that serves it.

Rules: only whoever holds a lease term calls, and says for how long at most the address may stay without being
brought again. So the address of a node that was killed or stands still goes when its lease term ends, not
before somebody is there to take it away.
"""

from ipaddress import IPv4Address
from typing import Protocol


class FloatingIp(Protocol):
    """Moves addresses to this host."""

    def may_attach(self, address: IPv4Address) -> bool:
        """Whether this host could ever have it; where it could not, the gateway is not sought."""
        ...

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        """Make it this host's own for so long from now, or go on so. Idempotent, bounded in time.

        Raises ``Unavailable`` when it may be tried again, ``ConfigurationError`` with the fix otherwise.
        """
        ...

    async def detach(self, address: IPv4Address) -> None:
        """It is this host's own no longer. Idempotent. Raises ``Unavailable``."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds; the addresses end by themselves."""
        ...
