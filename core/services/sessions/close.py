"""Closing sessions, until their end is durable.

Rules:

- Closing cuts the bearer first, then makes the last usage durable, then the end; only then is the meter's
  slot given back, and address and TEIDs with it.
- An end that the store would not take is tried until it does: the same event, however often it is written.
- Address and TEIDs of an ended session are quarantined, also after another node takes the gateway over.
"""

import asyncio

from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason, Session, SessionEvent, SessionEventKind
from core.domain.session_life import LifeAction, LifeEvent, LifeState
from core.errors import Refused, Unavailable
from core.services.sessions.common import Common
from core.services.sessions.history import announced

CLOSE_RETRY_S = 1.0
UNFINISHED_MAX = 100_000
"""Sessions whose end is not yet durable; beyond it new sessions are refused until the store is back."""


class SessionCloser:
    """Ends the sessions of one gateway instance."""

    def __init__(self, *, common: Common) -> None:
        self._common = common
        self._index = common.index
        self._locks = common.locks
        self._history = common.history
        self._store = common.store
        self._gateway = common.gateway
        self._user_plane = common.user_plane
        self._usage = common.usage
        self._static_addresses = common.static_addresses
        self._unfinished = common.unfinished
        self._without_address: set[str] = set()

    def demand_room(self) -> None:
        """Raises ``Refused(NO_RESOURCES)`` while too many ends wait for the store."""
        if len(self._unfinished) >= UNFINISHED_MAX:
            raise Refused(AttachRefusal.NO_RESOURCES, "the store is overloaded")

    async def close(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        """End a session. The bearer is cut at once; returns when the end is durable.

        Raises ``Refused(UNKNOWN_SESSION)``; ``Unavailable`` when the end is not durable yet: it will be
        tried again until it is.
        """
        session = self._index.one(session_id)
        async with self._locks.hold(session.sim_id):
            await self.end(self._index.one(session_id), reason, tell_peer=tell_peer)

    async def close_lost(self, session_id: str, address: str, teid: int) -> None:
        """End a session that its peer at this control end does not know; one that moved meanwhile stays.

        Raises as ``close`` does.
        """
        session = self._index.one(session_id)
        async with self._locks.hold(session.sim_id):
            session = self._index.one(session_id)
            tunnel = session.tunnel
            if tunnel is None or (tunnel.peer_control_address, tunnel.peer_teid_control) == (address, teid):
                await self.end(session, CloseReason.PEER_LOST, tell_peer=False)

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM and tell its peers; returns how many there were."""
        async with self._locks.hold(sim_id):
            sessions = self._index.of_sim(sim_id)
            for session in sessions:
                await self.end(session, reason, tell_peer=True)
            return len(sessions)

    async def finish(self, session_id: str) -> None:
        """Make the end durable of a session that was closed, if it is not yet; raises ``Unavailable``."""
        if (unfinished := self._unfinished.get(session_id)) is not None:
            async with self._locks.hold(unfinished[0].sim_id):
                await self._make_end_durable(*unfinished)

    async def finish_unfinished(self) -> None:
        """Try again, for ever, to make the ends durable that the store would not take."""
        while True:
            await asyncio.sleep(CLOSE_RETRY_S)
            for session, event in list(self._unfinished.values()):
                async with self._locks.hold(session.sim_id):
                    try:
                        await self._make_end_durable(session, event)
                    except Unavailable:
                        break

    # -- under the SIM's lock ----------------------------------------------------------------------------

    async def end(self, session: Session, reason: CloseReason, *, tell_peer: bool) -> None:
        """End an open session; raises ``Unavailable`` as ``close`` does."""
        if self._common.step(session, LifeEvent.CLOSE) is not LifeAction.CUT:
            return
        self._user_plane.close(session.session_id)
        self._index.remove(session)
        self._common.handle_end(session.session_id)
        if front_end := self._common.front_end_of(session):
            if tell_peer:
                front_end.release(session, reason)
            else:
                front_end.forget(session)
        await self._make_end_durable(session, self.must_end(session, reason))

    def must_end(self, session: Session, reason: CloseReason) -> SessionEvent:
        """From here on its end is tried until it is durable; one event, however often it is written."""
        event = self._history.event(SessionEventKind.DELETED, session, cause=reason.value)
        self._unfinished[session.session_id] = (session, event)
        self._common.handle_close(session, reason)
        return event

    def must_end_without_address(self, session: Session) -> None:
        """The same of a session that was lost; its address is another's, and stays so when it ends."""
        self._without_address.add(session.session_id)
        self.must_end(session, CloseReason.LOST)

    async def _make_end_durable(self, session: Session, event: SessionEvent) -> None:
        if self._common.state_of(session.session_id) is not LifeState.ENDING:
            return
        self._gateway.demand_held()
        await self._usage.report_last(session.session_id)
        self._gateway.demand_held()
        quarantined_until = self._gateway.quarantined_until() if session.has_allocated_address else None
        closing = self._store.sessions.close(session, event, quarantined_until=quarantined_until)
        await announced(closing, event, self._common.handle_event)
        await self._static_addresses.release(session)
        if self._common.step(session, LifeEvent.END_STORED) is LifeAction.GIVE_BACK:
            self._give_back(session)

    def _give_back(self, session: Session) -> None:
        self._usage.discard(session.session_id)
        if session.session_id in self._without_address:
            self._without_address.remove(session.session_id)
        elif session.has_allocated_address:
            self._gateway.release_address(session.ue_address, session.imsi)
        self._gateway.release_teids(session.teids)
        del self._unfinished[session.session_id]
