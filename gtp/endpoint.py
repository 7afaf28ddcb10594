"""What both versions of a GTP-C endpoint do alike, without I/O.

Rules:

- Bytes go in by ``receive_datagram``, decisions come out by ``next_event`` and go back in by ``answer``,
  bytes come out by ``datagrams_to_send``; time is an argument.
- A context answers to its own peer only, or to one of the same partner (``gtp.partners``); to anybody else it
  does not exist, so that nobody learns that a TEID is in use.
- Nothing that a peer sends raises; what is dropped is counted in ``dropped`` by reason.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp import values
from gtp.admission import Admission
from gtp.contexts import Context, ContextEvent, Contexts, ContextState
from gtp.doubts import Doubts
from gtp.events import (
    Accepted,
    BearerAnswered,
    BearerEnds,
    DeviceAsleep,
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
    SessionWish,
    UpdateRequested,
)
from gtp.initiated import Changes, Initiated, Procedure, PutOff, Reply, Verdict
from gtp.partners import EVERYBODY, OTHER, Partner, Partners
from gtp.path import PeerPath, Peers
from gtp.pco import answer_options
from gtp.pending import Asked, Pending
from gtp.transaction import (
    TIMERS,
    Arrival,
    Peer,
    RequestKey,
    RequestSender,
    ResponseCache,
    Timers,
)
from gtp.version import GtpVersion

Causes = Mapping[Access, Mapping[AttachRefusal, int]]
"""What refusals are answered with in the place of a version's own table."""
NO_CAUSES: Causes = {}
GTP_C_PORT = 2123
HEADER_BYTES = 12
"""Of a response, in both versions."""
EVENTS_MAX = 8_192
"""Requests handed out and not yet answered; beyond it new ones are refused for want of resources. Those for
new sessions have a part of it (``gtp.admission``)."""
SHED_AFTER_S = TIMERS.shed_after_s
"""By default: a request for a session that is not decided by then is refused for want of resources, while
its peer still waits; should it succeed later, the session is ended."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as an operator sees it."""

    address: str
    partner: str
    sessions: int
    path: PeerPath


