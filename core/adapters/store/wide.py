"""All repositories over one engine."""

from core.adapters.store.accounts import WideAccounts
from core.adapters.store.audit import WideAudit
from core.adapters.store.bills import WideBills
from core.adapters.store.blocks import WideBlocks
from core.adapters.store.bulk import BulkEngine
from core.adapters.store.engine import Batch, Engine, Put, microseconds
from core.adapters.store.groups import WideGroups
from core.adapters.store.leases import WideHolders, WideLeases, WideShardLeases
from core.adapters.store.message_counts import WideMessageCounts
from core.adapters.store.nas_restarts import WideNasRestarts
from core.adapters.store.rows import get_row
from core.adapters.store.sessions import WideSessions
from core.adapters.store.sims import WideSims
from core.adapters.store.tables import DAY_US, GATEWAY_LEASE
from core.adapters.store.usage import WideUsage
from core.domain.gateway import GatewayLease
from core.domain.lease import Lease
from core.errors import Unavailable
from core.ports.clock import Clock

_NODE_PREFIX = "node/"
"""No virtual gateway is named so, and no chore."""


class WideStore:
    """Implements ``Store``. The clock dates index rows, and measures how old is what is known of folding."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._bulk: WideStore | None = self if isinstance(engine, BulkEngine) else None
        self._accounts = WideAccounts(engine=engine, clock=clock)
        self._sims = WideSims(engine=engine, clock=clock)
        self._groups = WideGroups(engine=engine)
        self._sessions = WideSessions(engine=engine, clock=clock)
        self._usage = WideUsage(engine=engine, clock=clock)
        self._nas_restarts = WideNasRestarts(engine=engine)
        self._leases = WideLeases(engine=engine, kind=GatewayLease)
        self._job_leases = WideLeases(engine=engine, kind=Lease)
        self._holders = WideHolders(engine=engine)
        self._blocks = WideBlocks(engine=engine)
        self._shard_leases = WideShardLeases(engine=engine)
        self._audit = WideAudit(engine=engine)
        self._bills = WideBills(engine=engine)
        self._message_counts = WideMessageCounts(engine=engine)

    @property
    def accounts(self) -> WideAccounts:
        """Operators and keys."""
        return self._accounts

    @property
    def sims(self) -> WideSims:
        """The registry."""
        return self._sims

    @property
    def groups(self) -> WideGroups:
        """Groups."""
        return self._groups

    @property
    def sessions(self) -> WideSessions:
        """Sessions and their history."""
        return self._sessions

    @property
    def usage(self) -> WideUsage:
        """Usage rows."""
        return self._usage

    @property
    def bills(self) -> WideBills:
        """Tariffs and closed months."""
        return self._bills

    @property
    def nas_restarts(self) -> WideNasRestarts:
        """Restarts of NASes."""
        return self._nas_restarts

    @property
    def leases(self) -> WideLeases[GatewayLease]:
        """Virtual gateways' leases."""
        return self._leases

    @property
    def job_leases(self) -> WideLeases[Lease]:
        """Leases of what one node does for all."""
        return self._job_leases

    @property
    def holders(self) -> WideHolders:
        """Who has which static address."""
        return self._holders

    @property
    def blocks(self) -> WideBlocks:
        """Blocks of device addresses."""
        return self._blocks

    @property
    def shard_leases(self) -> WideShardLeases:
        """Consumers' leases and checkpoints."""
        return self._shard_leases

    @property
    def message_counts(self) -> WideMessageCounts:
        """Counts of messages."""
        return self._message_counts

    @property
    def audit(self) -> WideAudit:
        """The audit."""
        return self._audit

    @property
    def bulk(self) -> "WideStore":
        """The same rows, for callers that can wait."""
        if self._bulk is None:
            self._bulk = WideStore(engine=BulkEngine(self._engine), clock=self._clock)
        return self._bulk

    async def prove(self, node: str) -> None:
        """One row, beside the leases, as whose calls these wait for no other; it ends a day later."""
        partition = (f"{_NODE_PREFIX}{node}",)
        expires_us = microseconds(self._clock.now()) + DAY_US
        put = Put((), ("",), 1, expires_us=expires_us)
        await self._engine.write(Batch(GATEWAY_LEASE, partition, (put,)))
        if await get_row(self._engine, GATEWAY_LEASE, partition) is None:
            raise Unavailable("the store does not have what it said to have written")

    async def aclose(self) -> None:
        """Finish what was accepted, then let go; idempotent."""
        await self._engine.aclose()
