"""Whether a gateway instance ever had two owners, seen from outside while nodes are killed.

Rules: the nodes' reports and the lease are checked separately. Nodes are asked one after the other: a node
that reports a lower fence than an earlier report still holds what another has taken. A fence of the lease
that falls, or that has two holders, also means two owners.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from core.domain.gateway import GatewayLease
from core.errors import Unavailable
from core.ports.store import Leases

LOOK_S = 0.02
LEASE_LOOK_S = 0.1


@dataclass(slots=True)
class OwnerWatch:
    """Looks until it is cancelled; ``contacts`` are the nodes' control channels by name."""

    contacts: Mapping[str, str]
    secret: str = field(repr=False)
    gateways: tuple[str, ...]
    leases: Leases[GatewayLease]
    looks: int = 0
    two_owners: list[str] = field(default_factory=list)
    _told: dict[str, tuple[int, str]] = field(default_factory=dict)
    _fences: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def fences(self) -> int:
        """How many holdings there were."""
        return sum(map(len, self._fences.values()))

    async def run(self) -> None:
        """Both looks, side by side."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_nodes())
            tasks.create_task(self._read_leases())

    async def _ask_nodes(self) -> None:
        timeout = aiohttp.ClientTimeout(total=1.0)
        headers = {"Authorization": f"Bearer {self.secret}"}
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
            while True:
                for name, contact in self.contacts.items():
                    with suppress(aiohttp.ClientError, TimeoutError, OSError):
                        async with http.get(f"{contact}/control/node") as answer:
                            self._handle(name, (await answer.json())["fences"])
                await asyncio.sleep(LOOK_S)

    def _handle(self, name: str, fences: Mapping[str, int]) -> None:
        self.looks += 1
        for gateway_id, fence in fences.items():
            highest, owner = self._told.get(gateway_id, (0, ""))
            if fence < highest or (fence == highest and name != owner):
                self.two_owners.append(
                    f"{gateway_id}: {name} reported fence {fence} after {highest} of {owner}"
                )
            else:
                self._told[gateway_id] = (fence, name)

    async def _read_leases(self) -> None:
        highest: dict[str, int] = {}
        while True:
            for gateway_id in self.gateways:
                with suppress(Unavailable):
                    if (lease := await self.leases.get(gateway_id)) is None:
                        continue
                    owner = self._fences.setdefault(gateway_id, {}).setdefault(lease.fence, lease.owner)
                    if owner != lease.owner or lease.fence < highest.get(gateway_id, 0):
                        self.two_owners.append(f"{gateway_id}: fence {lease.fence} of {owner}, {lease.owner}")
                    highest[gateway_id] = lease.fence
            await asyncio.sleep(LEASE_LOOK_S)
