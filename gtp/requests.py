"""Peers' requests: each is decided once, answered, and its answer kept for repeats.

Rules:

- Work is bounded before it is read.
- Nobody has us send anything to an address that is not of the same partner (``gtp.partners``).
- What cannot be decided in time is refused while its peer still waits; what is decided later is undone where
  it must be, and known where it cannot.
"""

from collections import deque
from collections.abc import Sequence
from copy import copy

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.requests import PeerTunnel
from core.domain.session import PdnType, Session
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp.admission import Admission
from gtp.contexts import Context, Contexts
from gtp.events import (
    Accepted,
    Done,
    Event,
    FormerPeer,
    Outcome,
    OutcomeTooLate,
    Rejected,
    Request,
    SessionRequested,
    UpdateRequested,
)
from gtp.network_initiated import NetworkInitiated
from gtp.network_requests import NetworkRequest, Procedure
from gtp.partners import Partners
from gtp.path_management import PathManagement
from gtp.request_reader import Rejection, RequestReader
from gtp.serving import Serving, pdn_type_change
from gtp.transaction import Arrival, Peer, RequestKey, ResponseCache, Timers
from gtp.version import Sender
from gtp.wire import (
    AcceptedRequest,
    BearerEndpoints,
    CreateSessionParams,
    DecodedRequest,
    EncodedRequest,
    PeerEndpoints,
    Wire,
)

HEADER_BYTES = 12
"""Of a response, in both versions."""


class Pending(Struct, frozen=True):
    """A request that is being decided. ``peer_teid``: where its sender wants to be answered; ``is_newcomer``:
    the session comes from another version.
    """

    key: RequestKey
    sender: Sender
    request: EncodedRequest
    decoded: DecodedRequest
    event: Request
    peer_teid: int
    received: float
    is_newcomer: bool = False


