"""What is written into the audit about virtual gateways and what they, or NASes, counted."""

from core.domain.audit import AuditAction, AuditEntry
from core.domain.gateway import GatewayLease
from core.ports.clock import Clock, Entropy
from core.ports.store import Audit
from core.services.ids import RecordIds


class AuditTrail:
    """Writes as one actor, a node's name. Every method raises ``Unavailable``."""

    def __init__(self, *, audit: Audit, clock: Clock, entropy: Entropy, actor: str) -> None:
        self._audit = audit
        self._clock = clock
        self._ids = RecordIds(clock=clock, entropy=entropy)
        self._actor = actor

    async def taken_over(self, before: GatewayLease, *, sessions: int, interval_s: float) -> None:
        """A gateway whose holder was gone: what it counted after its last reports is not here."""
        await self._record(
            AuditAction.TAKEN_OVER,
            before.gateway_id,
            f"from {before.owner}, fence {before.fence}, last renewed {before.renewed:%Y-%m-%dT%H:%M:%SZ},"
            f" with {sessions} sessions; of each, what was counted in the last {interval_s:g} s may not be"
            f" billed unless {before.owner} comes back and tells it",
        )

    async def counts_left(self, gateway_id: str, *, sessions: int) -> None:
        """What this node had counted before another one took over is told now, so nothing is missing."""
        await self._record(
            AuditAction.COUNTS_LEFT, gateway_id, f"the last counts of {sessions} sessions were told after all"
        )

    async def counts_lost(self, gateway_id: str, why: str) -> None:
        """A slot table that could not be trusted."""
        await self._record(AuditAction.COUNTS_LOST, gateway_id, why)

    async def usage_quarantined(self, client: str, detail: str) -> None:
        """A NAS of this client reported usage that cannot be: nobody is billed for it."""
        await self._record(AuditAction.USAGE_QUARANTINED, client, detail)

    async def _record(self, action: AuditAction, subject: str, detail: str) -> None:
        entry_id, now = self._ids.next(), self._clock.now()
        await self._audit.record(AuditEntry(entry_id, now, self._actor, action, subject, detail))
