"""The virtual gateway that this node holds.

Rules: a node answers for a virtual gateway only while it holds the lease; the fence rises with each
holding and is the metering epoch of slots begun under it; the restart counter is read from the lease and
stays (TS 23.007 §18), because sessions are read back.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address

from core.domain.gateway import GatewayLease
from core.domain.pools import AddressPool, PoolExhausted, TeidPool
from core.domain.reasons import AttachRefusal
from core.errors import LeaseLost, Refused, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.store import Leases

LEASE_S = 10.0


async def take_lease(leases: Leases, clock: Clock, *, gateway_id: str, owner: str) -> GatewayLease:
    """Take the virtual gateway, or raise ``Unavailable`` while another owner's lease runs.

    The same owner (a restarted node) takes it at once. The restart counter of a new gateway is 1.
    """
    now = clock.now()
    held = await leases.get(gateway_id)
    if held is None:
        wanted = GatewayLease(gateway_id, owner, 1, now + timedelta(seconds=LEASE_S), 1)
    elif held.owner != owner and held.expires > now:
        raise Unavailable(f"virtual gateway {gateway_id} is held by {held.owner}")
    else:
        wanted = GatewayLease(
            gateway_id,
            owner,
            held.fence + 1,
            now + timedelta(seconds=LEASE_S),
            held.restart_counter,
            held.version,
        )
    try:
        return await leases.put(wanted)
    except StaleVersion as error:
        raise Unavailable(f"virtual gateway {gateway_id} was taken by another node") from error


async def keep_lease(leases: Leases, clock: Clock, lease: GatewayLease) -> None:
    """Renew the lease in time, for ever; raises ``LeaseLost`` when another node took it."""
    while True:
        await asyncio.sleep(LEASE_S / 3)
        with suppress(Unavailable):
            try:
                lease = await leases.put(replace(lease, expires=clock.now() + timedelta(seconds=LEASE_S)))
            except StaleVersion:
                lease = await _renewed_unheard(leases, lease)


async def _renewed_unheard(leases: Leases, lease: GatewayLease) -> GatewayLease:
    """A renewal may have been stored although its answer was lost; the fence tells whose it is."""
    stored = await leases.get(lease.gateway_id)
    if stored is None or (stored.owner, stored.fence) != (lease.owner, lease.fence):
        raise LeaseLost(f"virtual gateway {lease.gateway_id} was taken by another node")
    return stored


class VirtualGateway:
    """The address, the pools and the epoch that sessions of this node live on."""

    def __init__(
        self,
        *,
        lease: GatewayLease,
        address: str,
        addresses: AddressPool,
        teids: TeidPool,
        clock: Clock,
    ) -> None:
        self.gateway_id = lease.gateway_id
        self.epoch = lease.fence
        self.restart_counter = lease.restart_counter
        self.address = address
        self._addresses = addresses
        self._teids = teids
        self._clock = clock

    @property
    def leases(self) -> dict[str, int]:
        """How many addresses and TEIDs are lent out."""
        return {"addresses": self._addresses.lent, "teids": self._teids.lent}

    def lease_address(self) -> IPv4Address:
        """A device address; raises ``Refused(ADDRESSES_OCCUPIED)``."""
        with _exhausted_is(AttachRefusal.ADDRESSES_OCCUPIED):
            return self._addresses.lease(self._clock.monotonic())

    def claim_address(self, address: IPv4Address) -> None:
        """The address that a device says it was given; raises ``Refused(ADDRESSES_OCCUPIED)``."""
        if not self._addresses.claim(address):
            raise Refused(AttachRefusal.ADDRESSES_OCCUPIED, f"{address} is not free")

    def lease_teid(self) -> int:
        """A TEID; raises ``Refused(NO_RESOURCES)``."""
        with _exhausted_is(AttachRefusal.NO_RESOURCES):
            return self._teids.lease(self._clock.monotonic())

    def release_address(self, address: IPv4Address) -> None:
        """Into quarantine."""
        self._addresses.release(address, self._clock.monotonic())

    def release_teid(self, teid: int) -> None:
        """Into quarantine."""
        self._teids.release(teid, self._clock.monotonic())

    def claim(self, address: IPv4Address, teids: tuple[int, ...]) -> None:
        """Mark what a session that was read back already holds."""
        self._addresses.claim(address)
        for teid in teids:
            self._teids.claim(teid)


@contextmanager
def _exhausted_is(refusal: AttachRefusal) -> Iterator[None]:
    try:
        yield
    except PoolExhausted as error:
        raise Refused(refusal, str(error)) from error
