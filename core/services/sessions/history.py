"""The history of a SIM's sessions: what happened to them, as events, and what can be read from an event.

Rule: an event that belongs to a change of a session is made here and written with that change, not here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import TypeVar

from core.domain.ids import time_of_id
from core.domain.requests import OpenSession
from core.domain.session import Access, Session, SessionEvent, SessionEventKind
from core.errors import Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.store import Store
from core.services.running.ids import RecordIds

T = TypeVar("T")

CLOCK_ERROR_MAX = timedelta(days=1)
"""By so much may a clock have been wrong when something was written that is looked for by its time."""


async def announced(
    write: Awaitable[T], event: SessionEvent, handle: Callable[[SessionEvent | None], None]
) -> T:
    """What the write of an event returns; ``handle`` gets the event when it is durable, and ``None``
    when that is unknown.
    """
    try:
        written = await write
    except Unavailable as error:
        if error.ambiguous:
            handle(None)
        raise
    except asyncio.CancelledError:  # the store finishes it without us
        handle(None)
        raise
    handle(event)
    return written


class SessionHistory:
    """The history as one gateway instance writes it."""

    def __init__(self, *, store: Store, clock: Clock, entropy: Entropy, gateway_id: str) -> None:
        self._store = store
        self._clock = clock
        self._gateway_id = gateway_id
        self._event_ids = RecordIds(clock=clock, entropy=entropy)

    def event(
        self, kind: SessionEventKind, session: Session, *, cause: str = "", now: datetime | None = None
    ) -> SessionEvent:
        """An event of a session, now; ``now`` if the caller has just read the clock."""
        now = now or self._clock.now()
        return SessionEvent(
            event_id=self._event_ids.next(now),
            kind=kind,
            at=now,
            sim_id=session.sim_id,
            imsi=session.imsi,
            operator_id=session.operator_id,
            session_id=session.session_id,
            apn=session.apn,
            ue_address=session.shown_address,
            imei=session.imei,
            location=session.location,
            dns=session.dns,
            opened=session.opened,
            speed_class=session.speed_class,
            nas=session.nas,
            cause=cause,
        )

    async def remark(self, session: Session, cause: str) -> None:
        """Write what its peer made of a session's end; raises ``Unavailable``."""
        await self._store.sessions.record(self.event(SessionEventKind.REJECTED, session, cause=cause))

    async def record_rejection(self, sim_id: str, request: OpenSession, refusal: Refused) -> None:
        """Write that a session was refused; raises ``Unavailable``."""
        sim = await self._store.sims.get(sim_id)
        now = self._clock.now()
        await self._store.sessions.record(
            SessionEvent(
                event_id=self._event_ids.next(now),
                kind=SessionEventKind.REJECTED,
                at=now,
                sim_id=sim_id,
                imsi=request.imsi,
                operator_id=sim.operator_id if sim else "",
                apn=request.apn,
                imei=request.imei,
                location=request.location,
                cause=refusal.reason.value,
            )
        )

    async def ended(self, imsi: str, session_id: str) -> Session | None:
        """A session of a NAS that is over, from the SIM's history (32 days); raises ``Unavailable``."""
        sim_id = await self._store.sims.sim_id_of_imsi(imsi)
        after = ""
        while sim_id is not None:
            page = await self._store.sessions.events(
                sim_id,
                since=time_of_id(session_id) - CLOCK_ERROR_MAX,
                until=self._clock.now() + CLOCK_ERROR_MAX,
                after=after,
            )
            for event in page.items:
                if event.session_id == session_id and event.kind is SessionEventKind.DELETED:
                    return self._as_it_ended(event)
            if not page.next_key:
                break
            after = page.next_key
        return None

    def _as_it_ended(self, event: SessionEvent) -> Session:
        return Session(
            session_id=event.session_id,
            sim_id=event.sim_id,
            imsi=event.imsi,
            operator_id=event.operator_id,
            access=Access.RADIUS,
            apn=event.apn,
            ue_address=IPv4Address(event.ue_address),
            gateway_id=self._gateway_id,
            opened=event.opened or event.at,
            speed_class=event.speed_class,
            nas=event.nas,
        )
