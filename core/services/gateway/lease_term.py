"""One term of a lease, from the taking of it until it is lost or given up.

Rules:

- A node answers for what it leased only during its term, which ends by this node's own monotonic clock
  ``LEASE_S`` after the beginning of its last renewal. Others take over only later
  (``core.services.cluster.lease_seeking``), so there are never two owners, whatever the nodes' clocks show.
- Every write names the version that was read. One that is stale is of a renewal whose answer was lost, or of
  another holder: owner and fence identify the term.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from core.domain.lease import Lease
from core.domain.values import replace
from core.errors import LeaseLost, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.store import Leases

LEASE_S, RENEW_S = 12.0, 1.0
"""A store that takes five seconds for a write still renews in time: 5 + 1 + 5 < 12."""

L = TypeVar("L", bound=Lease)


class LeaseTerm(Generic[L]):
    """The term. ``began`` is when the write of ``lease`` was begun."""

    def __init__(self, *, leases: Leases[L], clock: Clock, lease: L, began: float) -> None:
        self._leases = leases
        self._clock = clock
        self.lease = lease
        self.until = began + LEASE_S
        """When it is over unless it is renewed, by the monotonic clock."""

    @property
    def is_running(self) -> bool:
        """Whether this node may answer and write for what it leased now."""
        return self.until > self._clock.monotonic()

    @property
    def remaining_s(self) -> float:
        """How long it lasts without another renewal; not above 0 when it is over."""
        return self.until - self._clock.monotonic()

    async def keep(self) -> None:
        """Renew in time, until cancelled; raises ``LeaseLost`` when another took it or renewals failed."""
        while True:
            await asyncio.sleep(max(0.0, min(RENEW_S, self.until - self._clock.monotonic())))
            began = self._clock.monotonic()
            if began >= self.until:
                raise LeaseLost(f"{self.lease.lease_id}: the lease expired: it could not be renewed in time")
            try:
                async with asyncio.timeout(self.until - began):
                    await self._renew()
            except (TimeoutError, Unavailable):
                continue
            self.until = began + LEASE_S

    async def release(self) -> None:
        """Give it up: the next node may take it at once. Raises ``Unavailable``, ``LeaseLost``."""
        self.until = self._clock.monotonic()
        try:
            self.lease = await self._leases.put(replace(self.lease, is_released=True))
        except StaleVersion:
            stored = await self._own()
            if not stored.is_released:
                self.lease = await self._leases.put(replace(stored, is_released=True))

    async def change(self, change: Callable[[L], L]) -> L:
        """Write what the lease says beside its holder; durable on return. Raises ``Unavailable``."""
        while True:
            try:
                self.lease = await self._leases.put(change(self.lease))
            except StaleVersion:  # a renewal was faster
                self.lease = await self._own()
                continue
            return self.lease

    async def _renew(self) -> None:
        wanted = replace(self.lease, renewed=self._clock.now())
        try:
            self.lease = await self._leases.put(wanted)
        except StaleVersion:
            self.lease = await self._own()

    async def _own(self) -> L:
        """A renewal may have been stored although its answer was lost; the fence shows whose it is."""
        stored = await self._leases.get(self.lease.lease_id)
        if stored is None or (stored.owner, stored.fence) != (self.lease.owner, self.lease.fence):
            raise LeaseLost(f"{self.lease.lease_id}: taken over by {stored.owner if stored else 'no node'}")
        return stored


async def take_lease(leases: Leases[L], clock: Clock, wanted: L) -> LeaseTerm[L]:
    """Begin a term by writing ``wanted``. The caller has found that it may be taken.

    Raises ``StaleVersion`` when another node was faster, and ``Unavailable``.
    """
    began = clock.monotonic()
    return LeaseTerm(leases=leases, clock=clock, lease=await leases.put(wanted), began=began)
