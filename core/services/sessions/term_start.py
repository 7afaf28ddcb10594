"""The start of a gateway's lease term: its sessions are read back, and what may be missing is audited."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address

from core.domain.gateway import GatewayLease
from core.services.running.audit import AuditTrail
from core.services.running.faults import Fault, Faults
from core.services.sessions.recovery import SessionRecovery


@dataclass(frozen=True, slots=True, kw_only=True)
class TermStart:
    """``before`` is the lease as it was; ``is_own``: this node's own, or no node's. ``keep`` is
    ``SessionRecovery.recover``'s; a session is reported each ``report_interval_s``.
    """

    gateway_id: str
    before: GatewayLease | None
    is_own: bool
    recovery: SessionRecovery
    keep: Callable[[Collection[IPv4Address]], Awaitable[Collection[IPv4Address]]]
    read_outbox: Callable[[], None]
    audit: AuditTrail
    faults: Faults
    report_interval_s: float

    async def run(self, *, lost_counts: str) -> int:
        """How many sessions there are; ``lost_counts``: why their counts are lost, else empty.

        Raises ``Unavailable``, and ``Refused`` when there are more sessions than counter slots.
        """
        recovered = await self.recovery.recover(self.keep, is_resumed=self.is_own)
        unfinished = None if self.before is None or self.before.is_released else self.before
        if unfinished is not None:
            self.read_outbox()  # it alone has the events that the former holder had under way
        for why in self.recovery.unreadable:
            await self.audit.records_skipped(self.gateway_id, f"session: {why}")
            self.faults.passed_over("sessions", Fault.ITEM, why)
        if lost_counts:
            await self.audit.counts_lost(self.gateway_id, lost_counts)
        if unfinished is not None and not self.is_own:
            await self.audit.taken_over(unfinished, sessions=recovered, interval_s=self.report_interval_s)
        return recovered


async def report_left_counts(
    gateway_id: str, *, sessions: int, report: Callable[[Collection[str]], Awaitable[None]], audit: AuditTrail
) -> None:
    """Another node holds the gateway: ``report`` reports once more what was counted here for ``sessions``.

    Nothing is counted on: the sessions are in the other node's epoch. Raises ``Unavailable``.
    """
    await report(())
    if sessions:
        await audit.counts_left(gateway_id, sessions=sessions)
