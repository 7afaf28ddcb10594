"""Opening, changing and closing packet sessions, whatever protocol asks for it.

Rules:

- A session is durable before ``open`` returns; each step of opening pushes its undo, success keeps them.
- What an ambiguous write may have stored is closed later, and until then its address and TEIDs stay lent.
- What a session had is at rest when it is over, and stays so for whoever takes the gateway over.
- Closing cuts the bearer first, then makes the last usage durable, then the end; only then is the meter's
  slot given back.
- One SIM's verbs run one after another; different SIMs do not wait for each other.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from sys import intern

from core.domain.apn import Apn
from core.domain.ids import time_of_id, time_ordered_id
from core.domain.reasons import AttachRefusal
from core.domain.session import (
    Access,
    CloseReason,
    PdnType,
    Resting,
    Session,
    SessionEvent,
    SessionEventKind,
    Tunnel,
)
from core.domain.sim import Sim
from core.domain.terms import Terms
from core.domain.usage import SegmentLabel
from core.domain.values import replace
from core.errors import AirloomError, Refused, StaleVersion, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.sessions import AccessDoor
from core.ports.store import Store
from core.ports.user_plane import Bearer, UserPlane
from core.services.gateway.virtual_gateway import VirtualGateway
from core.services.metering.usage import UsageMeter
from core.services.running.locks import KeyedLocks
from core.services.sessions.authoriser import Authoriser, Permission
from core.services.sessions.changes import handed_over, is_replaced, modified
from core.services.sessions.history import SessionHistory, heeded
from core.services.sessions.open_sessions import OpenSessions
from core.services.sessions.requests import Grant, Holder, HolderOf, ModifySession, OpenSession
from core.services.sessions.sharing import Sharing
from core.services.sessions.statics import StaticAddresses, demand_yielding

AT_ONCE = 1_000
"""So many sessions are read back before the lease may be renewed and others have their turn: some 30 ms."""
CLOSE_RETRY_S = 1.0
LATE_S = 60.0
"""A write of the holder before, under way when this tenure began, has arrived by then or never does."""
UNFINISHED_MAX = 100_000
"""Sessions whose end is not yet durable; beyond it new sessions are refused until the store is back."""


class Sessions:
    """The session service of one node and its virtual gateway. Implements ``SessionControl``.

    ``apns`` are the access points that are served; a SIM has at most ``sessions_per_sim_max`` sessions here.
    """

    def __init__(
        self,
        *,
        store: Store,
        gateway: VirtualGateway,
        user_plane: UserPlane,
        usage: UsageMeter,
        statics: StaticAddresses,
        clock: Clock,
        entropy: Entropy,
        apns: Sequence[Apn],
        sessions_per_sim_max: int,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._user_plane = user_plane
        self._usage = usage
        self._statics = statics
        self._clock = clock
        self._entropy = entropy
        self._sessions_per_sim_max = sessions_per_sim_max
        self._authoriser = Authoriser(
            store=store, statics=statics, clock=clock, apns=apns, prefixes=gateway.prefixes
        )
        self._history = SessionHistory(
            store=store, clock=clock, entropy=entropy, gateway_id=gateway.gateway_id
        )
        self.unreadable: list[str] = []
        """Why sessions that are stored could not be read back."""
        self._open = OpenSessions()
        self._heed_end: Callable[[str], None] = lambda _: None
        self._heed_event: Callable[[SessionEvent | None], None] = lambda _: None
        self._heed_close: Callable[[Session, CloseReason], None] = lambda _session, _reason: None
        self._doors: dict[Access, AccessDoor] = {}
        self._locks = KeyedLocks()
        self._sharing = Sharing()
        self._unfinished: dict[str, tuple[Session, SessionEvent]] = {}
        self._without_address: set[str] = set()
        self.attaches: dict[Access, Counter[str]] = {access: Counter() for access in Access}
        """Answers to ``open`` by access: ``accepted``, the refusal, or ``unavailable``."""

    @property
    def open_sessions(self) -> Mapping[str, Session]:
        """By session id; a live view."""
        return self._open.by_id

    @property
    def open_by_access(self) -> Mapping[str, int]:
        """How many are open; a live view."""
        return self._open.count_by_access

    @property
    def sim_ids(self) -> list[str]:
        """The SIMs that have a session now."""
        return self._open.sim_ids

    def session_at(self, address: IPv4Address) -> Session | None:
        """Who holds a device address now."""
        return self._open.at(address)

    def on_end(self, heed: Callable[[str], None]) -> None:
        """Call ``heed(session_id)`` as soon as a session's bearer is cut; it must not raise."""
        self._heed_end = heed

    def on_close(self, heed: Callable[[Session, CloseReason], None]) -> None:
        """Call ``heed(session, reason)`` for each session that ends from now on; it must not raise."""
        self._heed_close = heed

    def on_event(self, heed: Callable[[SessionEvent | None], None]) -> None:
        """Call ``heed(event)`` when an event became durable, ``heed(None)`` when one may have become so and
        nobody can tell; it must not raise.
        """
        self._heed_event = heed

    def serve(self, apns: Sequence[Apn]) -> None:
        """Serve these access points from now on; sessions that are open stay."""
        self._authoriser.serve(apns)

    def is_served(self, apn: str) -> bool:
        """Whether it is an access point."""
        return self._authoriser.apn(apn) is not None

    def pool_of(self, apn: str) -> IPv4Network | None:
        """What an access point lends from; ``None``: from what is common to all that name no pool."""
        served = self._authoriser.apn(apn)
        return None if served is None else served.ue_pool

    def door_of(self, session: Session) -> AccessDoor | None:
        """The door that holds a session."""
        return self._doors.get(session.access)

    def attach_door(self, access: Access, door: AccessDoor) -> None:
        """Name the door that holds sessions of this access."""
        self._doors[access] = door

    async def recover(
        self,
        settle: Callable[[Collection[IPv4Address]], Awaitable[Collection[IPv4Address]]],
        *,
        is_resumed: bool = True,
    ) -> int:
        """Read this gateway's sessions back, reinstall them and hand them to their doors; how many.

        ``settle`` is told which addresses are in use, makes sure of them and tells which cannot be kept.
        Unless ``is_resumed`` another node held them meanwhile: what was counted here before is reported once
        more, as it stood, and they are counted on from zero in this tenure's epoch.
        """
        if not is_resumed:
            await self._usage.settle_orphans(())
        found = [
            self._sharing.session(each) if isinstance(each, Session) else each
            async for each in self._store.sessions.of_gateway(self._gateway.gateway_id)
        ]
        lost = set(
            await settle(
                [each.ue_address for each in found if isinstance(each, Session) and each.has_lent_address]
            )
        )
        for place, each in enumerate(found):
            if place % AT_ONCE == 0:
                await asyncio.sleep(0)
            if isinstance(each, Resting):
                self._gateway.rest(each)
                self.unreadable += [each.unreadable] if each.unreadable else []
            elif each.has_lent_address and (each.ue_address in lost or self._open.at(each.ue_address)):
                self._end_without_address(each)
            else:
                await self._take_back(each)
        await self._usage.settle_orphans(self.open_sessions.keys())
        return len(self.open_sessions)

    async def _take_back(self, session: Session) -> None:
        if session.has_lent_address:
            self._gateway.reclaim(session)
            self._statics.resume(session)
        if session.tunnel is not None:
            bearer = self._bearer(session)
            self._user_plane.install(bearer)
            self._usage.relabel(session.session_id, bearer.label)
        self._open.add(session)
        if door := self._doors.get(session.access):
            await door.adopt(session)

    async def end_late(self) -> None:
        """Once: end the sessions that the holder before had begun and that arrived after they were read back.

        Nobody was told of them; what they name was at rest, or in a block that is not lent from yet.
        """
        await asyncio.sleep(LATE_S)
        while True:
            try:
                async for found in self._store.sessions.of_gateway(
                    self._gateway.gateway_id, known=self.open_sessions
                ):
                    if isinstance(found, Session):
                        await self._end_if_late(found)
                return
            except Unavailable:
                await asyncio.sleep(CLOSE_RETRY_S)

    async def _end_if_late(self, session: Session) -> None:
        async with self._locks.hold(session.sim_id):  # else it may just be opened or closed here
            stored = await self._store.sessions.of_sim(session.sim_id)
            is_stored = session.session_id in {each.session_id for each in stored}
            if is_stored and session.session_id not in self.open_sessions.keys() | self._unfinished.keys():
                self._heed_event(None)  # its beginning arrived unheard, and is told before its end
                if not session.has_lent_address:
                    self._must_end(session, CloseReason.LOST)
                elif self._gateway.reclaim(session) or self._gateway.is_static(session.ue_address):
                    self._must_end(session, CloseReason.LOST)
                else:
                    self._end_without_address(session)

    def _end_without_address(self, session: Session) -> None:
        """Its address is another's, and stays so when it ends."""
        self._without_address.add(session.session_id)
        self._must_end(session, CloseReason.LOST)

    async def open(self, request: OpenSession) -> Session:
        """Open a session; raises ``Refused`` with an ``AttachRefusal``, or ``Unavailable``."""
        answers = self.attaches[request.access]
        try:
            self._gateway.demand_held()
            session = await self._open_one(request)
        except Refused as refusal:
            answers[refusal.reason.value] += 1
            raise
        except Unavailable:
            answers["unavailable"] += 1
            raise
        answers["accepted"] += 1
        return session

    async def permit(self, request: OpenSession) -> Sim:
        """Whether a session would be opened, without opening one; raises as ``open`` does."""
        sim_id = ""
        try:
            sim_id = await self._authoriser.sim_id_of(request.imsi)
            self._demand_room()
            permission = await self._authoriser.permit(sim_id, request)
        except Refused as refusal:
            self.attaches[request.access][refusal.reason.value] += 1
            if sim_id:
                with suppress(Unavailable):
                    await self._history.record_rejection(sim_id, request, refusal)
            raise
        return permission.sim

    async def ended(self, imsi: str, session_id: str) -> Session | None:
        """A session of a NAS that is over, as the SIM's history (32 days) tells; raises ``Unavailable``."""
        return await self._history.ended(imsi, session_id)

    async def demand_sim(self, imsi: str) -> None:
        """Raises ``Refused(UNKNOWN_SIM)``, ``Unavailable``."""
        await self._authoriser.sim_id_of(imsi)

    async def remark(self, session: Session, cause: str) -> None:
        """Write what its peer made of a session's end into the SIM's history; raises ``Unavailable``."""
        await self._store.sessions.record(
            self._history.event(SessionEventKind.REJECTED, session, cause=cause)
        )

    async def carried_unopened(self, request: OpenSession, refusal: Refused) -> Session:
        """A session that was refused here and yet carried by its peer: it is written into the history as
        over, so that its counters find what they are charged by. Raises ``Refused(UNKNOWN_SIM)``.
        """
        assert request.grant is not None, "only a peer's own session is carried without us"
        sim_id = await self._authoriser.sim_id_of(request.imsi)
        sim = await self._store.sims.get(sim_id)
        if sim is None or not sim.operator_id:
            raise Refused(AttachRefusal.UNKNOWN_SIM, request.imsi)
        async with AsyncExitStack() as undo:
            permission = Permission(Terms(sim), Apn(request.apn), PdnType.IPV4)
            session = self._new_session(permission, request, request.grant, undo)
        event = self._history.event(SessionEventKind.DELETED, session, cause=refusal.reason.value)
        await heeded(self._store.sessions.close(session, event), event, self._heed_event)
        return session

    async def _open_one(self, request: OpenSession) -> Session:
        async with AsyncExitStack() as undo:
            if request.grant is not None and request.grant.is_lent:
                undo.callback(self._gateway.release_address, request.grant.address, request.imsi)
            sim_id = await self._authoriser.sim_id_of(request.imsi)
            async with self._locks.hold(sim_id):
                try:
                    self._demand_room()
                    permission = await self._authoriser.authorise(sim_id, request)
                    going_on = self._handed_over(permission, request)
                    await self._close_replaced(permission, request, going_on)
                    if going_on is not None:
                        return await self._change(*going_on)
                    return await self._open_authorised(permission, request, undo)
                except Refused as refusal:
                    with suppress(Unavailable):  # the refusal stands, with or without its line in the history
                        await self._history.record_rejection(sim_id, request, refusal)
                    raise

    async def modify(self, change: ModifySession) -> Session:
        """Move a session to another peer or place; raises ``Refused(UNKNOWN_SESSION)``, ``Unavailable``.

        One that moved into a device to which its SIM is not locked ends: ``Refused(IMEI_MISMATCH)``.
        """
        session = self._open.one(change.session_id)
        async with self._locks.hold(session.sim_id):
            self._gateway.demand_held()
            session = self._open.one(change.session_id)
            wanted = modified(session, change)
            if wanted.imei != session.imei:
                await self._demand_unlocked(wanted)
            return await self._change(session, wanted)

    async def _change(self, session: Session, wanted: Session) -> Session:
        """Make it durable, then let it take effect."""
        event = self._history.event(SessionEventKind.MODIFIED, wanted)
        try:
            stored = await heeded(self._put_again(wanted, event), event, self._heed_event)
        except Unavailable as error:
            if error.ambiguous:
                self._keep_bearers(session, wanted)
            raise
        self._open.change(stored)
        if stored.tunnel is not None:
            self._user_plane.update(self._bearer(stored))
        self._usage.relabel(stored.session_id, self._label(stored))
        for teid in set(session.teids) - set(stored.teids):
            self._gateway.release_teid(teid)
        return stored

    def _keep_bearers(self, session: Session, wanted: Session) -> None:
        """A bearer that may be stored stands, so that its TEID is given back with the session's others."""
        more = tuple(bearer for bearer in wanted.dedicated if bearer.local_teid_user not in session.teids)
        if more:
            kept = replace(session, dedicated=(*session.dedicated, *more))
            self._open.change(kept)
            self._user_plane.update(self._bearer(kept))

    async def _demand_unlocked(self, session: Session) -> None:
        """Its SIM is in another device now; raises ``Refused(IMEI_MISMATCH)`` when it is locked to one."""
        terms = await self._authoriser.terms_of(session.sim_id)
        if terms is not None and terms.is_locked_out(session.imei):
            await self._close(session, CloseReason.CUSTOMER, tell_peer=True)
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

    async def close(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        """End a session. The bearer is cut at once; returns when the end is durable.

        Raises ``Refused(UNKNOWN_SESSION)``; ``Unavailable`` when the end is not durable yet: it will be
        tried again until it is.
        """
        session = self._open.one(session_id)
        async with self._locks.hold(session.sim_id):
            await self._close(self._open.one(session_id), reason, tell_peer=tell_peer)

    async def close_lost(self, session_id: str, address: str, teid: int) -> None:
        """End a session that its peer at this control end does not know; one that moved meanwhile stays.

        Raises as ``close`` does.
        """
        session = self._open.one(session_id)
        async with self._locks.hold(session.sim_id):
            session = self._open.one(session_id)
            tunnel = session.tunnel
            if tunnel is None or (tunnel.peer_control_address, tunnel.peer_teid_control) == (address, teid):
                await self._close(session, CloseReason.PEER_LOST, tell_peer=False)

    async def finish(self, session_id: str) -> None:
        """Make the end durable of a session that was closed, if it is not yet; raises ``Unavailable``."""
        if (unfinished := self._unfinished.get(session_id)) is not None:
            async with self._locks.hold(unfinished[0].sim_id):
                await self._make_end_durable(*unfinished)

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM and tell its peers; returns how many there were."""
        async with self._locks.hold(sim_id):
            sessions = self._open.of_sim(sim_id)
            for session in sessions:
                await self._close(session, reason, tell_peer=True)
            return len(sessions)

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Let a SIM's sessions be what it and its group say now: end them, or change their speed and reach.

        Raises ``Unavailable``; then it is to be asked for again.
        """
        async with self._locks.hold(sim_id):
            sessions = self._open.of_sim(sim_id)
            terms = await self._authoriser.terms_of(sim_id) if sessions else None
            for session in sessions:
                if terms is None or not terms.may_connect or terms.is_locked_out(session.imei):
                    await self._close(session, CloseReason.CUSTOMER, tell_peer=True)
                elif (wanted := terms.applied_to(session)) != session:
                    self._gateway.demand_held()
                    stored = await self._change(session, wanted)
                    if stored.qos != session.qos and (door := self._doors.get(stored.access)):
                        door.changed(stored)

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

    # -- opening, step by step ------------------------------------------------------------------------

    def _handed_over(self, permission: Permission, request: OpenSession) -> tuple[Session, Session] | None:
        """The session that goes on from its new peer, as it is and as it is to be."""
        for session in self._open.of_sim(permission.sim.sim_id) if request.is_handover else ():
            wanted = handed_over(session, request, permission.pdn_type)
            if wanted is not None and request.holder_of(session) is not Holder.OTHER:
                return session, wanted
        return None

    async def _close_replaced(
        self, permission: Permission, request: OpenSession, going_on: tuple[Session, Session] | None
    ) -> None:
        """What another holds stays beside the new session. A late beginning of an older session ends no
        newer one: raises ``Refused(UNKNOWN_SESSION)``.
        """
        for session in self._open.of_sim(permission.sim.sim_id):
            if (
                (going_on is None or session is not going_on[0])
                and session.imsi == request.imsi
                and is_replaced(session, request, permission.pdn_type)
                and (holder := request.holder_of(session)) is not Holder.OTHER
            ):
                grant = request.grant
                if grant is not None and time_of_id(grant.session_id) < time_of_id(session.session_id):
                    raise Refused(AttachRefusal.UNKNOWN_SESSION, f"a newer session stands: {request.imsi}")
                await self._close(session, CloseReason.REPLACED, tell_peer=holder is Holder.YIELDING)
        if going_on is None and len(self._open.of_sim(permission.sim.sim_id)) >= self._sessions_per_sim_max:
            raise Refused(AttachRefusal.TOO_MANY_SESSIONS, f"{self._sessions_per_sim_max} are open")

    def _demand_room(self) -> None:
        if len(self._unfinished) >= UNFINISHED_MAX:
            raise Refused(AttachRefusal.NO_RESOURCES, "the store is behind")

    async def _open_authorised(
        self, permission: Permission, request: OpenSession, undo: AsyncExitStack
    ) -> Session:
        self._gateway.demand_held()
        sim = permission.sim
        grant = await self._granted(permission, request, undo)
        self._gateway.demand_held()
        session = self._new_session(permission, request, grant, undo)
        if sim.static_address is not None and grant.is_lent:
            await self._claim_static(session, request.holder_of, undo)
        self._install(session)
        undo.callback(self._usage.discard, session.session_id)
        try:
            event = self._history.event(SessionEventKind.CREATED, session)
            stored = await heeded(self._store.sessions.put(session, event), event, self._heed_event)
        except Unavailable as error:
            if error.ambiguous:
                undo.pop_all()
                self._user_plane.close(session.session_id)
                self._must_end(session, CloseReason.LOST)
            raise
        undo.pop_all()
        self._open.add(stored)
        return stored

    async def _claim_static(self, session: Session, holder_of: HolderOf, undo: AsyncExitStack) -> None:
        """One address, one session: a session of the SIM that has it here ends first, unless another holds
        it: raises ``Refused(STATIC_ADDRESS_UNAVAILABLE)``.
        """

        async def abandon(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None and issubclass(kind, AirloomError):  # else this node ends, and writes no more
                await self._statics.abandon(session)

        undo.push_async_exit(abandon)
        for other in self._open.of_sim(session.sim_id):
            if other.ue_address == session.ue_address:
                demand_yielding(other, holder_of)
                await self._close(other, CloseReason.REPLACED, tell_peer=True)
        await self._statics.claim(session, holder_of)
        self._gateway.demand_held()

    async def _granted(self, permission: Permission, request: OpenSession, undo: AsyncExitStack) -> Grant:
        if request.grant is not None:
            return request.grant
        session_id = time_ordered_id(self._clock.now(), self._entropy.random_bytes(10))
        if (static := permission.sim.static_address) is not None:
            return Grant(session_id, static)
        grant = Grant(session_id, await self._gateway.lease_address_soon(permission.apn.ue_pool))
        undo.callback(self._gateway.release_address, grant.address, request.imsi)
        return grant

    def _new_session(
        self, permission: Permission, request: OpenSession, grant: Grant, undo: AsyncExitStack
    ) -> Session:
        now, sim = self._clock.now(), permission.sim
        session = Session(
            session_id=grant.session_id,
            sim_id=sim.sim_id,
            imsi=request.imsi,
            operator_id=intern(sim.operator_id),
            access=request.access,
            apn=intern(request.apn),
            ue_address=grant.address,
            gateway_id=self._gateway.gateway_id,
            opened=now,
            speed_class=intern(sim.speed_class),
            imei=request.imei,
            msisdn=request.msisdn,
            location=self._sharing.same(request.location),
            dns=self._sharing.same(permission.dns),
            tunnel=self._lease_tunnel(request, undo),
            nas=request.nas,
            pdn_type=permission.pdn_type,
            ue_prefix=self._prefix_for(permission.pdn_type, grant.address),
            qos=self._sharing.same(request.qos),
            asked_up_kbps=request.qos.ambr_up_kbps,
            asked_down_kbps=request.qos.ambr_down_kbps,
        )
        return permission.terms.applied_to(session)

    def _prefix_for(self, pdn_type: PdnType, address: IPv4Address) -> IPv6Network | None:
        return None if pdn_type is PdnType.IPV4 else self._gateway.prefixes.of(address)

    def _lease_tunnel(self, request: OpenSession, undo: AsyncExitStack) -> Tunnel | None:
        if request.peer is None:
            return None
        teid_control = self._gateway.lease_teid()
        undo.callback(self._gateway.release_teid, teid_control)
        teid_user = self._gateway.lease_teid()
        undo.callback(self._gateway.release_teid, teid_user)
        return Tunnel(
            local_teid_control=teid_control,
            local_teid_user=teid_user,
            peer_teid_control=request.peer.teid_control,
            peer_teid_user=request.peer.teid_user,
            peer_control_address=intern(request.peer.control_address),
            peer_user_address=intern(request.peer.user_address),
            nsapi=request.peer.nsapi,
            charging_id=teid_user,
            peer_restart_counter=request.peer.restart_counter,
        )

    # -- closing --------------------------------------------------------------------------------------

    async def _close(self, session: Session, reason: CloseReason, *, tell_peer: bool) -> None:
        self._user_plane.close(session.session_id)
        self._open.remove(session)
        self._heed_end(session.session_id)
        if door := self._doors.get(session.access):
            if tell_peer:
                door.release(session, reason)
            else:
                door.forget(session)
        await self._make_end_durable(session, self._must_end(session, reason))

    def _must_end(self, session: Session, reason: CloseReason) -> SessionEvent:
        """From here on its end is tried until it is durable; one event, however often it is written."""
        event = self._history.event(SessionEventKind.DELETED, session, cause=reason.value)
        self._unfinished[session.session_id] = (session, event)
        self._heed_close(session, reason)
        return event

    async def _make_end_durable(self, session: Session, event: SessionEvent) -> None:
        if session.session_id not in self._unfinished:
            return
        self._gateway.demand_held()
        await self._usage.report_last(session.session_id)
        self._gateway.demand_held()
        rests_until = self._gateway.rests_until() if session.has_lent_address else None
        closing = self._store.sessions.close(session, event, rests_until=rests_until)
        await heeded(closing, event, self._heed_event)
        await self._statics.release(session)
        self._usage.discard(session.session_id)
        if session.session_id in self._without_address:
            self._without_address.remove(session.session_id)
        elif session.has_lent_address:
            self._gateway.release_address(session.ue_address, session.imsi)
        for teid in session.teids:
            self._gateway.release_teid(teid)
        del self._unfinished[session.session_id]

    # -- small parts ----------------------------------------------------------------------------------

    def _install(self, session: Session) -> None:
        if session.tunnel is not None:
            self._user_plane.install(self._bearer(session))

    def _bearer(self, session: Session) -> Bearer:
        assert session.tunnel is not None, "a bearer needs a tunnel"
        return Bearer(
            session_id=session.session_id,
            imsi=session.imsi,
            operator_id=session.operator_id,
            ue_address=session.ue_address,
            has_ipv4=session.pdn_type is not PdnType.IPV6,
            ue_prefix=session.ue_prefix,
            dedicated=session.dedicated,
            is_suspended=session.is_suspended,
            up_kbps=session.qos.ambr_up_kbps,
            down_kbps=session.qos.ambr_down_kbps,
            closed_group=session.closed_group,
            apn=session.apn,
            local_teid=session.tunnel.local_teid_user,
            peer_teid=session.tunnel.peer_teid_user,
            peer_address=session.tunnel.peer_user_address,
            epoch=self._gateway.epoch,
            label=self._label(session),
        )

    def _label(self, session: Session) -> SegmentLabel:
        return self._sharing.same(SegmentLabel(session.speed_class, session.location.plmn))
