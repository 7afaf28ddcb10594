"""Opening a session: a page of steps in order (``SessionOpener._open``), each with what takes it back.

Rules:

- A session is durable, with its event, before ``open`` returns.
- A step that takes something pushes its undo; success keeps what was taken.
- What an ambiguous write may have stored is closed later, and until then its address and TEIDs stay
  allocated.
- Before anything is taken or written after a wait, it is asked whether the gateway is still held.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from sys import intern

from core.domain.apn import Apn
from core.domain.ids import time_of_id, time_ordered_id
from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, Holder, HolderOf, OpenSession, PeerTunnel, Proof, held_by_same
from core.domain.session import Access, CloseReason, PdnType, Session, SessionEventKind, Tunnel
from core.domain.session_life import LifeAction, LifeEvent
from core.domain.subscriber_policy import SubscriberPolicy
from core.errors import AirloomError, Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.user_plane import bearer_of
from core.services.running.undo import Undo
from core.services.sessions.authoriser import Authoriser, Permission
from core.services.sessions.changes import handed_over, is_replaced
from core.services.sessions.close import SessionCloser
from core.services.sessions.common import Common
from core.services.sessions.history import announced
from core.services.sessions.modify import SessionModifier
from core.services.sessions.static_addresses import demand_yielding


class SessionOpener:
    """Opens the sessions of one gateway instance; a SIM has at most ``sessions_per_sim_max`` here."""

    def __init__(
        self,
        *,
        common: Common,
        closer: SessionCloser,
        modifier: SessionModifier,
        authoriser: Authoriser,
        clock: Clock,
        entropy: Entropy,
        sessions_per_sim_max: int,
    ) -> None:
        self._common = common
        self._index = common.index
        self._locks = common.locks
        self._history = common.history
        self._interning = common.interning
        self._closer = closer
        self._modifier = modifier
        self._authoriser = authoriser
        self._store = common.store
        self._gateway = common.gateway
        self._user_plane = common.user_plane
        self._usage = common.usage
        self._static_addresses = common.static_addresses
        self._clock = clock
        self._entropy = entropy
        self._sessions_per_sim_max = sessions_per_sim_max
        self.attaches: dict[Access, Counter[str]] = {access: Counter() for access in Access}
        """Answers to ``open`` by access: ``accepted``, the refusal, or ``unavailable``."""

    async def open(
        self, request: OpenSession, *, holder_of: HolderOf = held_by_same, proof: Proof | None = None
    ) -> Session:
        """Open a session; raises ``Refused`` with an ``AttachRefusal``, or ``Unavailable``."""
        answers, undo = self.attaches[request.access], Undo()
        try:
            session = await self._open(request, holder_of, proof, undo)
        except BaseException as error:
            if isinstance(error, Refused | Unavailable):
                answers[error.reason.value if isinstance(error, Refused) else "unavailable"] += 1
            undo.take_back()
            if isinstance(error, AirloomError):  # else this node ends, and writes no more
                await undo.take_back_stored()
            raise
        answers["accepted"] += 1
        return session

    async def _open(
        self, request: OpenSession, holder_of: HolderOf, proof: Proof | None, undo: Undo
    ) -> Session:
        """The steps in order; those of one SIM run one after another."""
        self._gateway.demand_held()
        if (grant := request.grant) is not None and grant.is_allocated:
            undo.push(partial(self._gateway.release_address, grant.address, request.imsi))
        sim_id = await self._authoriser.sim_id_bound_to(request.imsi)
        async with self._locks.hold(sim_id):
            try:
                self._closer.demand_room()
                permission = await self._authoriser.authorise(sim_id, request, proof)
                if standing := self._index.of_sim(sim_id):
                    going_on = self._handed_over(standing, request, permission, holder_of)
                    await self._close_replaced(standing, request, permission, holder_of, going_on)
                    if going_on is not None:
                        undo.take_back()  # it keeps its own address
                        return await self._modifier.change(*going_on)
                grant, now = await self._allocate_address(request, permission, undo)
                tunnel = self._allocate_teids(request.peer, undo)
                session = self._as_permitted(request, permission, grant, tunnel, now)
                if permission.policy.sim.static_address is not None and grant.is_allocated:
                    await self._claim_static(session, standing, holder_of, undo)
                    now = self._clock.now()
                self._install_bearer(session, undo)
                stored = await self._store_with_event(session, now, undo)
                if self._common.step(stored, LifeEvent.STORED) is LifeAction.HOLD:
                    self._index.add(stored)
                return stored
            except Refused as refusal:
                if refusal.reason is not AttachRefusal.UNKNOWN_SIM:
                    await self._record_rejection(sim_id, request, refusal)
                raise

    # -- the steps ---------------------------------------------------------------------------------------

    def _handed_over(
        self, standing: Sequence[Session], request: OpenSession, permission: Permission, holder_of: HolderOf
    ) -> tuple[Session, Session] | None:
        """The session that goes on from its new peer, as it is and as it is to be."""
        for session in standing if request.is_handover else ():
            wanted = handed_over(session, request, permission.pdn_type)
            if wanted is not None and holder_of(session) is not Holder.OTHER:
                return session, wanted
        return None

    async def _close_replaced(
        self,
        standing: Sequence[Session],
        request: OpenSession,
        permission: Permission,
        holder_of: HolderOf,
        going_on: tuple[Session, Session] | None,
    ) -> None:
        """What another holds stays beside the new session. A late beginning of an older session ends no
        newer one: raises ``Refused(UNKNOWN_SESSION)``; ``TOO_MANY_SESSIONS`` when as many stay as may be.
        """
        left = len(standing)
        for session in standing:
            if (
                (going_on is None or session is not going_on[0])
                and session.imsi == request.imsi
                and is_replaced(session, request, permission.pdn_type)
                and (holder := holder_of(session)) is not Holder.OTHER
            ):
                grant = request.grant
                if grant is not None and time_of_id(grant.session_id) < time_of_id(session.session_id):
                    raise Refused(AttachRefusal.UNKNOWN_SESSION, f"a newer session exists: {request.imsi}")
                await self._closer.end(session, CloseReason.REPLACED, tell_peer=holder is Holder.YIELDING)
                left -= 1
        if going_on is None and left >= self._sessions_per_sim_max:
            raise Refused(AttachRefusal.TOO_MANY_SESSIONS, f"{self._sessions_per_sim_max} are open")

    async def _allocate_address(
        self, request: OpenSession, permission: Permission, undo: Undo
    ) -> tuple[Grant, datetime]:
        """What was granted before, else the SIM's own address, or one of its access point's pool; and when.
        Only a held gateway allocates.
        """
        address = permission.policy.sim.static_address
        if request.grant is not None or address is not None:
            self._gateway.demand_held()
        else:
            address = await self._gateway.allocate_address_soon(permission.apn.ue_pool)
            undo.push(partial(self._gateway.release_address, address, request.imsi))
        now = self._clock.now()
        if request.grant is not None:
            return request.grant, now
        assert address is not None
        return Grant(time_ordered_id(now, self._entropy.random_bytes(10)), address), now

    def _allocate_teids(self, peer: PeerTunnel | None, undo: Undo) -> Tunnel | None:
        """Our ends of the tunnel; a NAS has none."""
        if peer is None:
            return None
        teids = teid_control, teid_user = self._gateway.allocate_teids(2)
        undo.push(partial(self._gateway.release_teids, teids))
        return Tunnel(
            local_teid_control=teid_control,
            local_teid_user=teid_user,
            peer_teid_control=peer.teid_control,
            peer_teid_user=peer.teid_user,
            peer_control_address=peer.control_address,
            peer_user_address=peer.user_address,
            nsapi=peer.nsapi,
            charging_id=teid_user,
            peer_restart_counter=peer.restart_counter,
        )

    def _as_permitted(
        self,
        request: OpenSession,
        permission: Permission,
        grant: Grant,
        tunnel: Tunnel | None,
        opened: datetime,
    ) -> Session:
        """The session as the terms of its SIM and group let it be."""
        sim, pdn_type, qos = permission.policy.sim, permission.pdn_type, request.qos
        session = Session(
            session_id=grant.session_id,
            sim_id=sim.sim_id,
            imsi=request.imsi,
            operator_id=intern(sim.operator_id),
            access=request.access,
            apn=intern(request.apn),
            ue_address=grant.address,
            gateway_id=self._gateway.gateway_id,
            opened=opened,
            speed_class=intern(sim.speed_class),
            imei=request.imei,
            msisdn=request.msisdn,
            location=self._interning.same(request.location),
            dns=permission.dns,
            tunnel=tunnel,
            nas=request.nas,
            pdn_type=pdn_type,
            ue_prefix=None if pdn_type is PdnType.IPV4 else self._gateway.prefixes.of(grant.address),
            qos=qos,
            asked_up_kbps=qos.ambr_up_kbps,
            asked_down_kbps=qos.ambr_down_kbps,
        )
        return permission.policy.applied_to(session)

    async def _claim_static(
        self, session: Session, standing: Sequence[Session], holder_of: HolderOf, undo: Undo
    ) -> None:
        """One address, one session: a session of the SIM that has it here ends first, unless another holds
        it: raises ``Refused(STATIC_ADDRESS_UNAVAILABLE)``.
        """
        undo.push_stored(partial(self._static_addresses.abandon, session))
        for other in standing:
            if other.ue_address == session.ue_address and other.session_id in self._index.by_id:
                demand_yielding(other, holder_of)
                await self._closer.end(other, CloseReason.REPLACED, tell_peer=True)
        await self._static_addresses.claim(session, holder_of)
        self._gateway.demand_held()

    def _install_bearer(self, session: Session, undo: Undo) -> None:
        if session.tunnel is not None:
            label = self._interning.label(session)
            self._user_plane.install(bearer_of(session, epoch=self._gateway.epoch, label=label))
        undo.push(partial(self._usage.discard, session.session_id))

    async def _store_with_event(self, session: Session, now: datetime, undo: Undo) -> Session:
        """One write for both. After one that is ambiguous all stays taken until the end is durable."""
        try:
            event = self._history.event(SessionEventKind.CREATED, session, now=now)
            stored = await announced(
                self._store.sessions.put(session, event), event, self._common.handle_event
            )
        except Unavailable as error:
            if error.ambiguous:
                undo.keep()
                self._user_plane.close(session.session_id)
                if self._common.step(session, LifeEvent.MAYBE_STORED) is LifeAction.BEGIN_END:
                    self._closer.must_end(session, CloseReason.LOST)
            raise
        undo.keep()
        return stored

    async def _record_rejection(self, sim_id: str, request: OpenSession, refusal: Refused) -> None:
        """The refusal stands, with or without its line in the history."""
        with suppress(Unavailable):
            await self._history.record_rejection(sim_id, request, refusal)

    # -- without opening ---------------------------------------------------------------------------------

    async def permit(self, request: OpenSession, *, proof: Proof | None = None) -> Permission:
        """Whether a session would be opened, without opening one; raises as ``open`` does."""
        sim_id = ""
        try:
            sim_id = await self._authoriser.sim_id_bound_to(request.imsi)
            self._closer.demand_room()
            permission = await self._authoriser.permit(sim_id, request, proof)
        except Refused as refusal:
            self.attaches[request.access][refusal.reason.value] += 1
            if sim_id and refusal.reason is not AttachRefusal.UNKNOWN_SIM:
                await self._record_rejection(sim_id, request, refusal)
            raise
        return permission

    async def carried_unopened(self, request: OpenSession, refusal: Refused) -> Session:
        """A session that was refused here and yet carried by its peer: it is written into the history as
        over, so that its counters find what they are charged by. Raises ``Refused(UNKNOWN_SIM)``.
        """
        assert request.grant is not None, "only a peer's own session is carried without us"
        sim_id = await self._authoriser.sim_id_of(request.imsi)
        sim = await self._store.sims.get(sim_id)
        if sim is None or not sim.operator_id:
            raise Refused(AttachRefusal.UNKNOWN_SIM, request.imsi)
        permission = Permission(SubscriberPolicy(sim), Apn(request.apn), PdnType.IPV4)
        session = self._as_permitted(request, permission, request.grant, None, self._clock.now())
        event = self._history.event(SessionEventKind.DELETED, session, cause=refusal.reason.value)
        await announced(self._store.sessions.close(session, event), event, self._common.handle_event)
        return session
