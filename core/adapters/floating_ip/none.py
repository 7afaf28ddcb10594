"""No floating IP: addresses stay where they are. Imports nothing else."""

from ipaddress import IPv4Address


class NoMover:
    """Implements ``AddressMover`` where every address is this host's own already, as on the loopback."""

    def may_bring(self, address: IPv4Address) -> bool:
        """Always."""
        return True

    async def bring(self, address: IPv4Address, *, lasting_s: float) -> None:
        """It is here."""

    async def let_go(self, address: IPv4Address) -> None:
        """It stays."""

    async def aclose(self) -> None:
        """Nothing is held."""
