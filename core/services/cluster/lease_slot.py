"""The slot of a lease on a node that could hold it, and what works there during a term. No I/O."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from core.domain.lease import Lease
from core.domain.machine import step
from core.services.cluster.lease_states import LEASES, LeaseAction, LeaseEvent, LeaseState
from core.services.gateway.lease_term import LeaseTerm


class LeaseWorker(Protocol):
    """What works for whatever is leased, during one term."""

    async def start(self) -> int:
        """Make ready to serve, open sockets last; how much was read back. Raises ``Unavailable``,
        ``ConfigurationError``.
        """
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    def fence(self) -> None:
        """Answer and forward nothing any more, at once. Idempotent."""
        ...

    async def flush(self) -> None:
        """After ``fence``: make durable what was counted. Raises ``Unavailable``."""
        ...

    async def aclose(self) -> None:
        """Let go of everything; idempotent."""
        ...


L = TypeVar("L", bound=Lease)
W = TypeVar("W", bound=LeaseWorker)


@dataclass(slots=True)
class LeaseSlot(Generic[L, W]):
    """One lease as this node sees it: its state, who holds it as far as is known, and during a term of this
    node the term and its worker. ``refused`` counts what the table refuses, of all slots of the node.
    """

    lease_id: str
    refused: Counter[str]
    state: LeaseState = LeaseState.SEEKING
    holder: str = ""
    contact: str = ""
    look_now: asyncio.Event = field(default_factory=asyncio.Event)
    """Something happened: do not wait to read the lease."""
    term: LeaseTerm[L] | None = None
    worker: W | None = None
    trouble: str = ""
    """Why the worker cannot start, as of the last try."""
    wanted_back: asyncio.Event = field(default_factory=asyncio.Event)
    """A hand-over was asked for."""

    def step(self, event: LeaseEvent) -> LeaseAction | None:
        """Go where the table says; what is to be done then."""
        self.state, action = step(LEASES, self.state, event, self.refused) or (self.state, None)
        return action
