"""The GTPv1-C endpoint of a GGSN, without I/O (TS 29.060).

Rules:

- Bytes go in by ``receive_datagram``, decisions come out by ``next_event`` and go back in by ``answer``,
  bytes come out by ``datagrams_to_send``; time is an argument.
- Whatever a PDP context may go through stands in ``TRANSITIONS``; what is not there is refused.
- A context answers to its own peer only, or to one in the same allowed network; to anybody else it does
  not exist (cause 192), so that nobody learns that a TEID is in use.
- Nothing that a peer sends raises; what is dropped is counted in ``dropped`` by reason.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from core.domain.reasons import AttachRefusal
from core.domain.session import Session
from core.errors import RemoteProtocolError
from gtp.path import Peers
from gtp.transaction import PATIENCE_S, Arrival, Peer, RequestKey, RequestSender, ResponseCache
from gtp.v1 import message
from gtp.v1.cause import CAUSE_OF_REFUSAL, Cause
from gtp.v1.header import Header, decode_header, version_of
from gtp.v1.ie import EndUserAddress
from gtp.v1.message import MessageType
from gtp.v1.pco import answer_options

GTP_C_PORT = 2123
EVENTS_MAX = 8_192
"""Requests handed out and not yet answered; beyond it new ones are refused with cause 199."""


class ContextState(Enum):
    """The life of a PDP context, from the answer that created it on."""

    ACTIVE = "active"
    DELETING = "deleting"  # the peer asked; the session service is closing it
    RELEASING = "releasing"  # we asked; the peer has not answered yet
    GONE = "gone"


class ContextEvent(Enum):
    """What happens to a PDP context."""

    UPDATE_REQUESTED = "update_requested"
    DELETE_REQUESTED = "delete_requested"
    RELEASE = "release"
    FORGET = "forget"
    RELEASE_ENDED = "release_ended"


_S, _E = ContextState, ContextEvent
TRANSITIONS: Mapping[ContextState, Mapping[ContextEvent, ContextState]] = {
    _S.ACTIVE: {
        _E.UPDATE_REQUESTED: _S.ACTIVE,
        _E.DELETE_REQUESTED: _S.DELETING,
        _E.RELEASE: _S.RELEASING,
        _E.FORGET: _S.GONE,
    },
    _S.DELETING: {
        _E.RELEASE: _S.GONE,  # the peer is deleting it by itself: no request of ours is needed
        _E.FORGET: _S.GONE,
    },
    _S.RELEASING: {
        _E.DELETE_REQUESTED: _S.RELEASING,  # both asked at once: each is answered
        _E.FORGET: _S.RELEASING,
        _E.RELEASE_ENDED: _S.GONE,
    },
    _S.GONE: {},
}
"""``{state: {event: next state}}``."""


@dataclass(frozen=True, slots=True)
class SessionRequested:
    """A peer asks for a session; answer with ``Accepted`` or ``Rejected``."""

    token: int
    peer: str
    request: message.CreateRequest


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """A peer moves or changes a session; answer with ``Accepted`` or ``Rejected``."""

    token: int
    session_id: str
    request: message.UpdateRequest


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """A peer ends a session; answer with ``Done`` or ``Rejected``."""

    token: int
    session_id: str


@dataclass(frozen=True, slots=True)
class PeerRestarted:
    """A peer lost its state; these sessions of it are over."""

    peer: str
    session_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutcomeTooLate:
    """A session was opened after its peer had given up waiting: close it again."""

    session_id: str


Event = SessionRequested | UpdateRequested | DeleteRequested | PeerRestarted | OutcomeTooLate


@dataclass(frozen=True, slots=True)
class Accepted:
    """The session is open, or changed, as it stands here."""

    session: Session


@dataclass(frozen=True, slots=True)
class Done:
    """The session is over."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The answer is no, for this cause."""

    cause: Cause

    @classmethod
    def by(cls, refusal: AttachRefusal) -> "Rejected":
        """As this wire says it."""
        return cls(CAUSE_OF_REFUSAL[refusal])


Outcome = Accepted | Done | Rejected


@dataclass(slots=True)
class _Context:
    session_id: str
    local_teid: int
    peer_teid: int
    control_address: str
    nsapi: int
    peer_restart_counter: int | None
    state: ContextState = ContextState.ACTIVE


@dataclass(frozen=True, slots=True)
class _Pending:
    key: RequestKey
    peer: Peer
    sequence: int
    peer_teid: int
    received: float
    request: message.CreateRequest | message.UpdateRequest | message.DeleteRequest


