"""No floating IP: addresses stay where they are. Imports nothing else."""

from ipaddress import IPv4Address


class StaysInPlace:
    """Implements ``FloatingIp`` where every address is this host's own already, as on the loopback."""

    def may_attach(self, address: IPv4Address) -> bool:
        """Always."""
        return True

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        """It is here."""

    async def detach(self, address: IPv4Address) -> None:
        """It stays."""

    async def aclose(self) -> None:
        """Nothing is held."""
