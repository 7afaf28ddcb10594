"""Keeping a gateway instance's addresses at this host, for as long as its term lasts."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from core.errors import Unavailable
from core.ports.floating_ip import FloatingIp
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.running.faults import Faults

ADDRESS_LOOP = "gateway-address"
KEEP_ADDRESS_S = 2.0
"""How often an address is brought again: it stays until the term's end, as that stood then."""


class AddressKeeper:
    """Brings ``addresses`` and lets them go, one after the other; ``remaining_s``: of the term."""

    def __init__(
        self,
        *,
        addresses: Sequence[IPv4Address],
        floating_ip: FloatingIp,
        gateway: GatewayInstance,
        remaining_s: Callable[[], float],
        faults: Faults,
    ) -> None:
        self._addresses = addresses
        self._floating_ip = floating_ip
        self._gateway = gateway
        self._remaining_s = remaining_s
        self._faults = faults
        self._moving = asyncio.Lock()

    async def attach(self) -> None:
        """Letting go comes last: once the gateway is fenced nothing is brought. Raises ``Unavailable``, and
        what ``FloatingIp.bring`` does.
        """
        async with self._moving:
            for address in self._addresses:
                self._gateway.demand_held()
                await self._floating_ip.attach(address, lasting_s=self._remaining_s())

    async def run(self) -> None:
        """Bring them again and again, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_ADDRESS_S)
            try:
                await self.attach()
            except Unavailable as error:  # tried again well before it ends
                self._faults.stands(ADDRESS_LOOP, error, self._gateway.gateway_id)
            else:
                self._faults.goes_on(ADDRESS_LOOP, self._gateway.gateway_id)

    async def detach(self) -> None:
        """They are this host's no longer; raises ``Unavailable``."""
        async with self._moving:
            for address in self._addresses:
                await self._floating_ip.detach(address)
