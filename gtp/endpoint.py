"""What both versions of a GTP-C endpoint do alike, without I/O.

Rules:

- Bytes go in by ``receive_datagram``, decisions come out by ``next_event`` and go back in by ``answer``,
  bytes come out by ``datagrams_to_send``; time is an argument.
- A context answers to its own peer only, or to one in the same allowed network; to anybody else it does
  not exist, so that nobody learns that a TEID is in use.
- Nothing that a peer sends raises; what is dropped is counted in ``dropped`` by reason.
"""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, Session
from core.errors import RemoteProtocolError
from gtp.contexts import Context, ContextEvent, Contexts, ContextState
from gtp.events import (
    Accepted,
    BearerAnswered,
    Event,
    Outcome,
    OutcomeTooLate,
    PeerRestarted,
    Rejected,
    SessionRequested,
    SessionUnknown,
)
from gtp.initiated import Changes, Initiated, Procedure, Reply, Verdict
from gtp.path import Peers
from gtp.transaction import (
    N3_REQUESTS,
    PATIENCE_S,
    T3_RESPONSE_S,
    Arrival,
    Peer,
    RequestKey,
    RequestSender,
    ResponseCache,
)

GTP_C_PORT = 2123
EVENTS_MAX = 8_192
"""Requests handed out and not yet answered; beyond it new ones are refused for want of resources."""
SHED_AFTER_S = T3_RESPONSE_S * (N3_REQUESTS - 1)
"""A request for a session that is not decided by then is refused for want of resources, while its peer still
waits; should it succeed later, the session is ended."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its version's machine decoded it: what to hand out, and what its answer needs.

    ``wire`` is the version's own message; ``context`` the one it speaks of, if any.
    """

    event: Event
    peer_teid: int
    recovery: int | None
    wire: object


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that is being decided."""

    key: RequestKey
    peer: Peer
    sequence: int
    received: float
    asked: Asked

    @property
    def message_type(self) -> int:
        """Of the request."""
        return self.key[2]


class GtpEndpoint(ABC):
    """One version's machine. ``address`` is ours on both planes; ``recovery`` our restart counter."""

    ACCESS: ClassVar[Access]
    SEQUENCE_BITS: ClassVar[int]
    HAS_BEARERS: ClassVar[bool] = False
    """Whether it can be asked for dedicated bearers."""

    def __init__(
        self,
        *,
        address: IPv4Address,
        recovery: int,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        first_sequence: int,
        contexts: Contexts | None = None,
    ) -> None:
        self._address = address
        self._recovery = recovery & 0xFF
        self._apns = {apn.name: apn for apn in apns}
        self._allowed_peers = tuple(allowed_peers)
        self._contexts = Contexts() if contexts is None else contexts
        self._responses = ResponseCache()
        self._requests: RequestSender[Initiated] = RequestSender(
            first_sequence=first_sequence, bits=self.SEQUENCE_BITS
        )
        self._changes = Changes()
        self._peers = Peers()
        self._pending: dict[int, Pending] = {}
        self._undecided: deque[int] = deque()
        self._shed: set[int] = set()
        self._next_token = 0
        self._events: deque[Event] = deque()
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()

    # -- the seam -------------------------------------------------------------------------------------

    @property
    def contexts(self) -> int:
        """How many contexts are held, by either version."""
        return len(self._contexts)

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        if not self._is_allowed(addr[0]):
            self.dropped["peer_not_allowed"] += 1
            return
        try:
            self._receive(data, addr, now)
        except RemoteProtocolError:
            self.dropped["malformed_header"] += 1

    def next_event(self) -> Event | None:
        """The next thing to decide, or nothing."""
        return self._events.popleft() if self._events else None

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """Answer an event; what comes after the peer gave up is not sent, and undone where it must be."""
        pending = self._pending.pop(token)
        is_shed = token in self._shed
        if is_shed or now - pending.received > PATIENCE_S:
            self._shed.discard(token)
            if not is_shed:
                self._responses.forget(pending.key)
            if isinstance(outcome, Accepted) and isinstance(pending.asked.event, SessionRequested):
                self._events.append(OutcomeTooLate(outcome.session.session_id))
            return
        if isinstance(outcome, Accepted):
            self._hold(pending, outcome.session)
        self._tell(pending, outcome, now)
        if isinstance(outcome, Accepted) and (put_off := self._changes.again(outcome.session.session_id)):
            self._tell_change(put_off, now)

    def _tell(self, pending: Pending, outcome: Outcome, now: float) -> None:
        """Send the answer; a version may have more to do with it."""
        response = self._encode_answer(pending, outcome)
        self._responses.answer(pending.key, response)
        self._outgoing.append((response, pending.peer))

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        oldest = self._oldest_undecided()
        shed_at = oldest.received + SHED_AFTER_S if oldest is not None else None
        times = (self._requests.timer(), self._changes.timer(), shed_at)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Repeat what was not answered, give up what never will be, refuse what takes too long to decide."""
        again, given_up = self._requests.expire(now)
        self._outgoing += again
        for initiated in given_up:
            self._end_request(initiated, None, now)
        for session in self._changes.due(now):
            self._tell_change(session, now)
        while (oldest := self._oldest_undecided()) is not None and oldest.received + SHED_AFTER_S <= now:
            self._shed.add(self._undecided.popleft())
            self._tell(oldest, Rejected(AttachRefusal.NO_RESOURCES), now)

    def _oldest_undecided(self) -> Pending | None:
        """The request for a session that waits longest for its decision."""
        while self._undecided:
            if (pending := self._pending.get(self._undecided[0])) is not None:
                return pending
            self._undecided.popleft()
        return None

    # -- what the session service tells ---------------------------------------------------------------

    def adopt(self, session: Session) -> None:
        """Hold a context that was read back; its peer's restart counter is learned when it is next heard."""
        self._contexts.hold(session, None)

    def release(self, session_id: str, now: float) -> None:
        """End a context from our side, by a request that is repeated until the peer answers it."""
        context = self._contexts.by_session(session_id)
        if context is None or not self._step(context, ContextEvent.RELEASE):
            return
        if context.state is not ContextState.RELEASING:
            return
        released = Initiated(Procedure.RELEASE, session_id)
        if not self._start(context, released, lambda sequence: self._encode_release(context, sequence), now):
            self._step(context, ContextEvent.RELEASE_ENDED)

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

    def remove_bearer(self, session_id: str, ebi: int, now: float) -> None:
        """Tell the peer that a dedicated bearer is over."""
        context = self._standing(session_id)
        if context is not None and self.HAS_BEARERS:
            removed = Initiated(Procedure.REMOVE_BEARER, session_id)
            self._start(context, removed, lambda seq: self._encode_bearer_removed(context, ebi, seq), now)

    def forget(self, session_id: str) -> None:
        """Drop a context without a word to its peer."""
        if context := self._contexts.by_session(session_id):
            self._step(context, ContextEvent.FORGET)

    # -- what a version fills in ----------------------------------------------------------------------

    @abstractmethod
    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        """Decode and dispatch one datagram; raises ``RemoteProtocolError`` for a broken header."""

    @abstractmethod
    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        """The response to a request."""

    @abstractmethod
    def _encode_release(self, context: Context, sequence: int) -> bytes:
        """The request by which the network ends a context."""

    @abstractmethod
    def _encode_change(self, context: Context, session: Session, sequence: int) -> bytes:
        """The request that tells what a session is granted now."""

    def _encode_bearer_added(self, context: Context, bearer: DedicatedBearer, sequence: int) -> bytes:
        """The request for a dedicated bearer, of a version that has them."""
        raise NotImplementedError

    def _encode_bearer_removed(self, context: Context, ebi: int, sequence: int) -> bytes:
        """The request that ends a dedicated bearer, of a version that has them."""
        raise NotImplementedError

    @abstractmethod
    def _encode_echo_request(self, sequence: int) -> bytes:
        """An Echo Request."""

    # -- requests -------------------------------------------------------------------------------------

    def _arrive(self, key: RequestKey, addr: Peer, now: float) -> bool:
        """Whether a request is new; one that was answered is answered again."""
        arrival, response = self._responses.arrive(key, now)
        if arrival is Arrival.ANSWERED:
            self._outgoing.append((response, addr))
        elif arrival is not Arrival.NEW:
            self.dropped[arrival.value] += 1
        return arrival is Arrival.NEW

    def _has_room(self) -> bool:
        return len(self._pending) < EVENTS_MAX

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _hand_out(self, token: int, key: RequestKey, addr: Peer, asked: Asked, now: float) -> None:
        """Let an event be decided."""
        self._hear(addr, asked.recovery, now)
        self._pending[token] = Pending(key, addr, key[3], now, asked)
        if isinstance(asked.event, SessionRequested):
            self._undecided.append(token)
        self._events.append(asked.event)

    def _respond(self, key: RequestKey, addr: Peer, response: bytes) -> None:
        """Answer a request at once."""
        self._responses.answer(key, response)
        self._outgoing.append((response, addr))

    def _context_for(self, teid: int, addr: Peer, event: ContextEvent) -> Context | None:
        """The context that this TEID names, if this peer may speak of it and it may go through this."""
        context = self._contexts.by_teid(teid)
        if context is None or not self._speaks_for(addr[0], context):
            return None
        return context if self._step(context, event) else None

    def _speaks_for(self, address: str, context: Context) -> bool:
        return self._are_one(address, context.control_address)

    def _are_one(self, address: str, other: str) -> bool:
        """Whether they are the same peer, or of one allowed network."""
        if address == other:
            return True
        one, another = IPv4Address(address), IPv4Address(other)
        return any(one in network and another in network for network in self._allowed_peers)

    def _hold(self, pending: Pending, session: Session) -> None:
        if isinstance(pending.asked.event, SessionRequested):
            self._contexts.hold(session, pending.asked.recovery)
        else:
            self._contexts.move(session, pending.asked.recovery)

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
        sequence = self._requests.next_sequence()
        data, peer = encode(sequence), (context.control_address, GTP_C_PORT)
        initiated = replace(initiated, address=context.control_address, teid=context.peer_teid)
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

    def _take_response(self, message_type: int, sequence: int, addr: Peer, now: float, reply: Reply) -> None:
        initiated = self._requests.answered(addr[0], sequence, message_type, self._are_one)
        if initiated is None:
            self.dropped["orphan_response"] += 1
        elif initiated.procedure is Procedure.ECHO:
            if (counter := self._peers.hear_answer(addr[0], reply.recovery)) is not None:
                self._clear_older(addr[0], counter)
        else:
            self._end_request(initiated, reply, now)

    def _end_request(self, initiated: Initiated, reply: Reply | None, now: float) -> None:
        """A request of ours was answered, or given up."""
        session_id = initiated.about
        match initiated.procedure:
            case Procedure.ECHO:
                self._peers.unanswered(initiated.about)
            case Procedure.RELEASE:
                if context := self._contexts.by_session(session_id):
                    self._step(context, ContextEvent.RELEASE_ENDED)
            case Procedure.CHANGE:
                is_later = reply is not None and reply.verdict is Verdict.LATER
                if (following := self._changes.end(session_id, is_later=is_later, now=now)) is not None:
                    self._tell_change(following, now)
            case Procedure.ADD_BEARER:
                ends, bearer = reply.ends if reply else None, initiated.bearer
                if ends is not None and bearer is not None:
                    bearer = replace(
                        bearer,
                        ebi=ends.ebi,
                        peer_teid_user=ends.teid_user,
                        peer_user_address=str(ends.user_address),
                    )
                made = bearer if ends is not None else None
                self._events.append(BearerAnswered(initiated.token, session_id, made))
            case Procedure.REMOVE_BEARER | Procedure.COMMANDED:
                return
        is_unknown = reply is not None and reply.verdict is Verdict.UNKNOWN
        if is_unknown and self._standing(session_id) is not None:
            self._events.append(SessionUnknown(session_id, initiated.address, initiated.teid))

    # -- peers ----------------------------------------------------------------------------------------

    def _is_allowed(self, address: str) -> bool:
        if not self._allowed_peers:
            return True
        return any(IPv4Address(address) in network for network in self._allowed_peers)

    def _hear(self, addr: Peer, recovery: int | None, now: float) -> None:
        if not self._peers.hear(addr[0], recovery):
            return
        sequence = self._requests.next_sequence()
        data = self._encode_echo_request(sequence)
        peer = (addr[0], GTP_C_PORT)
        if self._requests.begin(sequence, data, peer, Initiated(Procedure.ECHO, addr[0]), now):
            self._outgoing.append((data, peer))

    def _clear_older(self, peer: str, counter: int) -> None:
        """What this peer held before its restart is over; what it asked for since then is not."""
        lost = tuple(
            context.session_id
            for context in self._contexts.of_peer(self.ACCESS, peer)
            if context.peer_restart_counter != counter
        )
        if lost:
            self._events.append(PeerRestarted(peer, lost))

    def _step(self, context: Context, event: ContextEvent) -> bool:
        state = context.state
        if self._contexts.step(context, event):
            if context.state is not ContextState.ACTIVE:
                self._changes.forget(context.session_id)
            return True
        self.dropped[f"{event.value}_while_{state.value}"] += 1
        return False
