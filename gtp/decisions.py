"""What the session service decides of peers' requests, and what follows from events of the endpoint.

Rules: whatever a decision ends with, its request is answered. A session belongs to the version that spoke of
it last. Sessions end a bounded number at once: a lost peer may have as many as the gateway.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.requests import Holder, ModifySession, PeerTunnel
from core.domain.session import NOWHERE, CloseReason, Qos, Session
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.services.running.audit import AuditTrail
from core.services.sessions.service import Sessions
from gtp.contexts import Context
from gtp.endpoint import GtpcEndpoint
from gtp.events import (
    Accepted,
    BearersUnwanted,
    DeleteRequested,
    Done,
    FormerPeer,
    Outcome,
    PeerRestarted,
    Rejected,
    Request,
    SessionRequested,
    SessionUnknown,
    UpdateRequested,
)
from gtp.wire import BearerEndpoints, PeerEndpoints

ENDED_AT_ONCE_MAX = 64
"""Sessions of a lost peer that are being ended at one time."""

Others = dict[str, tuple[Session, Holder]]
"""Sessions of a SIM that others than the peer hold which asks for one, by id."""


class Decisions:
    """Those of one gateway."""

    def __init__(
        self,
        *,
        endpoint: GtpcEndpoint,
        sessions: Sessions,
        audit: AuditTrail,
        gateway_id: str,
        answer: Callable[[int, Outcome], None],
    ) -> None:
        self._endpoint = endpoint
        self._sessions = sessions
        self._audit = audit
        self._gateway_id = gateway_id
        self._answer = answer

    async def decide(self, request: Request) -> None:
        """Decide what a peer asks, and answer it."""
        outcome: Outcome
        try:
            match request:
                case SessionRequested(peer=asker, asked=asked, proof=proof):
                    others: Others = {}
                    holder_of = partial(self._holder_of, asker, others)
                    session = await self._sessions.open(asked, holder_of=holder_of, proof=proof)
                    if others:
                        await self._record_others(request, session, others.values())
                    outcome = Accepted(session)
                case UpdateRequested():
                    outcome = await self._modify(request)
                case BearersUnwanted():
                    outcome = await self._drop_bearers(request)
                case DeleteRequested():
                    await self._end(request.session_id, CloseReason.DEVICE)
                    outcome = Done()
        except Refused as refusal:
            reason = refusal.reason
            outcome = Rejected(reason if isinstance(reason, AttachRefusal) else AttachRefusal.NO_RESOURCES)
        except Unavailable:
            outcome = Rejected(AttachRefusal.NO_RESOURCES)
        self._answer(request.token, outcome)

    # -- requests -------------------------------------------------------------------------------------

    async def _record_others(
        self, request: SessionRequested, session: Session, others: Iterable[tuple[Session, Holder]]
    ) -> None:
        """What became of the SIM's sessions that others held."""
        claims = self._endpoint.versions[request.asked.access].claims
        for other, holder in others:
            if holder is Holder.OTHER:
                claims["beside_anothers"] += 1
            elif (
                other.session_id != session.session_id
            ):  # else it was handed over: its peer is sent a delete then
                claims["taken_over"] += 1
                former = other.tunnel.peer_control_address if other.tunnel else ""
                await self._record_taken_over(other.session_id, former, request.peer)

    def _holder_of(self, asker: str, others: Others, session: Session) -> Holder:
        """Who has a session, to the peer that asks for one: a NAS is another. Notes those of ``others``."""
        partners = self._endpoint.partners
        address = session.tunnel.peer_control_address if session.tunnel else ""
        if address and partners.are_one(asker, address):
            return Holder.SAME
        holder = Holder.YIELDING if partners.may_take_over(asker, address) else Holder.OTHER
        others[session.session_id] = session, holder
        return holder

    async def _modify(self, request: UpdateRequested) -> Outcome:
        is_peer_named = request.ends != PeerEndpoints()
        is_rearranged = request.bearers or request.removed or request.is_taken_over
        session = await self._sessions.modify(
            ModifySession(
                session_id=request.session_id,
                access=request.access,
                peer=self._peer_of(request.session_id, request.ends) if is_peer_named else None,
                location=None if request.location == NOWHERE else request.location,
                qos=self._qos_of(request),
                dedicated=(lambda bearers: _rearranged(request, bearers)) if is_rearranged else None,
                is_suspended=False if is_peer_named else request.is_suspended,
                imei=request.imei,
            )
        )
        return Accepted(session)

    def _peer_of(self, session_id: str, ends: PeerEndpoints) -> PeerTunnel:
        session = self._sessions.open_sessions.get(session_id)
        if session is None or session.tunnel is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, session_id)
        tunnel = session.tunnel
        return PeerTunnel(
            teid_control=ends.teid_control or tunnel.peer_teid_control,
            teid_user=ends.teid_user or tunnel.peer_teid_user,
            control_address=ends.control_address or tunnel.peer_control_address,
            user_address=ends.user_address or tunnel.peer_user_address,
            nsapi=tunnel.nsapi,
            restart_counter=tunnel.peer_restart_counter
            if ends.restart_counter is None
            else ends.restart_counter,
        )

    def _qos_of(self, request: UpdateRequested) -> Qos | None:
        """The whole of the QoS that is asked for; an AMBR of 0 is the one that it is."""
        change, session = request.qos_change, self._sessions.open_sessions.get(request.session_id)
        if change is None or session is None:
            return request.qos
        up_kbps, down_kbps = change.ambr_kbps or (0, 0)
        return replace(
            session.qos,
            qci=change.qci or session.qos.qci,
            arp=session.qos.arp if change.arp is None else change.arp,
            ambr_up_kbps=up_kbps,
            ambr_down_kbps=down_kbps,
            profile="",
        )

    async def _drop_bearers(self, request: BearersUnwanted) -> Outcome:
        session = self._sessions.open_sessions.get(request.session_id)
        if session is None or not {bearer.ebi for bearer in session.dedicated}.issuperset(request.ebis):
            raise Refused(AttachRefusal.UNKNOWN_SESSION, request.session_id)
        return await self._modify(
            UpdateRequested(request.token, session.access, request.session_id, removed=request.ebis)
        )

    # -- what ends ------------------------------------------------------------------------------------

    async def on_peer_restarted(self, event: PeerRestarted) -> None:
        """What the peer held before is over; the audit says how much."""
        await self.end_all(event.session_ids, CloseReason.PEER_LOST)
        await self._record(
            self._audit.peer_restarted(
                self._gateway_id,
                self._name_of(event.peer),
                counter=event.counter,
                ended=len(event.session_ids),
                of=event.older,
            )
        )

    async def on_session_unknown(self, event: SessionUnknown) -> None:
        """Its peer knows nothing of it: it is over, unless it has another by now."""
        with suppress(Unavailable, Refused):
            await self._sessions.close_lost(event.session_id, event.address, event.teid)

    async def on_former_peer(self, event: FormerPeer) -> None:
        """A session has moved to another partner."""
        former: Context = event.context
        self._endpoint.versions[former.access].claims["taken_over"] += 1
        await self._record_taken_over(former.session_id, former.control_address, event.asker)

    async def end_all(
        self, session_ids: Sequence[str], reason: CloseReason, *, tell_peer: bool = False
    ) -> None:
        """End sessions, a bounded number at once."""
        left = iter(session_ids)

        async def end_some() -> None:
            for session_id in left:
                await self.end(session_id, reason, tell_peer=tell_peer)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(ENDED_AT_ONCE_MAX):
                tasks.create_task(end_some())

    async def end(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        """End a session; no peer waits for it."""
        with suppress(Unavailable):  # the session service goes on trying until the end is durable
            await self._end(session_id, reason, tell_peer=tell_peer)

    async def _end(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        """End a session that its peer gave up; one that is over already is fine."""
        try:
            await self._sessions.close(session_id, reason, tell_peer=tell_peer)
        except Refused:
            self._endpoint.forget(session_id)

    async def _record_taken_over(self, session_id: str, former: str, asker: str) -> None:
        """Another partner has a session now, or ended it by one of its own."""
        before, after = self._name_of(former) if former else "a NAS", self._name_of(asker)
        await self._record(
            self._audit.session_taken_over(self._gateway_id, session_id, before=before, after=after)
        )

    async def _record(self, entry: Awaitable[None]) -> None:
        with suppress(Unavailable):  # what happened has happened, with or without its line in the audit
            await entry

    def _name_of(self, address: str) -> str:
        """A peer as people know it."""
        return f"{self._endpoint.partners.name_of(address)} ({address})"


def _rearranged(
    request: UpdateRequested, bearers: tuple[DedicatedBearer, ...]
) -> tuple[DedicatedBearer, ...]:
    """The dedicated bearers that are left, each where the peer wants it."""
    ends = {bearer.ebi: bearer for bearer in request.bearers}
    left = (
        bearer
        for bearer in bearers
        if bearer.ebi not in request.removed and (bearer.ebi in ends or not request.is_taken_over)
    )
    return tuple(_moved(bearer, ends.get(bearer.ebi)) for bearer in left)


def _moved(bearer: DedicatedBearer, ends: BearerEndpoints | None) -> DedicatedBearer:
    if ends is None:
        return bearer
    return replace(bearer, peer_teid_user=ends.teid_user, peer_user_address=ends.user_address)
