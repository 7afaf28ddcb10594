"""A gateway instance while this node holds it: what it allocates.

Rules:

- A node answers for a gateway instance only during its lease's term (``core.services.gateway.lease_term``).
- The fence rises with each holding and is the metering epoch of slots begun under it; the restart counter is
  read from the lease and stays (TS 23.007 §18), because sessions are read back.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from core.domain.gateway import GatewayLease
from core.domain.pools import NO_PREFIXES, AddressPool, PoolExhausted, TeidPool, UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.session import QuarantinedResources, Session
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.services.gateway.lease_term import LeaseTerm

MORE_S = 2.0
"""How long an attach waits for addresses that are on their way."""
CLOCKS_APART_S = 5.0
"""What is in quarantine is found so much longer by a node whose clock is ahead."""


@dataclass(slots=True)
class _PoolInUse:
    """A pool, and what keeps its blocks."""

    addresses: AddressPool
    handle_allocation: Callable[[float], None] = lambda _: None
    more: Callable[[], asyncio.Event | None] = lambda: None


class GatewayInstance:
    """The address, the pools and the epoch that sessions of this node live on.

    ``addresses`` is the pool of access points that have none of their own, ``apn_pools`` are those of the
    others, by network; in every call ``None`` is the common one.
    """

    def __init__(
        self,
        *,
        term: LeaseTerm[GatewayLease],
        address: str,
        addresses: AddressPool,
        teids: TeidPool,
        quarantine_s: float,
        clock: Clock,
        static_pool: IPv4Network | None = None,
        prefixes: UePrefixes = NO_PREFIXES,
        apn_pools: Mapping[IPv4Network, AddressPool] | None = None,
    ) -> None:
        self._term = term
        self._is_fenced = False
        self.gateway_id = term.lease.lease_id
        self.epoch = term.lease.fence
        self.restart_counter = term.lease.restart_counter
        self.address = address
        self.prefixes = prefixes
        self._pools: dict[IPv4Network | None, _PoolInUse] = {None: _PoolInUse(addresses)}
        self._pools |= {network: _PoolInUse(pool) for network, pool in (apn_pools or {}).items()}
        self._teids = teids
        self._static_pool = static_pool
        self._quarantine = timedelta(seconds=quarantine_s + CLOCKS_APART_S)
        self._clock = clock

    def fence(self) -> None:
        """The term is over, or ending: nothing may begin here any more."""
        self._is_fenced = True

    def demand_held(self) -> float:
        """The time now, by the monotonic clock; raises ``Unavailable`` when the term is over: nothing may be
        written any more.
        """
        now = self._clock.monotonic()
        if self._is_fenced or now >= self._term.until:
            raise Unavailable(f"{self.gateway_id} is no longer served by this node")
        return now

    async def raise_restart_counter(self) -> int:
        """Sessions were lost (TS 23.007 §18): what peers are sent from now on; raises ``Unavailable``."""
        self.demand_held()
        lease = await self._term.change(
            lambda lease: replace(lease, restart_counter=lease.restart_counter + 1)
        )
        self.restart_counter = lease.restart_counter
        return self.restart_counter

    @property
    def allocated(self) -> dict[str, int]:
        """How many addresses and TEIDs are allocated."""
        return {"addresses": sum(self.allocated_of.values()), "teids": self._teids.allocated}

    @property
    def allocated_of(self) -> dict[str, int]:
        """How many addresses of each pool are allocated, by its network; those of the common one first."""
        return {str(of or "common"): pool.addresses.allocated for of, pool in self._pools.items()}

    def on_allocation(self, handle: Callable[[float], None], of: IPv4Network | None = None) -> None:
        """Call ``handle(now)`` after each attempt to allocate an address of this pool; it must not raise."""
        self._pools[of].handle_allocation = handle

    def on_need(self, more: Callable[[], asyncio.Event | None], of: IPv4Network | None = None) -> None:
        """Ask ``more()`` when all of this pool are allocated: it is set when others come; ``None``: none
        will.
        """
        self._pools[of].more = more

    async def allocate_address_soon(self, of: IPv4Network | None = None) -> IPv4Address:
        """A device address; of many that are asked for at once, some wait for the next block to come.

        Raises ``Refused(ADDRESSES_OCCUPIED)`` when there is none, or none in time; ``Unavailable``.
        """
        until = None
        while True:
            try:
                return self.allocate_address(of)
            except Refused:
                now = self._clock.monotonic()
                until = now + MORE_S if until is None else until
                left_s = until - now
                if left_s <= 0 or (more := self._pools[of].more()) is None:
                    raise
            with suppress(TimeoutError):
                await asyncio.wait_for(more.wait(), left_s)

    def allocate_address(self, of: IPv4Network | None = None) -> IPv4Address:
        """A device address; raises ``Refused(ADDRESSES_OCCUPIED)``, ``Unavailable``."""
        now, pool = self.demand_held(), self._pools[of]
        try:
            return pool.addresses.allocate(now)
        except PoolExhausted as error:
            raise Refused(AttachRefusal.ADDRESSES_OCCUPIED, str(error)) from error
        finally:
            pool.handle_allocation(now)

    def is_static(self, address: IPv4Address) -> bool:
        """Whether it is never allocated, because it is some SIM's own
        (``core.services.sessions.static_addresses``).
        """
        return self._static_pool is not None and address in self._static_pool

    def claim_address(self, address: IPv4Address, imsi: str, of: IPv4Network | None = None) -> None:
        """The address that a device says it was given; raises ``Refused(ADDRESSES_OCCUPIED)`` when it is not
        free, or of another pool; ``Unavailable``.
        """
        self.demand_held()
        if not self.is_static(address) and not self._pools[of].addresses.claim(address, holder=imsi):
            raise Refused(AttachRefusal.ADDRESSES_OCCUPIED, f"{address} is not free")

    def allocate_teids(self, number: int) -> list[int]:
        """So many TEIDs; raises ``Refused(NO_RESOURCES)``, and then none is allocated."""
        now = self._clock.monotonic()
        teids: list[int] = []
        try:
            for _ in range(number):
                teids.append(self._teids.allocate(now))
        except PoolExhausted as error:
            self.release_teids(teids)
            raise Refused(AttachRefusal.NO_RESOURCES, str(error)) from error
        return teids

    def release_address(self, address: IPv4Address, imsi: str) -> None:
        """Into quarantine, in which the same IMSI alone may claim it."""
        now = self._clock.monotonic()
        for pool in self._pools.values():  # nothing happens in those that it is not of
            pool.addresses.release(address, now, holder=imsi)

    def release_teids(self, teids: Iterable[int]) -> None:
        """Into quarantine."""
        now = self._clock.monotonic()
        for teid in teids:
            self._teids.release(teid, now)

    def reclaim(self, session: Session) -> bool:
        """Mark what a session that was read back already holds; false when another has its address."""
        for teid in session.teids:
            self._teids.reclaim(teid)
        return any(pool.addresses.reclaim(session.ue_address) for pool in self._pools.values())

    def quarantine(self, quarantined: QuarantinedResources) -> None:
        """Begin the whole quarantine of what was found in quarantine: no clock but our own measures it."""
        now = self._clock.monotonic()
        for pool in self._pools.values():
            pool.addresses.quarantine(quarantined.ue_address, now)
        for teid in quarantined.teids:
            self._teids.quarantine(teid, now)

    def quarantined_until(self) -> datetime:
        """Until when the next holder of the gateway must keep in quarantine what is released now."""
        return self._clock.now() + self._quarantine