class GtpV1Gateway:
    """The machine. ``address`` is ours on both planes; ``recovery`` our restart counter, 0–255."""

    def __init__(
        self,
        *,
        address: IPv4Address,
        recovery: int,
        dns: Sequence[str],
        allowed_peers: Sequence[IPv4Network],
        first_sequence: int,
    ) -> None:
        self._address = address
        self._recovery = recovery & 0xFF
        self._dns = tuple(dns)
        self._allowed_peers = tuple(allowed_peers)
        self._responses = ResponseCache()
        self._requests = RequestSender(first_sequence=first_sequence)
        self._peers = Peers()
        self._by_teid: dict[int, _Context] = {}
        self._by_session: dict[str, _Context] = {}
        self._pending: dict[int, _Pending] = {}
        self._next_token = 0
        self._events: deque[Event] = deque()
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()

    # -- the seam -------------------------------------------------------------------------------------

    @property
    def contexts(self) -> int:
        """How many PDP contexts are held."""
        return len(self._by_teid)

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        if not self._is_allowed(addr[0]):
            self.dropped["peer_not_allowed"] += 1
            return
        try:
            if version_of(data) != 1:
                self._reprove(data, addr, now)
                return
            self._dispatch(decode_header(data), addr, now)
        except RemoteProtocolError:
            self.dropped["malformed_header"] += 1

    def next_event(self) -> Event | None:
        """The next thing to decide, or nothing."""
        return self._events.popleft() if self._events else None

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """Answer an event; what comes after the peer gave up is not sent, and undone where it must be."""
        pending = self._pending.pop(token)
        if now - pending.received > PATIENCE_S:
            self._responses.forget(pending.key)
            if isinstance(outcome, Accepted) and isinstance(pending.request, message.CreateRequest):
                self._events.append(OutcomeTooLate(outcome.session.session_id))
            return
        response = self._encode_answer(pending, outcome)
        self._responses.answer(pending.key, response)
        self._outgoing.append((response, pending.peer))

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        return self._requests.timer()

    def handle_timer(self, now: float) -> None:
        """Repeat what was not answered, give up what never will be."""
        again, given_up = self._requests.expire(now)
        self._outgoing += again
        for subject in given_up:
            self._end_request(subject)

    # -- what the session service tells ---------------------------------------------------------------

    def adopt(self, session: Session) -> None:
        """Hold a context that was read back; its peer's restart counter is learned when it is next heard."""
        self._hold(session, None)

    def release(self, session_id: str, now: float) -> None:
        """End a context from our side: Delete PDP Context Request to the peer (§7.3.5)."""
        context = self._by_session.get(session_id)
        if context is None or not self._step(context, ContextEvent.RELEASE):
            return
        if context.state is not ContextState.RELEASING:
            return
        sequence = self._requests.next_sequence()
        data = message.encode_delete_request(
            peer_teid=context.peer_teid, sequence=sequence, nsapi=context.nsapi
        )
        peer = (context.control_address, GTP_C_PORT)
        if self._requests.begin(sequence, data, peer, session_id, now):
            self._outgoing.append((data, peer))
        else:
            self._step(context, ContextEvent.RELEASE_ENDED)

    def forget(self, session_id: str) -> None:
        """Drop a context without a word to its peer."""
        if context := self._by_session.get(session_id):
            self._step(context, ContextEvent.FORGET)

    # -- requests -------------------------------------------------------------------------------------

    def _dispatch(self, header: Header, addr: Peer, now: float) -> None:
        if header.sequence is None:
            self.dropped["no_sequence_number"] += 1
            return
        match header.message_type:
            case MessageType.ECHO_REQUEST:
                self._outgoing.append((message.encode_echo_response(header.sequence, self._recovery), addr))
                self._hear(addr, message.decode_recovery(header.payload), now)
            case (
                MessageType.CREATE_PDP_CONTEXT_REQUEST
                | MessageType.UPDATE_PDP_CONTEXT_REQUEST
                | MessageType.DELETE_PDP_CONTEXT_REQUEST
            ):
                self._receive_request(header, header.sequence, addr, now)
            case MessageType.ECHO_RESPONSE | MessageType.DELETE_PDP_CONTEXT_RESPONSE:
                self._receive_response(header, header.sequence, addr)
            case _:
                self.dropped["message_not_supported"] += 1

    def _receive_request(self, header: Header, sequence: int, addr: Peer, now: float) -> None:
        key = (addr[0], addr[1], header.message_type, sequence)
        arrival, response = self._responses.arrive(key, now)
        if arrival is Arrival.ANSWERED:
            self._outgoing.append((response, addr))
        elif arrival is not Arrival.NEW:
            self.dropped[arrival.value] += 1
        else:
            try:
                self._begin(key, header, sequence, addr, now)
            except RemoteProtocolError as error:
                self.dropped["refused_by_protocol"] += 1
                teid = self._peer_teid(header)
                self._refuse(key, sequence, addr, teid, error.cause or Cause.INVALID_MESSAGE_FORMAT)

    def _begin(self, key: RequestKey, header: Header, sequence: int, addr: Peer, now: float) -> None:
        """Decode a new request and hand it out; raises ``RemoteProtocolError`` with the cause to answer."""
        if len(self._pending) >= EVENTS_MAX:
            raise RemoteProtocolError("too many requests at once", cause=Cause.NO_RESOURCES_AVAILABLE)
        self._next_token += 1
        token, event = self._next_token, ContextEvent.UPDATE_REQUESTED
        if header.message_type == MessageType.CREATE_PDP_CONTEXT_REQUEST:
            create = message.decode_create_request(header.payload)
            self._check_create(create)
            self._hear(addr, create.recovery, now)
            pending = _Pending(key, addr, sequence, create.teid_control, now, create)
            self._events.append(SessionRequested(token, addr[0], create))
        elif header.message_type == MessageType.UPDATE_PDP_CONTEXT_REQUEST:
            update = message.decode_update_request(header.payload)
            context = self._context_for(header.teid, addr, event)
            self._hear(addr, update.recovery, now)
            peer_teid = update.teid_control or context.peer_teid
            pending = _Pending(key, addr, sequence, peer_teid, now, update)
            self._events.append(UpdateRequested(token, context.session_id, update))
        else:
            delete = message.decode_delete_request(header.payload)
            context = self._context_for(header.teid, addr, ContextEvent.DELETE_REQUESTED)
            pending = _Pending(key, addr, sequence, context.peer_teid, now, delete)
            self._events.append(DeleteRequested(token, context.session_id))
        self._pending[token] = pending

    def _check_create(self, create: message.CreateRequest) -> None:
        address = create.end_user_address
        if address.organisation != EndUserAddress.IETF or address.number not in (
            EndUserAddress.IPV4,
            EndUserAddress.IPV4V6,
        ):
            raise RemoteProtocolError("only IPv4 is offered", cause=Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE)

    def _context_for(self, teid: int, addr: Peer, event: ContextEvent) -> _Context:
        """The context that this TEID names, if this peer may speak of it and it may go through this."""
        context = self._by_teid.get(teid)
        if context is None or not self._speaks_for(addr[0], context):
            raise RemoteProtocolError("no such context", cause=Cause.NON_EXISTENT)
        if not self._step(context, event):
            raise RemoteProtocolError("context is ending", cause=Cause.NON_EXISTENT)
        return context

    def _speaks_for(self, address: str, context: _Context) -> bool:
        if address == context.control_address:
            return True
        own, other = IPv4Address(context.control_address), IPv4Address(address)
        return any(own in network and other in network for network in self._allowed_peers)

    def _refuse(self, key: RequestKey, sequence: int, addr: Peer, teid: int, cause: int) -> None:
        response = message.encode_cause_response(MessageType(key[2] + 1), teid, sequence, cause)
        self._responses.answer(key, response)
        self._outgoing.append((response, addr))

    def _peer_teid(self, header: Header) -> int:
        """The peer's control TEID for a refusal, where it can be known, so that it can be matched."""
        if context := self._by_teid.get(header.teid):
            return context.peer_teid
        if header.message_type != MessageType.CREATE_PDP_CONTEXT_REQUEST:
            return 0
        return message.peek_control_teid(header.payload)

    # -- answers --------------------------------------------------------------------------------------

    def _encode_answer(self, pending: _Pending, outcome: Outcome) -> bytes:
        response_type = MessageType(pending.key[2] + 1)
        if isinstance(outcome, Rejected):
            cause: Cause = outcome.cause
        elif isinstance(outcome, Accepted) and isinstance(pending.request, message.CreateRequest):
            return self._encode_created(pending, pending.request, outcome.session)
        elif isinstance(outcome, Accepted) and isinstance(pending.request, message.UpdateRequest):
            return self._encode_updated(pending, pending.request, outcome.session)
        else:
            cause = Cause.REQUEST_ACCEPTED
        return message.encode_cause_response(response_type, pending.peer_teid, pending.sequence, cause)

    def _encode_created(self, pending: _Pending, request: message.CreateRequest, session: Session) -> bytes:
        context = self._hold(session, request.recovery)
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        both = request.end_user_address.number == EndUserAddress.IPV4V6
        return message.encode_create_response(
            peer_teid=context.peer_teid,
            sequence=pending.sequence,
            cause=Cause.NEW_PDP_TYPE_DUE_TO_NETWORK_PREFERENCE if both else Cause.REQUEST_ACCEPTED,
            recovery=self._recovery,
            teid_control=tunnel.local_teid_control,
            teid_data=tunnel.local_teid_user,
            charging_id=tunnel.charging_id,
            address=session.ue_address,
            control_address=self._address,
            user_address=self._address,
            qos=request.qos,
            pco=answer_options(request.pco, self._dns),
        )

    def _encode_updated(self, pending: _Pending, request: message.UpdateRequest, session: Session) -> bytes:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        if context := self._by_session.get(session.session_id):
            context.peer_teid = tunnel.peer_teid_control
            context.control_address = tunnel.peer_control_address
            if request.recovery is not None:
                context.peer_restart_counter = request.recovery
        return message.encode_update_response(
            peer_teid=tunnel.peer_teid_control,
            sequence=pending.sequence,
            recovery=self._recovery,
            teid_control=tunnel.local_teid_control,
            teid_data=tunnel.local_teid_user,
            charging_id=tunnel.charging_id,
            control_address=self._address,
            user_address=self._address,
            qos=request.qos,
        )

    def _receive_response(self, header: Header, sequence: int, addr: Peer) -> None:
        try:
            response = message.decode_response(MessageType(header.message_type), header.payload)
        except RemoteProtocolError:
            self.dropped["malformed_response"] += 1
            return
        subject = self._requests.answered(addr[0], sequence)
        if subject is None:
            self.dropped["orphan_response"] += 1
        elif header.message_type == MessageType.ECHO_RESPONSE:
            if (counter := self._peers.hear_answer(addr[0], response.recovery)) is not None:
                self._clear_older(addr[0], counter)
        else:
            self._end_request(subject)

    def _end_request(self, subject: str) -> None:
        """A request of ours was answered or given up; ``subject`` is a session id or ``echo:address``."""
        if subject.startswith("echo:"):
            self._peers.unanswered(subject.removeprefix("echo:"))
        elif context := self._by_session.get(subject):
            self._step(context, ContextEvent.RELEASE_ENDED)

    # -- peers ----------------------------------------------------------------------------------------

    def _is_allowed(self, address: str) -> bool:
        if not self._allowed_peers:
            return True
        return any(IPv4Address(address) in network for network in self._allowed_peers)

    def _reprove(self, data: bytes, addr: Peer, now: float) -> None:
        """Version Not Supported (§7.2.3), but never in answer to one, and rarely."""
        self.dropped["version_not_supported"] += 1
        if data[1] == MessageType.VERSION_NOT_SUPPORTED or not self._peers.may_reprove(addr[0], now):
            return
        sequence = int.from_bytes(data[8:10], "big") if len(data) >= 10 else 0
        self._outgoing.append((message.encode_version_not_supported(sequence), addr))

    def _hear(self, addr: Peer, recovery: int | None, now: float) -> None:
        if not self._peers.hear(addr[0], recovery):
            return
        sequence = self._requests.next_sequence()
        data = message.encode_echo_request(sequence)
        peer = (addr[0], GTP_C_PORT)
        if self._requests.begin(sequence, data, peer, f"echo:{addr[0]}", now):
            self._outgoing.append((data, peer))

    def _clear_older(self, peer: str, counter: int) -> None:
        """What this peer held before its restart is over; what it asked for since then is not."""
        lost = tuple(
            context.session_id
            for context in self._by_session.values()
            if context.control_address == peer and context.peer_restart_counter != counter
        )
        if lost:
            self._events.append(PeerRestarted(peer, lost))

    # -- contexts -------------------------------------------------------------------------------------

    def _hold(self, session: Session, restart_counter: int | None) -> _Context:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        context = _Context(
            session_id=session.session_id,
            local_teid=tunnel.local_teid_control,
            peer_teid=tunnel.peer_teid_control,
            control_address=tunnel.peer_control_address,
            nsapi=tunnel.nsapi,
            peer_restart_counter=restart_counter,
        )
        self._by_teid[context.local_teid] = context
        self._by_session[context.session_id] = context
        return context

    def _step(self, context: _Context, event: ContextEvent) -> bool:
        """Take a context through an event; false when its state does not allow it."""
        following = TRANSITIONS[context.state].get(event)
        if following is None:
            self.dropped[f"{event.value}_while_{context.state.value}"] += 1
            return False
        context.state = following
        if following is ContextState.GONE:
            self._by_teid.pop(context.local_teid, None)
            self._by_session.pop(context.session_id, None)
        return True