class GtpEndpoint(GtpVersion):
    """One version's machine. ``address`` is ours, ``user_address`` where our tunnels end, if it is another;
    ``recovery`` is our restart counter; ``random_bytes`` is a CSPRNG.

    ``partners`` may speak to it, and so may whoever is in ``allowed_peers``; ``causes`` is what an operator
    answers otherwise than we do.
    """

    def __init__(
        self,
        *,
        address: IPv4Address,
        recovery: int,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        random_bytes: Callable[[int], bytes],
        contexts: Contexts | None = None,
        partners: Sequence[Partner] = (),
        timers: Timers = TIMERS,
        causes: Causes = NO_CAUSES,
        user_address: IPv4Address | None = None,
    ) -> None:
        self._causes = {**self.CAUSES, **causes.get(self.ACCESS, {})}
        self._address = address
        self._user_address = user_address or address
        self._recovery = recovery & 0xFF
        self._apns = {apn.name: apn for apn in apns}
        self._timers = timers
        self._partners = Partners(partners, allowed_peers)
        self._contexts = Contexts() if contexts is None else contexts
        self._responses = ResponseCache(kept_s=timers.kept_s, party_of=self.party_of)
        self._requests: RequestSender[Initiated] = RequestSender(
            random_bytes=random_bytes, bits=self.SEQUENCE_BITS, timers=timers, party_of=self.party_of
        )
        self._changes = Changes()
        self._put_off = PutOff(party_of=self.party_of)
        self._spoken_of: list[str] = []
        """Sessions that we released and that their peer speaks of."""
        self._doubts = Doubts(timers.patience_s)
        self._peers = Peers(timers=timers, asks=self._is_asked)
        self._admission = Admission()
        self._pending: dict[int, Pending] = {}
        self._undecided: deque[int] = deque()
        self._shed: set[int] = set()
        self._next_token = 0
        self._events: deque[Event] = deque()
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()
        self.answers: Counter[tuple[str, int, int]] = Counter()
        """To new requests: by partner, type of the response and cause (0: it does not begin with one)."""
        self.claims: Counter[str] = Counter()
        """What became of sessions that another partner asked for, or that a peer may have lost."""

    # -- the seam -------------------------------------------------------------------------------------

    @property
    def contexts(self) -> int:
        """How many contexts are held, by either version."""
        return len(self._contexts)

    @property
    def path_events(self) -> Mapping[str, int]:
        """What happened on the paths to peers, since the start."""
        return self._peers.counts

    @property
    def partners(self) -> Partners:
        """Who may speak to it."""
        return self._partners

    @property
    def waiting(self) -> int:
        """How many requests are being decided."""
        return len(self._pending)

    def peers(self) -> Iterator[PeerView]:
        """Every peer that is known."""
        for address, path in self._peers.items():
            sessions = self._contexts.count_of_peer(self.ACCESS, address)
            yield PeerView(address, self.partner_of(address), sessions, path)

    def partner_of(self, address: str) -> str:
        """The name of the partner that this address is of."""
        partner = self._partners.of(address)
        return partner.name if partner is not None else OTHER

    def party_of(self, address: str) -> str:
        """Whose share of a bounded table what concerns this address takes."""
        return self._partners.party_of(address)

    def tell_restart(self, counter: int) -> None:
        """Our own sessions were lost: what peers are told as Recovery from now on."""
        self._recovery = counter & 0xFF

    def serve(
        self,
        *,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        partners: Sequence[Partner],
        causes: Causes = NO_CAUSES,
    ) -> None:
        """Serve these access points to these peers from now on; contexts that are held stay."""
        self._causes = {**self.CAUSES, **causes.get(self.ACCESS, {})}
        self._apns = {apn.name: apn for apn in apns}
        self._partners = Partners(partners, allowed_peers)

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        partner = self._partners.of(addr[0])
        if partner is None:
            self.dropped["peer_not_allowed"] += 1
        elif not self._partners.take(partner, now):
            self.dropped["rate_exceeded"] += 1
        else:
            try:
                self._receive(data, addr, now)
            except RemoteProtocolError:
                self.dropped["malformed_header"] += 1
            else:
                self._peers.heard(addr[0], now)
                while self._spoken_of:
                    self.wake(self._spoken_of.pop(), now)

    def next_event(self) -> Event | None:
        """The next thing to decide, or nothing."""
        return self._events.popleft() if self._events else None

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """Answer an event; what comes after the peer gave up is not sent, and undone where it must be."""
        pending = self._pending.pop(token)
        self._admission.end(token)
        is_shed = token in self._shed
        is_late = is_shed or now - pending.received > self._timers.patience_s
        self._shed.discard(token)
        if is_late and not is_shed:
            self._responses.forget(pending.key)
        if is_late and isinstance(outcome, Accepted) and isinstance(pending.asked.event, SessionRequested):
            self._events.append(OutcomeTooLate(outcome.session.session_id))
            return
        if isinstance(outcome, Accepted):  # what has changed has, whoever waits for the answer
            self._hold(pending, outcome.session, now)
        if not is_late:
            self._tell(pending, outcome, now)
        if isinstance(outcome, Accepted):
            self.wake(outcome.session.session_id, now)

    def _tell(self, pending: Pending, outcome: Outcome, now: float) -> None:
        """Send the answer; a version may have more to do with it."""
        response = self._encode_answer(pending, outcome)
        self._respond(pending.key, pending.peer, response)

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        oldest = self._oldest_undecided()
        shed_at = None if oldest is None else oldest.received + self._timers.shed_after_s
        ours = (self._requests.timer(), self._changes.timer(), self._put_off.timer(), self._doubts.timer())
        times = (*ours, self._peers.timer(), shed_at)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Repeat what was not answered, give up what never will be, refuse what takes too long to decide."""
        again, given_up = self._requests.expire(now)
        self._outgoing += again
        for initiated in given_up:
            self._end_request(initiated, None, now)
        for session in self._changes.due(now):
            self._tell_change(session, now)
        for initiated in self._put_off.due(now):
            self._ask_again(initiated, now)
        if doubted := tuple(filter(self._is_doubted, self._doubts.due(now))):
            self._events.append(SessionsDoubted(doubted))
        shed_after_s = self._timers.shed_after_s
        while (oldest := self._oldest_undecided()) is not None and oldest.received + shed_after_s <= now:
            self._shed.add(self._undecided.popleft())
            self._tell(oldest, Rejected(AttachRefusal.NO_RESOURCES), now)
        due = self._peers.due(now, self._has_sessions)
        for peer in due.lost:
            self._events.append(PathLost(peer, tuple(each.session_id for each in self._contexts_of(peer))))
        for peer in due.ask:
            self._ask(peer, now)

    def _oldest_undecided(self) -> Pending | None:
        """The request for a session that waits longest for its decision."""
        while self._undecided:
            if (pending := self._pending.get(self._undecided[0])) is not None:
                return pending
            self._undecided.popleft()
        return None

    # -- what the session service tells ---------------------------------------------------------------

    def adopt(self, session: Session, now: float = 0.0) -> None:
        """Hold a context that was read back, and what its peer's restart counter was."""
        context = self._contexts.hold(session)
        if context.peer_restart_counter is not None:
            self._peers.learn(context.control_address, context.peer_restart_counter)
        self._peers.watch(context.control_address, now, is_recalled=True)

    def release(self, session_id: str, now: float, reason: CloseReason = CloseReason.CUSTOMER) -> None:
        """End a context from our side, by a request that is repeated until the peer answers it; it tells why
        where the device should know.
        """
        context = self._contexts.by_session(session_id)
        if context is None or not self._step(context, ContextEvent.RELEASE):
            return
        if context.state is not ContextState.RELEASING:
            return
        released = Initiated(Procedure.RELEASE, session_id)

        def encode(sequence: int) -> bytes:
            return self._encode_release(context, sequence, reason)

        if not self._start(context, released, encode, now):
            self._step(context, ContextEvent.RELEASE_ENDED)

    def release_former(self, context: Context, now: float) -> None:
        """Tell the peer that a session had that another partner has it now."""
        former = Initiated(Procedure.RELEASE_FORMER, context.session_id)
        reason = CloseReason.REPLACED
        self._start(context, former, lambda sequence: self._encode_release(context, sequence, reason), now)

    def known_counter_of(self, address: str) -> int | None:
        """The restart counter that is believed of a peer."""
        return self._peers.known_of(address)

    def forget_peer(self, peer: str) -> None:
        """Know nothing any more of a peer's address, or of those of a partner."""
        for view in list(self.peers()):
            if peer in (view.address, view.partner):
                self._peers.forget(view.address)

    def changed(self, session: Session, now: float) -> None:
        """Tell the peer what the session is now, if it has not ended."""
        if self._standing(session.session_id) is not None and self._changes.begin(session):
            self._tell_change(session, now)

    def add_bearer(self, session_id: str, bearer: DedicatedBearer, now: float) -> int | None:
        """Ask for a dedicated bearer; its ``BearerAnswered`` has this token. ``None``: it cannot be asked
        for.
        """
        context = self._standing(session_id)
        if context is None or not self.HAS_BEARERS:
            return None
        added = Initiated(Procedure.ADD_BEARER, session_id, self._token(), bearer)

        def encode(sequence: int) -> bytes:
            return self._encode_bearer_added(context, bearer, sequence)

        return added.token if self._start(context, added, encode, now) else None

    def change_bearer(self, session: Session, bearer: DedicatedBearer, now: float) -> int | None:
        """Ask that a dedicated bearer be this from now on; as ``add_bearer``."""
        context = self._standing(session.session_id)
        if context is None or not self.HAS_BEARERS:
            return None
        changed = Initiated(Procedure.CHANGE_BEARER, session.session_id, self._token(), bearer)

        def encode(sequence: int) -> bytes:
            return self._encode_bearer_changed(context, session, bearer, sequence)

        return changed.token if self._start(context, changed, encode, now) else None

    def remove_bearer(self, session_id: str, ebi: int, now: float) -> None:
        """Tell the peer that a dedicated bearer is over."""
        context = self._standing(session_id)
        if context is not None and self.HAS_BEARERS:
            removed = Initiated(Procedure.REMOVE_BEARER, session_id)
            self._start(context, removed, lambda seq: self._encode_bearer_removed(context, ebi, seq), now)

    def forget(self, session_id: str) -> None:
        """Drop a context without a word to its peer."""
        if context := self._contexts.by_session(session_id):
            is_put_off = context.state is ContextState.RELEASING and self._put_off.take(session_id)
            self._step(context, ContextEvent.RELEASE_ENDED if is_put_off else ContextEvent.FORGET)

    def wake(self, session_id: str, now: float) -> None:
        """The device of a session was heard of: what its peer put off is asked now."""
        for initiated in self._put_off.take(session_id):
            self._ask_again(initiated, now)
        if (change := self._changes.again(session_id)) is not None:
            self._tell_change(change, now)

    def abandon(self, session_id: str) -> None:
        """The session is over, or another version's: what was put off is never asked."""
        self._changes.forget(session_id)
        for initiated in self._put_off.take(session_id):
            if initiated.procedure in (Procedure.ADD_BEARER, Procedure.CHANGE_BEARER):
                self._events.append(BearerAnswered(initiated.token, session_id, None))

    @property
    def put_off(self) -> int:
        """Of how many sessions requests wait for their devices, changes apart."""
        return len(self._put_off)

    # -- requests -------------------------------------------------------------------------------------

    def _arrive(self, key: RequestKey, addr: Peer, now: float) -> bool:
        """Whether a request is new; one that was answered is answered again."""
        arrival, response = self._responses.arrive(key, now)
        if arrival is Arrival.ANSWERED:
            self._outgoing.append((response, addr))
        elif arrival is not Arrival.NEW:
            self.dropped[arrival.value] += 1
        return arrival is Arrival.NEW

    def _has_room(self, address: str) -> bool:
        return self._admission.has_room(self.party_of(address), room=EVENTS_MAX)

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _hand_out(self, token: int, key: RequestKey, addr: Peer, asked: Asked, now: float) -> None:
        """Let an event be decided, if it may be."""
        pending, event = Pending(key, addr, key[3], now, asked), asked.event
        self._hear(self._speaker(addr[0], event), asked.recovery, now)
        refusal = None
        if isinstance(event, SessionRequested):
            refusal = self._refusal(addr[0], event.wish)
        elif isinstance(event, UpdateRequested) and not self._may_name(addr[0], event.ends, event.bearers):
            refusal = AttachRefusal.FOREIGN_ADDRESS
        if refusal is not None:
            self.dropped[f"refused_{refusal.value}"] += 1
            self._tell(pending, Rejected(refusal), now)
            return
        wish = event.wish if isinstance(event, SessionRequested) else None
        self._admission.begin(token, self.party_of(addr[0]), wish)
        if wish is not None:
            self._undecided.append(token)
        self._pending[token] = pending
        self._events.append(event)

    def _speaker(self, address: str, event: Event) -> str:
        """Whose restart counter a request carries: that of its control address, if it names one (TS 23.007
        §18) of its own partner.
        """
        ends = event.wish.ends if isinstance(event, SessionRequested) else None
        ends = event.ends if isinstance(event, UpdateRequested) else ends
        named = str(ends.control_address) if ends is not None and ends.control_address else address
        return named if self._partners.are_one(address, named) else address

    def _refusal(self, address: str, wish: SessionWish) -> AttachRefusal | None:
        """Why a new session is not decided on."""
        partner = self._partners.of(address)
        if partner is None or self._partners.is_reserved(partner):
            return AttachRefusal.CONGESTED
        if not self._may_name(address, wish.ends):
            return AttachRefusal.FOREIGN_ADDRESS
        return self._admission.refusal(
            wish,
            self.party_of(address),
            partner.priority,
            room=EVENTS_MAX,
            shares_apns=len(self._apns) > 1,
        )

    def _may_name(self, address: str, ends: PeerEnds, bearers: Sequence[BearerEnds] = ()) -> bool:
        """Whether it may have us send there: else others get what they never asked for."""
        control, partners = ends.control_address, self._partners
        if control is not None and not partners.may_name(address, str(control)):
            return False
        user_addresses = [ends.user_address, *(bearer.user_address for bearer in bearers)]
        return all(each is None or partners.may_receive(address, each) for each in user_addresses)

    def _back_off(self, pending: Pending, refusal: AttachRefusal) -> bytes:
        """For how long the peer should stay away from an APN, as both versions tell it; or nothing. Of
        what is refused for the SIM's sake it is not told: the others' attaches would wait with it.
        """
        is_shed = refusal is AttachRefusal.APN_CONGESTED and isinstance(pending.asked.event, SessionRequested)
        back_off_s = self._timers.back_off_s if is_shed else 0
        return values.encode_back_off(back_off_s) if back_off_s else b""

    def _respond(self, key: RequestKey, addr: Peer, response: bytes) -> None:
        """Answer a request at once."""
        type_, at = self.CAUSE
        cause = response[at] if len(response) > at and response[HEADER_BYTES] == type_ else 0
        self.answers[self.partner_of(addr[0]), response[1], cause] += 1
        self._responses.answer(key, response)
        self._outgoing.append((response, addr))

    def _speaks_for(self, address: str, context: Context) -> bool:
        return self._partners.are_one(address, context.control_address)

    def _may_move(self, address: str, context: Context, ends: PeerEnds) -> bool:
        """Whether it may have the context from now on, or change it where it is: another partner must be
        allowed to take it over, and name both ends.
        """
        if self._speaks_for(address, context):
            return True
        is_whole = None not in (ends.teid_control, ends.control_address, ends.teid_user, ends.user_address)
        return is_whole and self._partners.may_take_over(address, context.control_address)

    def _hold(self, pending: Pending, session: Session, now: float) -> None:
        before = self._contexts.by_session(session.session_id)
        asker = pending.peer[0]
        if before is not None and not self._speaks_for(asker, before):
            self._events.append(FormerPeer(copy(before), asker))
        if isinstance(pending.asked.event, SessionRequested):
            self._contexts.hold(session)
        else:
            self._contexts.move(session)
        if (tunnel := session.tunnel) is not None:
            self._peers.watch(tunnel.peer_control_address, now)
            if self._is_doubted(session.session_id):
                party = self.party_of(tunnel.peer_control_address)
                self.claims["not_asked"] += not self._doubts.add(session.session_id, party, now)

    def _is_doubted(self, session_id: str) -> bool:
        """Whether its peer asked for it under another restart counter than is known of it: the request may be
        of before a restart, and nobody there know the session.
        """
        context = self._standing(session_id)
        if context is None or context.peer_restart_counter is None:
            return False
        return self._peers.known_of(context.control_address) not in (None, context.peer_restart_counter)

    def _partner(self, peer: Peer) -> Partner:
        """The partner that a request came from, which was there when it came."""
        return self._partners.of(peer[0]) or EVERYBODY

    def _options(self, asked: bytes, session: Session, peer: Peer) -> bytes:
        """The protocol configuration options that answer a device's, as its partner wants them."""
        return answer_options(asked, session, self._apn_of(session), ipcp_ack=self._partner(peer).ipcp_ack)

    def _apn_of(self, session: Session) -> Apn:
        """The access point of a session; one that is served no longer tells its devices nothing."""
        return self._apns.get(session.apn.lower()) or Apn(session.apn)

    # -- what we ask ----------------------------------------------------------------------------------

    def _standing(self, session_id: str) -> Context | None:
        """The session's context, if this version speaks of it and it is not ending."""
        context = self._contexts.by_session(session_id)
        if context is None or context.access is not self.ACCESS or context.state is not ContextState.ACTIVE:
            return None
        return context

    def _start(
        self, context: Context, initiated: Initiated, encode: Callable[[int], bytes], now: float
    ) -> bool:
        """Send a request to a context's peer; false when there is no room for one more."""
        sequence = self._requests.draw(context.control_address)
        if sequence is None:
            return False
        data, peer = encode(sequence), (context.control_address, GTP_C_PORT)
        initiated = replace(initiated, address=context.control_address, teid=context.peer_teid, encode=encode)
        if not self._requests.begin(sequence, data, peer, initiated, now):
            return False
        self._outgoing.append((data, peer))
        return True

    def _tell_change(self, session: Session, now: float) -> None:
        context = self._standing(session.session_id)
        told = Initiated(Procedure.CHANGE, session.session_id)
        if context is None or not self._start(
            context, told, lambda sequence: self._encode_change(context, session, sequence), now
        ):
            self._changes.forget(session.session_id)

    def _ask_again(self, initiated: Initiated, now: float) -> None:
        context, encode = self._contexts.by_session(initiated.about), initiated.encode
        again = replace(initiated, tries=initiated.tries + 1)
        if context is None or encode is None or not self._start(context, again, encode, now):
            self._end_request(initiated, None, now)

    def _is_put_off(self, initiated: Initiated, verdict: Verdict, now: float) -> bool:
        """Whether it is asked again when the device is heard of, or after a while."""
        session_id, is_release = initiated.about, initiated.procedure is Procedure.RELEASE
        if verdict is Verdict.ASLEEP and self._standing(session_id) is not None:
            self._events.append(DeviceAsleep(session_id))
        if initiated.procedure in (Procedure.CHANGE, Procedure.RELEASE_FORMER) or not (
            self._contexts.by_session(session_id) if is_release else self._standing(session_id)
        ):
            return False
        given_up = self._put_off.keep(initiated, verdict, now)
        for surplus in given_up or ():
            self._end_request(surplus, None, now)
        return given_up is not None

    def _take_response(self, message_type: int, sequence: int, addr: Peer, now: float, reply: Reply) -> None:
        initiated = self._requests.answered(addr, sequence, message_type)
        if initiated is None:
            self.dropped["orphan_response"] += 1
            return
        if initiated.procedure is not Procedure.ECHO:
            self._hear(addr[0], reply.recovery, now)
            self._end_request(initiated, reply, now)
        elif (counter := self._peers.hear_answer(addr[0], reply.recovery, now)) is not None:
            self._clear_older(addr[0], counter, now)

    def _end_request(self, initiated: Initiated, reply: Reply | None, now: float) -> None:
        """A request of ours was answered, or given up."""
        session_id, verdict = initiated.about, reply.verdict if reply is not None else Verdict.REFUSED
        if self._is_put_off(initiated, verdict, now):
            return
        match initiated.procedure:
            case Procedure.ECHO:
                self._peers.unanswered(initiated.about, now)
            case Procedure.RELEASE:
                if context := self._contexts.by_session(session_id):
                    self._step(context, ContextEvent.RELEASE_ENDED)
            case Procedure.CHANGE:
                if (following := self._changes.end(session_id, verdict, now)) is not None:
                    self._tell_change(following, now)
            case Procedure.ADD_BEARER:
                ends, bearer = reply.ends if reply else None, initiated.bearer
                if ends is not None and not self._partners.may_receive(initiated.address, ends.user_address):
                    self.dropped[f"refused_{AttachRefusal.FOREIGN_ADDRESS.value}"] += 1
                    self.remove_bearer(session_id, ends.ebi, now)
                    ends = None
                if ends is not None and bearer is not None:
                    bearer = replace(
                        bearer,
                        ebi=ends.ebi,
                        peer_teid_user=ends.teid_user,
                        peer_user_address=str(ends.user_address),
                    )
                made = bearer if ends is not None else None
                self._events.append(BearerAnswered(initiated.token, session_id, made))
            case Procedure.CHANGE_BEARER:
                made = initiated.bearer if verdict is Verdict.DONE else None
                self._events.append(BearerAnswered(initiated.token, session_id, made, is_new=False))
                return  # 64 is of the bearer, and says nothing of the session
            case Procedure.REMOVE_BEARER | Procedure.COMMANDED | Procedure.RELEASE_FORMER:
                return
        if verdict is Verdict.UNKNOWN and self._standing(session_id) is not None:
            self.claims["unknown_to_peer"] += 1
            self._events.append(SessionUnknown(session_id, initiated.address, initiated.teid))

    # -- peers ----------------------------------------------------------------------------------------

    def _is_asked(self, peer: str) -> bool:
        partner = self._partners.of(peer)
        return partner is not None and partner.echo

    def _has_sessions(self, peer: str) -> bool:
        return self._contexts.count_of_peer(self.ACCESS, peer) > 0

    def _contexts_of(self, peer: str) -> Iterator[Context]:
        return self._contexts.of_peer(self.ACCESS, peer)

    def _counter_of(self, addr: Peer, recovery: int | None) -> int | None:
        """A peer's restart counter as it asks: it may tell it in its first message alone."""
        return self._peers.counter_of(addr[0]) if recovery is None else recovery

    def _hear(self, peer: str, recovery: int | None, now: float) -> None:
        if self._peers.hear(peer, recovery, now):
            self._ask(peer, now)

    def _ask(self, peer: str, now: float) -> None:
        """Send an Echo Request."""
        sequence = self._requests.draw(peer)
        data = self._encode_echo_request(sequence or 0)
        about = Initiated(Procedure.ECHO, peer)
        to = (peer, GTP_C_PORT)
        if sequence is not None and self._requests.begin(sequence, data, to, about, now):
            self._peers.asked(peer, now)
            self._outgoing.append((data, to))
        else:
            self._peers.unanswered(peer, now)

    def _clear_older(self, peer: str, counter: int, now: float) -> None:
        """What this peer held before its restart is over; what it asked for since then is not."""
        found = self._contexts.of_other_counters(self.ACCESS, peer, counter)
        for context in found.doubted:
            context.peer_restart_counter = counter
        if found.lost:
            self.claims["ended_by_restart"] += len(found.lost)
            ids = tuple(context.session_id for context in found.lost)
            self._events.append(PeerRestarted(peer, counter, ids, found.older))
        if found.doubted:
            self._events.append(SessionsDoubted(tuple(context.session_id for context in found.doubted)))
        if found.older > len(found.lost) or found.doubted:
            self._peers.prove_again(peer, now)
        else:
            self._peers.cleared(peer)

    def _step(self, context: Context, event: ContextEvent) -> bool:
        state = context.state
        if self._contexts.step(context, event):
            if context.state is not ContextState.ACTIVE:
                self.abandon(context.session_id)
            return True
        if state is ContextState.RELEASING:
            self._spoken_of.append(context.session_id)
        self.dropped[f"{event.value}_while_{state.value}"] += 1
        return False
