"""Customers as the installation's operator manages them: create, list, close.

Rules: an operator is closed before its SIMs end, so that nothing of it begins meanwhile; closing is repeated
until it is done, and may be repeated after that.
"""

from dataclasses import dataclass

from core.domain.account import Operator
from core.domain.reasons import RequestRefusal
from core.domain.sim import SimStatus
from core.errors import Refused
from core.ports.store import Page, Store
from core.services.customers.identity import Identity, NewAuthKey
from core.services.customers.sims import Sims
from core.services.running.audit import AuditTrail

CLOSED_AT_ONCE_MAX = 200
"""SIMs that one step of closing terminates."""


@dataclass(frozen=True, slots=True)
class Closing:
    """How far it is: SIMs that this step terminated, and where the next goes on; empty: it is done."""

    terminated: int
    next_key: str


class Operators:
    """Each method raises ``Refused`` with a ``RequestRefusal``, or ``Unavailable``."""

    def __init__(self, *, store: Store, identity: Identity, sims: Sims, audit: AuditTrail) -> None:
        self._store = store
        self._identity = identity
        self._sims = sims
        self._audit = audit

    async def create(self, email: str, password: str = "") -> NewAuthKey:
        """An operator and its first auth key."""
        operator = await self._identity.create_operator(email, password)
        await self._audit.operator_created(operator.operator_id)
        return await self._identity.generate_auth_key(operator.operator_id)

    async def add_auth_key(self, operator_id: str) -> NewAuthKey:
        """One more, for a customer who lost the others."""
        return await self._identity.generate_auth_key(operator_id)

    async def page(self, *, after: str, limit: int) -> Page[Operator]:
        """Those that are open, by id."""
        return await self._store.accounts.open_operators(after=after, limit=limit)

    async def close(self, operator_id: str, *, terminate_sims: bool, after: str = "") -> Closing:
        """A step of closing one; with SIMs that are not terminated yet ``terminate_sims`` must say so."""
        operator = await self._store.accounts.operator(operator_id)
        if operator is not None and operator.closed is None and not terminate_sims:
            await self._check_idle(operator_id)
        if not after or operator is None or operator.closed is None:
            await self._identity.close_operator(operator_id)
        page = await self._store.sims.of_operator(operator_id, after=after, limit=CLOSED_AT_ONCE_MAX)
        terminated = 0
        for sim in page.items:
            await self._sims.end(operator_id, sim.sim_id)
            terminated += sim.status is not SimStatus.TERMINATED
        if not page.next_key:
            await self._audit.operator_closed(operator_id)
        return Closing(terminated, page.next_key)

    async def close_whole(self, operator_id: str) -> None:
        """All steps, its SIMs included."""
        after = ""
        while after := (await self.close(operator_id, terminate_sims=True, after=after)).next_key:
            pass

    async def _check_idle(self, operator_id: str) -> None:
        after = ""
        while True:
            page = await self._store.sims.of_operator(operator_id, after=after)
            if any(sim.status is not SimStatus.TERMINATED for sim in page.items):
                raise Refused(
                    RequestRefusal.INVALID_TRANSITION,
                    "The customer has SIMs that are not terminated; --terminate-sims terminates them.",
                )
            if not (after := page.next_key):
                return
