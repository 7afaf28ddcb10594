"""Entries of the audit log: gateways, counters, skipped records, customers, SIMs, failed sign-ins."""

from core.domain.audit import AuditAction, AuditEntry
from core.domain.gateway import GatewayLease
from core.ports.clock import Clock, Entropy
from core.ports.store import Audit
from core.services.running.ids import RecordIds


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
            before.lease_id,
            f"from {before.owner}, fence {before.fence}, last renewed {before.renewed:%Y-%m-%dT%H:%M:%SZ},"
            f" with {sessions} sessions; usage counted in the last {interval_s:g} s of each may not be"
            f" billed unless {before.owner} returns and reports it",
        )

    async def counts_left(self, gateway_id: str, *, sessions: int) -> None:
        """What this node had counted before another one took over is reported now, so nothing is missing."""
        await self._record(
            AuditAction.COUNTS_LEFT,
            gateway_id,
            f"the last counters of {sessions} sessions were reported after all",
        )

    async def counts_lost(self, gateway_id: str, why: str) -> None:
        """A counter table that could not be trusted."""
        await self._record(AuditAction.COUNTS_LOST, gateway_id, why)

    async def records_skipped(self, subject: str, why: str) -> None:
        """What a reader of ``subject`` skipped permanently."""
        await self._record(AuditAction.RECORDS_SKIPPED, subject, why)

    async def late_usage(self, operator_id: str, detail: str) -> None:
        """Usage that came after its month was closed."""
        await self._record(AuditAction.LATE_USAGE, operator_id, detail)

    async def guessed(self, subject: str, detail: str) -> None:
        """A credential or a secret was wrong too often."""
        await self._record(AuditAction.GUESSED, subject, detail)

    async def operator_created(self, operator_id: str) -> None:
        """Over the control channel."""
        await self._record(AuditAction.OPERATOR_CREATED, operator_id, "over the control channel")

    async def operator_closed(self, operator_id: str) -> None:
        """Its SIMs are terminated."""
        await self._record(AuditAction.OPERATOR_CLOSED, operator_id, "and its SIMs terminated")

    async def sims_imported(self, operator_id: str, count: int) -> None:
        """Of one operator, or into the stock."""
        await self._record(AuditAction.SIMS_IMPORTED, operator_id or "stock", f"{count} SIMs")

    async def session_taken_over(self, gateway_id: str, session_id: str, *, before: str, after: str) -> None:
        """Another partner has a session now, or ended it by one of its own for the same SIM."""
        detail = f"session {session_id} of {before} was taken over, or replaced, by {after}"
        await self._record(AuditAction.SESSION_TAKEN_OVER, gateway_id, detail)

    async def peer_restarted(self, gateway_id: str, peer: str, *, counter: int, ended: int, of: int) -> None:
        """A restart that was proved: what the peer had before it ends."""
        await self._record(
            AuditAction.PEER_RESTARTED,
            gateway_id,
            f"{peer} confirmed twice that its restart counter is {counter}; {ended} of {of} earlier"
            f" sessions ended",
        )

    async def usage_quarantined(self, client: str, detail: str) -> None:
        """A NAS of this client reported usage that cannot be: it is in no bill."""
        await self._record(AuditAction.USAGE_QUARANTINED, client, detail)

    async def _record(self, action: AuditAction, subject: str, detail: str) -> None:
        entry_id, now = self._ids.next(), self._clock.now()
        await self._audit.record(AuditEntry(entry_id, now, self._actor, action, subject, detail))
