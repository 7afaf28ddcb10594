"""Singleton jobs: work that one node does for all, under a lease for each.

Rules:

- A singleton job is named and done in steps. The holder of its lease does it; a holder that dies is replaced
  as that of a gateway instance is (``core.services.cluster.lease_seeking``), and no step begins after the
  term.
- A step is bounded, and doing it again changes nothing: it may be cut off at any point.
- A step that the store would not let through is tried again. One that a fault of ours ended
  is tried again after a pause that grows; other singleton jobs go on.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from core.domain.lease import Lease
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.peers import Peers
from core.ports.store import Leases
from core.services.cluster.lease_coordinator import LeaseCoordinator
from core.services.gateway.lease_term import LeaseTerm
from core.services.running.faults import Faults

RETRY_S = 1.0
LOOP, LEASE_LOOP = "job", "job-lease"
_PREFIX = "chore/"
"""No gateway instance is named so."""

Step = Callable[[], Awaitable[float]]
"""Does a piece; returns in how many seconds to call again; raises ``Unavailable``, ``StaleVersion``."""


class SingletonJobs:
    """The singleton jobs of one node, by name. ``outcomes`` counts the steps ``done`` and ``failed`` here."""

    def __init__(
        self,
        *,
        leases: Leases[Lease],
        peers: Peers,
        clock: Clock,
        owner: str,
        contact: str,
        folder_id: str = "",
        faults: Faults,
        steps: Mapping[str, Step],
    ) -> None:
        self._steps = steps
        self._faults = faults
        self.outcomes: Mapping[str, Counter[str]] = {name: Counter() for name in steps}
        self._coordinator = LeaseCoordinator[Lease, _Worker](
            leases=leases,
            kind=Lease,
            peers=peers,
            clock=clock,
            owner=owner,
            contact=contact,
            folder_id=folder_id,
            lease_ids=[_PREFIX + name for name in steps],
            preferred=(),
            make=self._make,
            flush_left=_nothing_left,
            faults=faults,
            loop=LEASE_LOOP,
        )

    @property
    def held(self) -> frozenset[str]:
        """The singleton jobs that this node does now."""
        return frozenset(lease_id.removeprefix(_PREFIX) for lease_id in self._coordinator.held)

    @property
    def refused(self) -> Counter[str]:
        """What the table of their leases' states refused."""
        return self._coordinator.refused

    async def run(self) -> None:
        """Seek and do, until cancelled."""
        await self._coordinator.run()

    async def drain(self) -> None:
        """Leave everything to others and take nothing any more."""
        await self._coordinator.drain()

    async def aclose(self) -> None:
        """Stop without releasing the leases."""
        await self._coordinator.aclose()

    def _make(self, term: LeaseTerm[Lease], _: Lease | None) -> "_Worker":
        name = term.lease.lease_id.removeprefix(_PREFIX)
        return _Worker(name, term, self._steps[name], self.outcomes[name], self._faults)


class _Worker:
    """One singleton job during one term. Implements ``LeaseWorker``: there is nothing to open, settle or
    close.
    """

    def __init__(
        self, name: str, term: LeaseTerm[Lease], step: Step, outcomes: Counter[str], faults: Faults
    ) -> None:
        self._name = name
        self._term = term
        self._step = step
        self._outcomes = outcomes
        self._faults = faults
        self._is_fenced = False

    async def start(self) -> int:
        return 0

    async def run(self) -> None:
        await self._faults.supervise(LOOP, self._work, self._name)

    async def _work(self) -> None:
        while self._term.is_running and not self._is_fenced:
            try:
                pause_s = await self._step()
                self._outcomes["done"] += 1
                self._faults.goes_on(LOOP, self._name)
            except StaleVersion:
                pause_s = RETRY_S
                self._outcomes["failed"] += 1
            except Unavailable as error:
                self._faults.stands(LOOP, error, self._name)
                pause_s = RETRY_S
                self._outcomes["failed"] += 1
            await asyncio.sleep(pause_s)

    def fence(self) -> None:
        self._is_fenced = True

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def _nothing_left(_: str) -> None:
    """Another node holds the job: nothing of it was kept here."""