class Requests:
    """Those of all peers, by all versions."""

    def __init__(
        self,
        *,
        serving: Serving,
        contexts: Contexts,
        partners: Partners,
        admission: Admission,
        reader: RequestReader,
        responses: ResponseCache,
        paths: PathManagement,
        network: NetworkInitiated,
        timers: Timers,
        events: deque[Event],
        outgoing: deque[tuple[bytes, Peer]],
    ) -> None:
        self._serving = serving
        self._contexts = contexts
        self._partners = partners
        self._admission = admission
        self._reader = reader
        self._responses = responses
        self._paths = paths
        self._network = network
        self._patience_s = timers.patience_s
        self._shed_after_s = timers.shed_after_s
        self._back_off_s = timers.back_off_s
        self._events = events
        self._outgoing = outgoing
        self._last_token = 0
        self._pending: dict[int, Pending] = {}
        self._undecided: deque[int] = deque()
        """Those for sessions, the oldest first."""
        self._shed: set[int] = set()

    # -- what is asked --------------------------------------------------------------------------------

    def on_request(self, sender: Sender, request: EncodedRequest, now: float) -> None:
        """Have a new request decided; one that was answered is answered again."""
        key = (*sender.peer, sender.version.wire.version, request.message_type, request.sequence)
        arrival, response = self._responses.arrive(key, now)
        if arrival is Arrival.ANSWERED:
            self._outgoing.append((response, sender.peer))
        elif arrival is not Arrival.NEW:
            sender.version.dropped[arrival.value] += 1
        else:
            match self._read(key, sender, request, now):
                case Rejection() as rejection:
                    self._reject(key, sender, request, rejection, now)
                case Pending() as pending:
                    self._admit(pending, now)

    def _read(
        self, key: RequestKey, sender: Sender, request: EncodedRequest, now: float
    ) -> Pending | Rejection:
        """The request with the event that it is, or why it is none."""
        wire = sender.version.wire
        if not self._admission.has_room(sender.party):
            cause = wire.causes.no_resources
            return Rejection(RemoteProtocolError("too many requests at once", cause=cause))
        self._last_token += 1
        match decoded := wire.decode_request(request):
            case RemoteProtocolError():
                return Rejection(decoded)
            case DecodedRequest(body=CreateSessionParams() as params):
                event = self._session_requested(sender, params)
                return Pending(key, sender, request, decoded, event, decoded.peer_teid or 0, now)
        read = self._reader.read(sender, request, decoded, self._last_token)
        if isinstance(read, Rejection):
            return read
        context, of_context = read
        peer_teid = decoded.peer_teid or context.peer_teid
        is_newcomer = context.access is not sender.version.access
        return Pending(key, sender, request, decoded, of_context, peer_teid, now, is_newcomer)

    def _session_requested(self, sender: Sender, params: CreateSessionParams) -> SessionRequested:
        """A peer may send its restart counter in its first message alone."""
        asked, version, address = params.asked, sender.version, sender.peer[0]
        if asked.peer is not None and asked.peer.restart_counter is None:
            counter = version.peers.counter_of(address)
            asked = replace(asked, peer=replace(asked.peer, restart_counter=counter))
        if asked.pdn_type is PdnType.IPV4V6 and not _has_dual(sender, params):
            one = self._serving.one_family_of(asked.apn, version.wire.dual_only_pdn_type)
            asked = replace(asked, pdn_type=one)
        proof = params.credentials.prove if params.credentials is not None else None
        return SessionRequested(self._last_token, address, asked, proof)

    # -- whether it is decided ------------------------------------------------------------------------

    def _admit(self, pending: Pending, now: float) -> None:
        """Let a request be decided, unless it is to be refused at once."""
        sender, event = pending.sender, pending.event
        params: CreateSessionParams | None = None
        ends: PeerEndpoints | PeerTunnel | None = None
        bearers: tuple[BearerEndpoints, ...] = ()
        match pending.decoded.body, event:
            case CreateSessionParams() as params, _:
                ends = params.asked.peer
            case _, UpdateRequested():
                ends, bearers = event.ends, event.bearers
        address = sender.peer[0]
        control = ends.control_address or address if ends is not None else address
        is_one = control == address or self._partners.are_one(address, control)
        speaker = control if is_one else address  # TS 23.007 §18: whose restart counter it is
        self._paths.on_recovery(sender.version, speaker, pending.decoded.recovery, now)
        refusal = self._refusal(sender, params, control, ends, bearers)
        if refusal is not None:
            sender.version.dropped[f"refused_{refusal.value}"] += 1
            self._send_response(pending, Rejected(refusal), now)
            return
        self._admission.begin(event.token, sender.party, params)
        if params is not None:
            self._undecided.append(event.token)
        sender.version.waiting += 1
        self._pending[event.token] = pending
        self._events.append(event)

    def _refusal(
        self,
        sender: Sender,
        params: CreateSessionParams | None,
        control: str,
        ends: PeerEndpoints | PeerTunnel | None,
        bearers: Sequence[BearerEndpoints],
    ) -> AttachRefusal | None:
        """Why a request is not decided on; ``params``: of one for a session."""
        partners, partner, address = self._partners, sender.partner, sender.peer[0]
        if params is not None and partner.requests_per_s and partners.is_reserved(partner):
            return AttachRefusal.CONGESTED
        if control != address and not partners.may_name(address, control):
            return AttachRefusal.FOREIGN_ADDRESS
        user = ends.user_address if ends is not None else None
        if user is not None and user != control and not partners.may_receive(address, user):
            return AttachRefusal.FOREIGN_ADDRESS
        for bearer in bearers:
            if not partners.may_receive(address, bearer.user_address):
                return AttachRefusal.FOREIGN_ADDRESS
        if params is None:
            return None
        shares_apns = len(self._serving.apns) > 1
        return self._admission.refusal(params, sender.party, partner.priority, shares_apns=shares_apns)

    def _reject(
        self, key: RequestKey, sender: Sender, request: EncodedRequest, rejection: Rejection, now: float
    ) -> None:
        """Answer a fault. What we have released is released again when its peer speaks of it."""
        sender.version.dropped["refused_by_protocol"] += 1
        wire, fault = sender.version.wire, rejection.fault
        context = self._contexts.by_teid(request.teid)
        if context is not None and not self._partners.are_one(sender.peer[0], context.control_address):
            context = None
        peer_teid = context.peer_teid if context is not None else wire.peek_control_teid(request)
        cause = fault.cause or wire.causes.malformed
        self._respond(key, sender, wire.encode_refused(request, peer_teid, cause, fault=fault))
        if rejection.released:
            self._network.wake(rejection.released, now)

    # -- what is decided ------------------------------------------------------------------------------

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """What comes after the peer gave up is not sent, and undone where it must be."""
        pending = self._pending.pop(token)
        self._admission.end(token)
        pending.sender.version.waiting -= 1
        is_shed = token in self._shed
        is_late = is_shed or now - pending.received > self._patience_s
        if is_shed:
            self._shed.remove(token)
        elif is_late:
            self._responses.forget(pending.key)
        match outcome:
            case Accepted(session) if not is_late or not isinstance(pending.event, SessionRequested):
                was_held = self._hold(pending, session, now)  # also when its peer waits no longer
                if not is_late:
                    self._send_response(pending, outcome, now)
                if was_held:
                    self._network.wake(session.session_id, now)
            case Accepted(session):
                self._events.append(OutcomeTooLate(session.session_id))
            case _ if not is_late:
                self._send_response(pending, outcome, now)

    def timer(self) -> float | None:
        """When ``shed`` has something to do."""
        oldest = self._oldest_undecided()
        return None if oldest is None else oldest.received + self._shed_after_s

    def shed(self, now: float) -> None:
        """Refuse what takes too long to decide."""
        while (oldest := self._oldest_undecided()) is not None:
            if oldest.received + self._shed_after_s > now:
                return
            self._shed.add(self._undecided.popleft())
            self._send_response(oldest, Rejected(AttachRefusal.NO_RESOURCES), now)

    def _oldest_undecided(self) -> Pending | None:
        while self._undecided:
            if (pending := self._pending.get(self._undecided[0])) is not None:
                return pending
            self._undecided.popleft()
        return None

    def _hold(self, pending: Pending, session: Session, now: float) -> bool:
        """Keep the context of a session that is open or changed; whether there was one before."""
        before, asker = self._contexts.by_session(session.session_id), pending.sender.peer[0]
        if before is not None and not self._partners.are_one(asker, before.control_address):
            self._events.append(FormerPeer(copy(before), asker))
        if before is not None and before.access is not session.access:
            self._network.abandon(session.session_id)
        context: Context | None
        if isinstance(pending.event, SessionRequested):
            context = self._contexts.hold(session)
        else:
            context = self._contexts.move(session)
        if context is not None:
            self._paths.on_held(context, now)
        return before is not None

    def _send_response(self, pending: Pending, outcome: Outcome, now: float) -> None:
        sender, decoded, sequence = pending.sender, pending.decoded, pending.request.sequence
        wire, peer_teid = sender.version.wire, pending.peer_teid
        match outcome:
            case Accepted(session):
                accepted = self._accepted(pending, session)
                response = wire.encode_accepted(decoded, accepted, peer_teid, sequence)
                if decoded.is_command:
                    commanded = _commanded(wire, decoded, accepted)
                    self._network.on_command(sender, response, sequence, commanded, now)
            case Rejected(reason):
                cause = sender.version.causes[reason]
                back_off_s = self._back_off_s if _is_of_apn(pending, reason) else 0.0
                response = wire.encode_refused(pending.request, peer_teid, cause, back_off_s=back_off_s)
            case Done():
                response = wire.encode_deleted(decoded, self._serving.gateway, peer_teid, sequence)
        self._respond(pending.key, sender, response)

    def _accepted(self, pending: Pending, session: Session) -> AcceptedRequest:
        sender, asked, change = pending.sender, pending.decoded.body, None
        apn = self._serving.apn_of(session)
        if isinstance(asked, CreateSessionParams) and session.pdn_type is not asked.asked.pdn_type:
            change = pdn_type_change(apn, has_dual=_has_dual(sender, asked))
        return AcceptedRequest(
            session, apn, self._serving.gateway, change, sender.partner.ipcp_ack, pending.is_newcomer
        )

    def _respond(self, key: RequestKey, sender: Sender, response: bytes) -> None:
        """Answer a request at once, and its repeats."""
        causes = sender.version.wire.causes
        has_cause = len(response) > causes.value_at and response[HEADER_BYTES] == causes.element
        cause = response[causes.value_at] if has_cause else 0
        sender.version.answers[sender.partner.name, response[1], cause] += 1
        self._responses.answer(key, sender.party, response)
        self._outgoing.append((response, sender.peer))


def _has_dual(sender: Sender, params: CreateSessionParams) -> bool:
    """Whether its bearers carry both families: where it says so, or its partner is known to have such."""
    return params.has_dual_address_bearers or sender.partner.assume_dual_address_bearers


def _is_of_apn(pending: Pending, reason: AttachRefusal) -> bool:
    """What is refused for the SIM's sake holds back no other SIM's attach."""
    return reason is AttachRefusal.APN_CONGESTED and isinstance(pending.event, SessionRequested)


def _commanded(wire: Wire, decoded: DecodedRequest, accepted: AcceptedRequest) -> NetworkRequest:
    """The request that answers a command; put off, it goes to the peer that has the session by then."""

    def encode(context: Context, sequence: int) -> bytes:
        return wire.encode_accepted(decoded, accepted, context.peer_teid, sequence)

    return NetworkRequest(Procedure.COMMANDED, accepted.session.session_id, access=wire.access, encode=encode)
