"""The GTP-C door: the shell around both versions' machines, where sockets, tasks and the session service are.

Rules: a datagram is handed to its version's machine at once and never waits; each decision runs in a task
of its own, in a number that the machine bounds; whatever a decision ends with, its event is answered. A
session belongs to the version that spoke of it last.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.requests import Holder, ModifySession, OpenSession, PeerTunnel
from core.domain.session import NOWHERE, Access, CloseReason, Qos, Session
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.network import Address, DatagramSocket, Network
from core.services.running.audit import AuditTrail
from core.services.sessions.service import Sessions
from gtp.contexts import Context, Contexts
from gtp.doubts import Heeded, Indicated
from gtp.endpoint import NO_CAUSES, Causes, GtpEndpoint
from gtp.events import (
    Accepted,
    BearerAnswered,
    BearerEnds,
    BearersUnwanted,
    DeleteRequested,
    DeviceAsleep,
    Done,
    Event,
    FormerPeer,
    Outcome,
    OutcomeTooLate,
    PathLost,
    PeerEnds,
    PeerRestarted,
    Rejected,
    SessionRequested,
    SessionsDoubted,
    SessionUnknown,
    UpdateRequested,
)
from gtp.partners import Partner
from gtp.transaction import TIMERS, Timers
from gtp.v1.gateway import GtpV1Gateway
from gtp.v2.gateway import GtpV2Gateway
from gtp.v2.header import VERSION as VERSION_2

ENDED_AT_ONCE_MAX = 64
"""Sessions of a lost peer that are being ended at one time."""


Tap = Callable[[bytes, Address, bool], None]
"""Is shown each datagram, its peer, and whether it came in; must not raise."""
EndTap = Callable[[Session, CloseReason], None]
"""Is shown each session that ends, and why; must not raise."""


class GtpDoor:
    """Serves GTPv1-C and GTPv2-C on ``address``; implements ``AccessDoor``.

    ``user_address`` is where peers are told that tunnels end, without one there too. ``recovery`` is the
    virtual gateway's restart counter; ``partners`` and ``allowed_peers`` both empty allow every peer.
    """

    def __init__(
        self,
        *,
        network: Network,
        address: Address,
        sessions: Sessions,
        audit: AuditTrail,
        gateway_id: str,
        clock: Clock,
        entropy: Entropy,
        recovery: int,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        partners: Sequence[Partner] = (),
        timers: Timers = TIMERS,
        causes: Causes = NO_CAUSES,
        user_address: IPv4Address | None = None,
    ) -> None:
        self._network = network
        self._address = address
        self._sessions = sessions
        self._audit = audit
        self._gateway_id = gateway_id
        self._clock = clock
        contexts = Contexts()

        def machine(kind: type[GtpEndpoint]) -> GtpEndpoint:
            return kind(
                address=IPv4Address(address[0]),
                recovery=recovery,
                apns=apns,
                allowed_peers=allowed_peers,
                random_bytes=entropy.random_bytes,
                contexts=contexts,
                partners=partners,
                timers=timers,
                causes=causes,
                user_address=user_address,
            )

        self._v1, self._v2 = machine(GtpV1Gateway), machine(GtpV2Gateway)
        self._machines = {machine.ACCESS: machine for machine in (self._v1, self._v2)}
        self._socket: DatagramSocket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._timer_changed = asyncio.Event()
        self._t3_response_s, self._patience_s = timers.t3_response_s, timers.patience_s
        self._is_timer_off = True
        self._indicated = Indicated()
        self._taps: list[Tap] = []
        self._end_taps: list[EndTap] = []
        self._asked: dict[tuple[Access, int], asyncio.Future[DedicatedBearer | None]] = {}
        self._on_asleep: Callable[[str], None] = lambda _session_id: None

    @property
    def machines(self) -> Mapping[Access, GtpEndpoint]:
        """The protocols' states, to look at."""
        return self._machines

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._address

    @contextmanager
    def tapped(self, tap: Tap, end_tap: EndTap = lambda _session, _reason: None) -> Iterator[None]:
        """Show ``tap`` every datagram and ``end_tap`` every session's end, for as long as this lasts."""
        self._taps.append(tap)
        self._end_taps.append(end_tap)
        try:
            yield
        finally:
            self._taps.remove(tap)
            self._end_taps.remove(end_tap)

    def closed(self, session: Session, reason: CloseReason) -> None:
        """A session has ended, of whatever access."""
        for tap in self._end_taps:
            tap(session, reason)

    def serve(
        self,
        *,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        partners: Sequence[Partner],
        causes: Causes = NO_CAUSES,
    ) -> None:
        """Serve these access points to these peers from now on; sessions that are open stay."""
        for machine in self._machines.values():
            machine.serve(apns=apns, allowed_peers=allowed_peers, partners=partners, causes=causes)

    def on_asleep(self, heed: Callable[[str], None]) -> None:
        """Call ``heed(session_id)`` when something is to be asked once the device sends a packet."""
        self._on_asleep = heed

    def heard(self, session_id: str) -> None:
        """The device of a session sent a packet: what was put off meanwhile is asked of its peer now."""
        session = self._sessions.open_sessions.get(session_id)
        if session is not None and session.tunnel is not None:
            self._machines[session.access].wake(session_id, self._clock.monotonic())
            self._pump()

    def tell_restart(self, counter: int) -> None:
        """Our own sessions were lost (TS 23.007 §18)."""
        for machine in self._machines.values():
            machine.tell_restart(counter)

    async def start(self) -> None:
        """Open the socket; datagrams are taken in from now on and decided once ``run`` runs."""
        self._socket = await self._network.open_datagram(self._address, self._receive)

    async def run(self) -> None:
        """Decide events and keep the timers, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._pump()
            try:
                await self._keep_timers()
            finally:
                self._tasks = None
                for answer in self._asked.values():
                    if not answer.done():
                        answer.set_exception(Unavailable("the door is closed"))

    def close(self) -> None:
        """Take nothing in and answer nothing any more. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- AccessDoor -----------------------------------------------------------------------------------

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back."""
        self._machines[session.access].adopt(session, self._clock.monotonic())

    def release(self, session: Session, reason: CloseReason) -> None:
        """Ask the peer to delete the context; goes on in the background."""
        self._machines[session.access].release(session.session_id, self._clock.monotonic(), reason)
        self._pump()

    def changed(self, session: Session) -> None:
        """Tell the peer what is granted now; goes on in the background."""
        self._machines[session.access].changed(session, self._clock.monotonic())
        self._pump()

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer for a dedicated bearer; raises ``Refused(NOT_SUPPORTED)``, ``Unavailable``."""
        machine = self._machines[session.access]
        token = machine.add_bearer(session.session_id, bearer, self._clock.monotonic())
        return await self._answered(machine, session, token)

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer to change a dedicated bearer into this; raises as ``add_bearer``."""
        machine = self._machines[session.access]
        token = machine.change_bearer(session, bearer, self._clock.monotonic())
        return await self._answered(machine, session, token)

    async def _answered(self, machine: GtpEndpoint, session: Session, token: int | None) -> DedicatedBearer:
        """The bearer as the peer answers it."""
        if not machine.HAS_BEARERS:
            raise Refused(AttachRefusal.NOT_SUPPORTED, f"{session.access.value} has no dedicated bearers")
        if token is None:
            raise Unavailable("the session is ending, or too many requests to its peer are open: try again")
        answer: asyncio.Future[DedicatedBearer | None] = asyncio.get_running_loop().create_future()
        self._asked[machine.ACCESS, token] = answer
        self._pump()
        try:
            made = await answer
        finally:
            del self._asked[machine.ACCESS, token]
        if made is None:
            raise Refused(AttachRefusal.NOT_SUPPORTED, "the peer does not have the bearer so")
        return made

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """Tell the peer that a dedicated bearer is over; goes on in the background."""
        self._machines[session.access].remove_bearer(session.session_id, ebi, self._clock.monotonic())
        self._pump()

    def _on_bearer(self, machine: GtpEndpoint, event: BearerAnswered) -> None:
        """Nobody waits for it any more: the peer made it for nothing."""
        waiting = self._asked.get((machine.ACCESS, event.token))
        if waiting is not None and not waiting.done():
            waiting.set_result(event.bearer)
        elif event.bearer is not None and event.is_new:
            machine.remove_bearer(event.session_id, event.bearer.ebi, self._clock.monotonic())
            self._pump()

    def forget(self, session: Session) -> None:
        """Drop the context without a word."""
        self._machines[session.access].forget(session.session_id)

    # -- the shell ------------------------------------------------------------------------------------

    def _receive(self, data: bytes, addr: Address) -> None:
        for tap in self._taps:
            tap(data, addr, True)
        is_v2 = bool(data) and data[0] >> 5 >= VERSION_2
        machine = self._v2 if is_v2 else self._v1
        machine.receive_datagram(data, addr, self._clock.monotonic())
        self._pump()

    def _pump(self) -> None:
        """Send what is to be sent and start deciding what is to be decided."""
        for machine in self._machines.values():
            if self._socket is not None:
                for data, peer in machine.datagrams_to_send():
                    self._socket.send(data, peer)
                    for tap in self._taps:
                        tap(data, peer, False)
            if self._tasks is not None:
                while (event := machine.next_event()) is not None:
                    self._tasks.create_task(self._decide(machine, event))
        if self._is_timer_off:
            self._timer_changed.set()

    async def _keep_timers(self) -> None:
        """A timer that begins while another runs needs no waking: it is due T3-RESPONSE later at least,
        and so long nobody sleeps.
        """
        while True:
            self._timer_changed.clear()
            timers = [machine.get_timer() for machine in self._machines.values()]
            due = min((timer for timer in timers if timer is not None), default=None)
            self._is_timer_off = due is None
            if due is None:
                await self._timer_changed.wait()
                continue
            await asyncio.sleep(min(max(0.0, due - self._clock.monotonic()), self._t3_response_s))
            for machine in self._machines.values():
                machine.handle_timer(self._clock.monotonic())
            self._pump()

    async def _decide(self, machine: GtpEndpoint, event: Event) -> None:
        match event:
            case SessionRequested():
                await self._answer(machine, event.token, self._open(machine, event))
            case UpdateRequested():
                await self._answer(machine, event.token, self._modify(machine.ACCESS, event))
            case BearersUnwanted():
                await self._answer(machine, event.token, self._drop_bearers(event))
            case DeleteRequested():
                await self._answer(machine, event.token, self._close(event))
            case PeerRestarted():
                await self.end_all(event.session_ids, CloseReason.PEER_LOST)
                peer, ended = _named(machine, event.peer), len(event.session_ids)
                await self._record(
                    self._audit.peer_restarted(
                        self._gateway_id, peer, counter=event.counter, ended=ended, of=event.older
                    )
                )
            case PathLost():
                await self.end_all(event.session_ids, CloseReason.PEER_LOST)
            case SessionsDoubted():
                self.ask_about(event.session_ids)
            case FormerPeer():
                await self._tell_former(event)
            case SessionUnknown():
                with suppress(Unavailable, Refused):
                    await self._sessions.close_lost(event.session_id, event.address, event.teid)
            case BearerAnswered():
                self._on_bearer(machine, event)
            case DeviceAsleep():
                self._on_asleep(event.session_id)
            case OutcomeTooLate():
                await self._end_unasked(event.session_id, CloseReason.LATE)

    async def _answer(self, machine: GtpEndpoint, token: int, deciding: Awaitable[Outcome]) -> None:
        try:
            outcome = await deciding
        except Refused as refusal:
            outcome = Rejected(
                refusal.reason if isinstance(refusal.reason, AttachRefusal) else AttachRefusal.NO_RESOURCES
            )
        except Unavailable:
            outcome = Rejected(AttachRefusal.NO_RESOURCES)
        machine.answer(token, outcome, self._clock.monotonic())
        self._pump()

    async def _open(self, machine: GtpEndpoint, event: SessionRequested) -> Outcome:
        wish, others = event.wish, dict[str, tuple[Session, Holder]]()

        def holder_of(session: Session) -> Holder:
            if (holder := _holder_of(machine, event.peer, session)) is not Holder.SAME:
                others[session.session_id] = session, holder
            return holder

        session = await self._sessions.open(
            OpenSession(
                access=machine.ACCESS,
                imsi=wish.imsi,
                apn=wish.apn,
                imei=wish.imei,
                msisdn=wish.msisdn,
                location=wish.location,
                peer=PeerTunnel(
                    teid_control=wish.ends.teid_control or 0,
                    teid_user=wish.ends.teid_user or 0,
                    control_address=str(wish.ends.control_address),
                    user_address=str(wish.ends.user_address),
                    nsapi=wish.nsapi,
                    restart_counter=wish.ends.restart_counter,
                ),
                requested_address=wish.address,
                requested_prefix=wish.prefix,
                is_handover=wish.is_handover,
                pdn_type=wish.pdn_type,
                qos=wish.qos,
            ),
            holder_of=holder_of,
            proof=wish.credentials.prove if wish.credentials else None,
        )
        for other, holder in others.values():
            if holder is Holder.OTHER:
                machine.claims["beside_anothers"] += 1
            elif other.session_id != session.session_id:  # else it was handed over: that tells its peer
                await self._on_taken_over(machine, event.peer, other)
        return Accepted(session)

    async def _on_taken_over(self, machine: GtpEndpoint, asker: str, session: Session | Context) -> None:
        """Another partner has a session now, or ended it by one of its own."""
        machine.claims["taken_over"] += 1
        if isinstance(session, Context):
            former = session.control_address
        else:
            former = session.tunnel.peer_control_address if session.tunnel else ""
        before, after = _named(machine, former) if former else "a NAS", _named(machine, asker)
        await self._record(
            self._audit.session_taken_over(self._gateway_id, session.session_id, before=before, after=after)
        )

    async def _tell_former(self, event: FormerPeer) -> None:
        machine = self._machines[event.context.access]
        machine.release_former(event.context, self._clock.monotonic())
        self._pump()
        await self._on_taken_over(machine, event.asker, event.context)

    def ask_about(self, session_ids: Sequence[str]) -> None:
        """Ask peers whether they know sessions, by telling them the QoS; what they do not know ends."""
        for session_id in session_ids:
            if (session := self._sessions.open_sessions.get(session_id)) is not None:
                machine = self._machines[session.access]
                machine.claims["asked"] += 1
                machine.changed(session, self._clock.monotonic())
        self._pump()

    def heed_error_indication(self, session_id: str, up_packets: int) -> None:
        """A session's tunnel is said to be unknown, by whose end ``up_packets`` have come. One that was just
        opened may not be known there yet: the next packet brings the next indication.
        """
        session = self._sessions.open_sessions.get(session_id)
        if session is None or session.tunnel is None:
            return
        if abs((self._clock.now() - session.opened).total_seconds()) < self._patience_s:
            return
        party = self._machines[session.access].party_of(session.tunnel.peer_control_address)
        heeded = self._indicated.heed(session_id, party, up_packets, self._clock.monotonic())
        if heeded is Heeded.ASK:
            self.ask_about((session_id,))
        elif heeded is Heeded.END and self._tasks is not None:
            self._machines[session.access].claims["ended_by_indications"] += 1
            ending = self._end_unasked(session_id, CloseReason.REACTIVATE, tell_peer=True)
            self._tasks.create_task(ending)

    def restart_counter_of(self, version: int, address: str) -> int | None:
        """The restart counter that is believed of a peer, in this version of GTP."""
        return (self._v2 if version == VERSION_2 else self._v1).known_counter_of(address)

    def forget_peer(self, peer: str) -> None:
        """Know nothing any more of a peer's address, or of those of a partner."""
        for machine in self._machines.values():
            machine.forget_peer(peer)

    async def _record(self, entry: Awaitable[None]) -> None:
        with suppress(Unavailable):  # what happened has happened, with or without its line in the audit
            await entry

    async def _modify(self, access: Access, event: UpdateRequested) -> Outcome:
        is_peer_named = event.ends != PeerEnds()
        ends = {bearer.ebi: bearer for bearer in event.bearers}

        def rearrange(bearers: tuple[DedicatedBearer, ...]) -> tuple[DedicatedBearer, ...]:
            left = (
                bearer
                for bearer in bearers
                if bearer.ebi not in event.removed and (bearer.ebi in ends or not event.is_taken_over)
            )
            return tuple(_moved(bearer, ends.get(bearer.ebi)) for bearer in left)

        session = await self._sessions.modify(
            ModifySession(
                session_id=event.session_id,
                access=access,
                peer=self._peer_of(event.session_id, event.ends) if is_peer_named else None,
                location=None if event.location == NOWHERE else event.location,
                qos=self._qos_of(event),
                dedicated=rearrange if event.bearers or event.removed or event.is_taken_over else None,
                is_suspended=False if is_peer_named else event.is_suspended,
                imei=event.imei,
            )
        )
        for machine in self._machines.values():
            if machine.ACCESS is not session.access:
                machine.abandon(event.session_id)
        return Accepted(session)

    def _qos_of(self, event: UpdateRequested) -> Qos | None:
        """The whole of the QoS that is asked for; an AMBR of 0 is the one that it is."""
        change, session = event.qos_change, self._sessions.open_sessions.get(event.session_id)
        if change is None or session is None:
            return event.qos
        up_kbps, down_kbps = change.ambr_kbps or (0, 0)
        return replace(
            session.qos,
            qci=change.qci or session.qos.qci,
            arp=session.qos.arp if change.arp is None else change.arp,
            ambr_up_kbps=up_kbps,
            ambr_down_kbps=down_kbps,
            profile="",
        )

    async def _drop_bearers(self, event: BearersUnwanted) -> Outcome:
        session = self._sessions.open_sessions.get(event.session_id)
        if session is None or not {bearer.ebi for bearer in session.dedicated}.issuperset(event.ebis):
            raise Refused(AttachRefusal.UNKNOWN_SESSION, event.session_id)
        return await self._modify(
            session.access, UpdateRequested(event.token, event.session_id, removed=event.ebis)
        )

    def _peer_of(self, session_id: str, ends: PeerEnds) -> PeerTunnel:
        session = self._sessions.open_sessions.get(session_id)
        if session is None or session.tunnel is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, session_id)
        tunnel = session.tunnel
        return PeerTunnel(
            teid_control=ends.teid_control or tunnel.peer_teid_control,
            teid_user=ends.teid_user or tunnel.peer_teid_user,
            control_address=str(ends.control_address or tunnel.peer_control_address),
            user_address=str(ends.user_address or tunnel.peer_user_address),
            nsapi=tunnel.nsapi,
            restart_counter=tunnel.peer_restart_counter
            if ends.restart_counter is None
            else ends.restart_counter,
        )

    async def _close(self, event: DeleteRequested) -> Outcome:
        await self._end(event.session_id, CloseReason.DEVICE)
        return Done()

    async def _end(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        """End a session that its peer gave up; one that is over already is fine."""
        try:
            await self._sessions.close(session_id, reason, tell_peer=tell_peer)
        except Refused:
            for machine in self._machines.values():  # the table of contexts is both versions'
                machine.forget(session_id)

    async def end_all(
        self, session_ids: Sequence[str], reason: CloseReason, *, tell_peer: bool = False
    ) -> None:
        """End sessions, a bounded number at once: there may be as many as the gateway has."""
        left = iter(session_ids)

        async def end_some() -> None:
            for session_id in left:
                await self._end_unasked(session_id, reason, tell_peer=tell_peer)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(ENDED_AT_ONCE_MAX):
                tasks.create_task(end_some())

    async def _end_unasked(self, session_id: str, reason: CloseReason, *, tell_peer: bool = False) -> None:
        with suppress(Unavailable):  # the session service goes on trying until the end is durable
            await self._end(session_id, reason, tell_peer=tell_peer)


def _moved(bearer: DedicatedBearer, ends: BearerEnds | None) -> DedicatedBearer:
    if ends is None:
        return bearer
    return replace(bearer, peer_teid_user=ends.teid_user, peer_user_address=str(ends.user_address))


def _holder_of(machine: GtpEndpoint, asker: str, session: Session) -> Holder:
    """Who has a session, to the peer that asks for one: a NAS is another."""
    address = session.tunnel.peer_control_address if session.tunnel else ""
    if address and machine.partners.are_one(asker, address):
        return Holder.SAME
    return Holder.YIELDING if machine.partners.may_take_over(asker, address) else Holder.OTHER


def _named(machine: GtpEndpoint, address: str) -> str:
    """A peer as people know it."""
    return f"{machine.partner_of(address)} ({address})"
