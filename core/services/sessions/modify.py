"""Changing sessions that are open: by their peer, and by what their SIM and its group say.

Rule: a change is durable, then it takes effect. What an ambiguous write may have stored of it (TEIDs of
dedicated bearers) stays with the session until that ends.
"""

from core.domain.reasons import AttachRefusal
from core.domain.requests import ModifySession
from core.domain.session import CloseReason, Session, SessionEvent, SessionEventKind
from core.domain.session_life import LifeAction, LifeEvent
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from core.ports.user_plane import bearer_of
from core.services.sessions.authoriser import Authoriser
from core.services.sessions.changes import modified
from core.services.sessions.close import SessionCloser
from core.services.sessions.common import Common
from core.services.sessions.history import announced


class SessionModifier:
    """Changes the sessions of one gateway instance."""

    def __init__(
        self,
        *,
        common: Common,
        closer: SessionCloser,
        authoriser: Authoriser,
    ) -> None:
        self._common = common
        self._index = common.index
        self._locks = common.locks
        self._closer = closer
        self._authoriser = authoriser
        self._store = common.store
        self._gateway = common.gateway
        self._user_plane = common.user_plane
        self._usage = common.usage

    async def modify(self, change: ModifySession) -> Session:
        """Move a session to another peer or place; raises ``Refused(UNKNOWN_SESSION)``, ``Unavailable``.

        One that moved into a device to which its SIM is not locked ends: ``Refused(IMEI_MISMATCH)``.
        """
        session = self._index.one(change.session_id)
        async with self._locks.hold(session.sim_id):
            self._gateway.demand_held()
            session = self._index.one(change.session_id)
            wanted = modified(session, change)
            if wanted.imei != session.imei:
                await self._demand_unlocked(wanted)
            return await self.change(session, wanted)

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Let a SIM's sessions be what it and its group say now: end them, or change their speed and reach.

        Raises ``Unavailable``; then it is to be asked for again.
        """
        async with self._locks.hold(sim_id):
            sessions = self._index.of_sim(sim_id)
            policy = await self._authoriser.policy_of(sim_id) if sessions else None
            for session in sessions:
                if policy is None or not policy.may_connect or policy.is_locked_out(session.imei):
                    await self._closer.end(session, CloseReason.CUSTOMER, tell_peer=True)
                elif (wanted := policy.applied_to(session)) != session:
                    self._gateway.demand_held()
                    stored = await self.change(session, wanted)
                    if stored.qos != session.qos and (front_end := self._common.front_end_of(stored)):
                        front_end.changed(stored)

    async def change(self, session: Session, wanted: Session) -> Session:
        """Under the SIM's lock: make it durable, then let it take effect."""
        event = self._common.history.event(SessionEventKind.MODIFIED, wanted)
        try:
            stored = await announced(self._put_again(wanted, event), event, self._common.handle_event)
        except Unavailable as error:
            if error.ambiguous:
                self._keep_bearers(session, wanted)
            raise
        if self._common.step(stored, LifeEvent.CHANGED) is LifeAction.REPLACE:
            self._index.change(stored)
        if stored.tunnel is not None:
            self._update_bearer(stored)
        self._usage.relabel(stored.session_id, self._common.interning.label(stored))
        self._gateway.release_teids(set(session.teids) - set(stored.teids))
        return stored

    async def _demand_unlocked(self, session: Session) -> None:
        """Its SIM is in another device now; raises ``Refused(IMEI_MISMATCH)`` when it is locked to one."""
        policy = await self._authoriser.policy_of(session.sim_id)
        if policy is not None and policy.is_locked_out(session.imei):
            await self._closer.end(session, CloseReason.CUSTOMER, tell_peer=True)
            raise Refused(AttachRefusal.IMEI_MISMATCH, session.imei)

    async def _put_again(self, wanted: Session, event: SessionEvent) -> Session:
        """Write a session that is ours alone: another version is that of a write whose answer was lost."""
        try:
            return await self._store.sessions.put(wanted, event)
        except StaleVersion:
            for stored in await self._store.sessions.of_sim(wanted.sim_id):
                if stored.session_id == wanted.session_id:
                    return await self._store.sessions.put(replace(wanted, version=stored.version), event)
            raise Unavailable(f"session {wanted.session_id} is not in the store") from None

    def _keep_bearers(self, session: Session, wanted: Session) -> None:
        """A bearer that may be stored stands, so that its TEID is given back with the session's others."""
        more = tuple(bearer for bearer in wanted.dedicated if bearer.local_teid_user not in session.teids)
        if more and self._common.step(session, LifeEvent.CHANGED) is LifeAction.REPLACE:
            kept = replace(session, dedicated=(*session.dedicated, *more))
            self._index.change(kept)
            self._update_bearer(kept)

    def _update_bearer(self, session: Session) -> None:
        label = self._common.interning.label(session)
        self._user_plane.update(bearer_of(session, epoch=self._gateway.epoch, label=label))
