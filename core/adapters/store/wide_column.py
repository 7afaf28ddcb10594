"""All repositories over one engine."""

from core.adapters.store.accounts import WideAccounts
from core.adapters.store.address_blocks import WideBlocks
from core.adapters.store.audit import WideAudit
from core.adapters.store.bills import WideBills
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
"""No gateway instance is named so, and no singleton job."""


class WideColumnStore:
    """Implements ``Store``. The clock dates index rows, and measures how old is what is known of rollup."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._bulk: WideColumnStore | None = self if isinstance(engine, BulkEngine) else None
        self.accounts = WideAccounts(engine=engine, clock=clock)
        self.sims = WideSims(engine=engine, clock=clock)
        self.groups = WideGroups(engine=engine)
        self.sessions = WideSessions(engine=engine, clock=clock)
        self.usage = WideUsage(engine=engine, clock=clock)
        self.bills = WideBills(engine=engine)
        self.nas_restarts = WideNasRestarts(engine=engine)
        self.leases = WideLeases(engine=engine, kind=GatewayLease)
        self.job_leases = WideLeases(engine=engine, kind=Lease)
        self.holders = WideHolders(engine=engine)
        self.blocks = WideBlocks(engine=engine)
        self.shard_leases = WideShardLeases(engine=engine)
        self.message_counts = WideMessageCounts(engine=engine)
        self.audit = WideAudit(engine=engine)

    @property
    def bulk(self) -> "WideColumnStore":
        """The same rows, for callers that can wait."""
        if self._bulk is None:
            self._bulk = WideColumnStore(engine=BulkEngine(self._engine), clock=self._clock)
        return self._bulk

    async def prove(self, node: str) -> None:
        """Write a row of this node's and read it back; raises ``Unavailable``.

        It is in the table of leases, whose calls do not wait behind others, and expires after a day.
        """
        partition = (f"{_NODE_PREFIX}{node}",)
        expires_us = microseconds(self._clock.now()) + DAY_US
        put = Put((), ("",), 1, expires_us=expires_us)
        await self._engine.write(Batch(GATEWAY_LEASE, partition, (put,)))
        if await get_row(self._engine, GATEWAY_LEASE, partition) is None:
            raise Unavailable("the store does not return what it acknowledged")

    async def aclose(self) -> None:
        """Finish what was accepted, then let go; idempotent."""
        await self._engine.aclose()
