"""The GTP-C interface: the shell around the endpoint, where sockets, tasks and timers are.

Rules:

- A datagram goes to the endpoint at once and never waits; each decision runs in a task of its own, in a
  number that the endpoint bounds. What drives the endpoint is ``core.services.running.transmission``.
- A request of ours that is sent before the socket is open is lost, as on any network, and repeated after
  T3-RESPONSE.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.network import Address, DatagramSocket, Network
from core.services.running.audit import AuditTrail
from core.services.running.transmission import Transmission
from core.services.sessions.service import Sessions
from gtp.decisions import Decisions
from gtp.doubts import IndicationAction, Indications
from gtp.endpoint import GtpcEndpoint
from gtp.events import (
    BearerAnswered,
    BearersUnwanted,
    DeleteRequested,
    DeviceAsleep,
    Event,
    FormerPeer,
    Outcome,
    OutcomeTooLate,
    PathLost,
    PeerRestarted,
    SessionRequested,
    SessionsDoubted,
    SessionUnknown,
    UpdateRequested,
)
from gtp.network_requests import CHANGE_AGAIN_S
from gtp.partners import Partner
from gtp.restart import PROOF_S
from gtp.transaction import TIMERS, Timers
from gtp.v1.wire import V1Wire
from gtp.v2.wire import V2Wire
from gtp.version import NO_CAUSES, Causes

Tap = Callable[[bytes, Address, bool], None]
"""Is shown each datagram, its peer, and whether it came in; must not raise."""
EndTap = Callable[[Session, CloseReason], None]
"""Is shown each session that ends, and why; must not raise."""
WIRES = (V1Wire(), V2Wire())


class GtpFrontEnd:
    """Serves GTPv1-C and GTPv2-C on ``address``; implements ``AccessFrontEnd``.

    ``user_address`` is where tunnels end, by default at ``address``. ``recovery`` is the gateway instance's
    restart counter; ``partners`` and ``allowed_peers`` both empty allow every peer. ``up_packets_of`` counts
    the packets that a session, by its id, has sent up its tunnel.
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
        up_packets_of: Callable[[str], int] = lambda _session_id: 0,
    ) -> None:
        self._network = network
        self._address = address
        self._sessions = sessions
        self._clock = clock
        self._endpoint = GtpcEndpoint(
            wires=WIRES,
            address=IPv4Address(address[0]),
            recovery=recovery,
            apns=apns,
            allowed_peers=allowed_peers,
            random_bytes=entropy.random_bytes,
            partners=partners,
            timers=timers,
            causes=causes,
            user_address=user_address,
        )
        self._decisions = Decisions(
            endpoint=self._endpoint,
            sessions=sessions,
            audit=audit,
            gateway_id=gateway_id,
            answer=self._answer,
        )
        self._socket: DatagramSocket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._transmission: Transmission[Event] = Transmission(
            self._endpoint,
            clock=clock,
            handle=self._handle,
            shortest_s=min(timers.t3_response_s, PROOF_S, CHANGE_AGAIN_S),
        )
        self._patience_s = timers.patience_s
        self._indications = Indications()
        self._up_packets_of = up_packets_of
        self._taps: list[Tap] = []
        self._end_taps: list[EndTap] = []
        self._bearers_asked: dict[int, asyncio.Future[DedicatedBearer | None]] = {}
        """By the token of the request."""
        self._on_asleep: Callable[[str], None] = lambda _session_id: None

    @property
    def endpoint(self) -> GtpcEndpoint:
        """The protocol's state, to look at."""
        return self._endpoint

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
        """Serve these access points to these peers from now on; sessions that are open stay, and what a
        partner has left of its rate.
        """
        self._endpoint.serve(apns=apns, allowed_peers=allowed_peers, partners=partners, causes=causes)

    def on_asleep(self, watch: Callable[[str], None]) -> None:
        """Call ``watch(session_id)`` when something is to be asked once the device sends a packet."""
        self._on_asleep = watch

    def heard(self, session_id: str) -> None:
        """The device of a session sent a packet: what was put off meanwhile is asked of its peer now."""
        session = self._sessions.open_sessions.get(session_id)
        if session is not None and session.tunnel is not None:
            self._endpoint.wake(session_id, self._clock.monotonic())
            self._transmission.transmit()

    def on_own_restart(self, counter: int) -> None:
        """Our own sessions were lost (TS 23.007 §18)."""
        self._endpoint.on_own_restart(counter)

    def restart_counter_of(self, version: int, address: str) -> int | None:
        """The restart counter that is believed of a peer, in this version of GTP."""
        access = Access.GTPV2 if version == V2Wire.version else Access.GTPV1
        return self._endpoint.known_counter_of(access, address)

    def forget_peer(self, peer: str) -> None:
        """Know nothing any more of a peer's address, or of those of a partner."""
        self._endpoint.forget_peer(peer)

    # -- AccessFrontEnd -----------------------------------------------------------------------------------

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back."""
        self._endpoint.adopt(session, self._clock.monotonic())

    def release(self, session: Session, reason: CloseReason) -> None:
        """Release the context at its peer; goes on in the background."""
        self._endpoint.release(session.session_id, self._clock.monotonic(), reason)
        self._transmission.transmit()

    def changed(self, session: Session) -> None:
        """Send the peer the QoS that is granted now; goes on in the background."""
        self._endpoint.changed(session, self._clock.monotonic())
        self._transmission.transmit()

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer for a dedicated bearer; raises ``Refused(NOT_SUPPORTED)``, ``Unavailable``."""
        self._demand_bearers(session)
        return await self._answered(self._endpoint.add_bearer(session, bearer, self._clock.monotonic()))

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer to change a dedicated bearer into this; raises as ``add_bearer``."""
        self._demand_bearers(session)
        return await self._answered(self._endpoint.change_bearer(session, bearer, self._clock.monotonic()))

    def _demand_bearers(self, session: Session) -> None:
        if self._endpoint.versions[session.access].wire.bearers is None:
            raise Refused(AttachRefusal.NOT_SUPPORTED, f"{session.access.value} has no dedicated bearers")

    async def _answered(self, token: int | None) -> DedicatedBearer:
        """The bearer as the peer answers it."""
        if token is None:
            raise Unavailable("the session is ending, or too many requests to its peer are open: try again")
        answer: asyncio.Future[DedicatedBearer | None] = asyncio.get_running_loop().create_future()
        self._bearers_asked[token] = answer
        self._transmission.transmit()
        try:
            made = await answer
        finally:
            del self._bearers_asked[token]
        if made is None:
            raise Refused(AttachRefusal.NOT_SUPPORTED, "the peer's bearer differs")
        return made

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """Release a dedicated bearer at the peer; goes on in the background."""
        self._endpoint.remove_bearer(session.session_id, ebi, self._clock.monotonic())
        self._transmission.transmit()

    def forget(self, session: Session) -> None:
        """Drop the context without telling its peer."""
        self._endpoint.forget(session.session_id)

    # -- sessions that may be lost --------------------------------------------------------------------

    async def end_all(
        self, session_ids: Sequence[str], reason: CloseReason, *, tell_peer: bool = False
    ) -> None:
        """End sessions, a bounded number at once: there may be as many as the gateway has."""
        await self._decisions.end_all(session_ids, reason, tell_peer=tell_peer)

    def ask_about(self, session_ids: Sequence[str]) -> None:
        """Ask peers whether they know sessions, by telling them the QoS; what they do not know ends."""
        for session_id in session_ids:
            if (session := self._sessions.open_sessions.get(session_id)) is not None:
                self._endpoint.versions[session.access].claims["asked"] += 1
                self._endpoint.changed(session, self._clock.monotonic())
        self._transmission.transmit()

    def on_error_indication(self, session_id: str) -> None:
        """The peer's user plane does not know the session's tunnel (TS 29.281 §7.3.1). One that was just
        opened may not be known there yet: the next packet brings the next indication.
        """
        session = self._sessions.open_sessions.get(session_id)
        if session is None or session.tunnel is None:
            return
        if abs((self._clock.now() - session.opened).total_seconds()) < self._patience_s:
            return
        party = self._endpoint.partners.party_of(session.tunnel.peer_control_address)
        up_packets, now = self._up_packets_of(session_id), self._clock.monotonic()
        action = self._indications.on_indication(session_id, party, up_packets, now)
        if action is IndicationAction.ASK:
            self.ask_about((session_id,))
        elif action is IndicationAction.END and self._tasks is not None:
            self._endpoint.versions[session.access].claims["ended_by_indications"] += 1
            ending = self._decisions.end(session_id, CloseReason.REACTIVATE, tell_peer=True)
            self._tasks.create_task(ending)

    # -- the shell ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the socket; datagrams are taken in from now on and decided once ``run`` runs."""
        self._socket = await self._network.open_datagram(self._address, self._receive)
        self._transmission.send_by(self._send)

    async def run(self) -> None:
        """Decide events and keep the timers, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await self._transmission.run()
            finally:
                self._tasks = None
                for answer in self._bearers_asked.values():
                    if not answer.done():
                        answer.set_exception(Unavailable("the GTP front end is closed"))

    def close(self) -> None:
        """Take nothing in and answer nothing any more. Idempotent."""
        self._transmission.send_by(None)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self, data: bytes, addr: Address) -> None:
        for tap in self._taps:
            tap(data, addr, True)
        self._transmission.receive(data, addr)

    def _send(self, data: bytes, peer: Address) -> None:
        if self._socket is not None:
            self._socket.send(data, peer)
        for tap in self._taps:
            tap(data, peer, False)

    def _handle(self, event: Event) -> None:
        if self._tasks is None:
            return
        match event:
            case SessionRequested() | UpdateRequested() | BearersUnwanted() | DeleteRequested():
                self._tasks.create_task(self._decisions.decide(event))
            case _:
                self._tasks.create_task(self._follow(event))

    def _answer(self, token: int, outcome: Outcome) -> None:
        self._endpoint.answer(token, outcome, self._clock.monotonic())
        self._transmission.transmit()

    async def _follow(self, event: Event) -> None:
        """What follows from an event that no peer waits for."""
        match event:
            case PeerRestarted():
                await self._decisions.on_peer_restarted(event)
            case PathLost():
                await self.end_all(event.session_ids, CloseReason.PEER_LOST)
            case SessionsDoubted():
                self.ask_about(event.session_ids)
            case FormerPeer():
                self._endpoint.release_former(event.context, self._clock.monotonic())
                self._transmission.transmit()
                await self._decisions.on_former_peer(event)
            case SessionUnknown():
                await self._decisions.on_session_unknown(event)
            case BearerAnswered():
                self._on_bearer_answered(event)
            case DeviceAsleep():
                self._on_asleep(event.session_id)
            case OutcomeTooLate():
                await self._decisions.end(event.session_id, CloseReason.LATE)

    def _on_bearer_answered(self, event: BearerAnswered) -> None:
        """Nobody waits for it any more: the peer made it for nothing."""
        waiting = self._bearers_asked.get(event.token)
        if waiting is not None and not waiting.done():
            waiting.set_result(event.bearer)
        elif event.bearer is not None and event.is_new:
            self._endpoint.remove_bearer(event.session_id, event.bearer.ebi, self._clock.monotonic())
            self._transmission.transmit()
