"""The GTP-C endpoint of a gateway, for all versions of the interface, without I/O.

Rules:

- Bytes go in by ``receive_datagram``, decisions come out by ``next_event`` and go back in by ``answer``,
  bytes come out by ``datagrams_to_send``; time is an argument.
- What belongs to the interface exists once: partners and their rates, contexts, admission, limits. What
  belongs to a version is its ``Version``'s; how it is read and written is its ``Wire``'s.
- Nothing that a peer sends raises; what is dropped is counted by its version, by reason.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import final

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.session import Access, CloseReason, Session
from core.domain.shares import Places
from gtp.admission import Admission
from gtp.contexts import Context, Contexts
from gtp.events import Event, Outcome
from gtp.network_initiated import NetworkInitiated
from gtp.network_requests import PUT_OFF_MAX, NetworkRequest, Procedure
from gtp.partners import Partner, Partners
from gtp.path import Peers
from gtp.path_management import PathManagement, PeerView
from gtp.request_reader import RequestReader
from gtp.requests import Requests
from gtp.serving import Serving
from gtp.transaction import (
    REQUESTS_MAX,
    RESPONSES_MAX,
    TIMERS,
    Peer,
    RequestSender,
    ResponseCache,
    Timers,
)
from gtp.version import NO_CAUSES, Causes, Sender, Version
from gtp.wire import Discarded, EchoRequest, EncodedRequest, GatewayEnd, Malformed, Message, Response, Wire

DECIDING_MAX = 8_192
"""Requests handed out and not yet answered; beyond it new ones are refused for want of resources. Those for
new sessions have a part of it (``gtp.admission``)."""
SHED_AFTER_S = TIMERS.shed_after_s
"""By default: a request for a session that is not decided by then is refused for want of resources, while
its peer still waits; should it succeed later, the session is ended."""
HEADER_VERSIONS = 8
"""As many as the version field of a header can name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the endpoint holds at once, of all versions together: requests of peers that are decided,
    answers kept for repeats, requests of ours that are open, sessions of which requests are put off.
    """

    deciding: int = DECIDING_MAX
    responses: int = RESPONSES_MAX
    requests: int = REQUESTS_MAX
    put_off: int = PUT_OFF_MAX


@final
class GtpcEndpoint:
    """``address`` is ours, ``user_address`` where our tunnels end, if it is another; ``recovery`` is our
    restart counter; ``random_bytes`` is a CSPRNG.

    ``partners`` and peers in ``allowed_peers`` are served; ``causes`` overrides causes of refusals. A
    datagram of a version that no wire speaks goes to the nearest lower version, else to the lowest.
    """

    def __init__(
        self,
        *,
        wires: Sequence[Wire],
        address: IPv4Address,
        recovery: int,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        random_bytes: Callable[[int], bytes],
        partners: Sequence[Partner] = (),
        timers: Timers = TIMERS,
        causes: Causes = NO_CAUSES,
        user_address: IPv4Address | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._partners = Partners(partners, allowed_peers)
        self._contexts = Contexts()
        self._serving = Serving(GatewayEnd(str(address), str(user_address or address), recovery & 0xFF), apns)
        self._events: deque[Event] = deque()
        self._outgoing: deque[tuple[bytes, Peer]] = deque()
        self._versions = self._speak(wires, random_bytes, Places(limits.requests), timers, causes)
        self._by_header = _by_header(tuple(self._versions.values()))
        self._network = NetworkInitiated(
            serving=self._serving,
            versions=self._versions,
            contexts=self._contexts,
            partners=self._partners,
            put_off_max=limits.put_off,
            events=self._events,
            outgoing=self._outgoing,
        )
        self._paths = PathManagement(
            serving=self._serving,
            versions=self._versions,
            contexts=self._contexts,
            partners=self._partners,
            patience_s=timers.patience_s,
            events=self._events,
            outgoing=self._outgoing,
        )
        self._requests = Requests(
            serving=self._serving,
            contexts=self._contexts,
            partners=self._partners,
            admission=Admission(limits.deciding),
            reader=RequestReader(contexts=self._contexts, partners=self._partners, network=self._network),
            responses=ResponseCache(capacity=limits.responses, kept_s=timers.kept_s),
            paths=self._paths,
            network=self._network,
            timers=timers,
            events=self._events,
            outgoing=self._outgoing,
        )

    def _speak(
        self,
        wires: Sequence[Wire],
        random_bytes: Callable[[int], bytes],
        places: Places,
        timers: Timers,
        causes: Causes,
    ) -> dict[Access, Version]:
        """The versions; ``places`` are for the open requests of all."""
        party_of = self._partners.party_of
        versions = {}
        for wire in wires:
            requests: RequestSender[NetworkRequest] = RequestSender(
                random_bytes=random_bytes,
                bits=wire.sequence_bits,
                places=places,
                timers=timers,
                party_of=party_of,
            )
            peers = Peers(timers=timers, asks=self._is_sent_echo)
            versions[wire.access] = Version(wire, requests=requests, peers=peers, causes=causes)
        return versions

    # -- the seam -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        version = self._by_header[data[0] >> 5 if data else 0]
        partner = self._partners.of(addr[0])
        if partner is None:
            version.dropped["peer_not_allowed"] += 1
        elif partner.requests_per_s and not self._partners.take(partner, now):
            version.dropped["rate_exceeded"] += 1
        else:
            sender = Sender(version, addr, partner, partner.party_of(addr[0]))
            for message in version.wire.decode(data):
                self._on_message(sender, message, now)

    def _on_message(self, sender: Sender, message: Message, now: float) -> None:
        version, peer = sender.version, sender.peer
        match message:
            case EncodedRequest():
                if message.notice:
                    self._notify(sender, message.notice, now)
                self._requests.on_request(sender, message, now)
            case Response():
                self._on_response(sender, message, now)
            case EchoRequest():
                self._paths.on_echo_request(version, peer, message.sequence, message.recovery, now)
            case Discarded():
                version.dropped[message.reason] += 1
                if message.notice:
                    self._notify(sender, message.notice, now)
            case Malformed():
                version.dropped["malformed_header"] += 1
                return
        version.peers.on_message(peer[0], now)

    def _notify(self, sender: Sender, notice: bytes, now: float) -> None:
        """Send a notice of what is not understood, one a second to a peer at most."""
        if sender.version.peers.may_notify(sender.peer[0], now):
            self._outgoing.append((notice, sender.peer))

    def _on_response(self, sender: Sender, response: Response, now: float) -> None:
        version, peer, reply = sender.version, sender.peer, response.reply
        request = version.requests.answered(peer, response.sequence, response.message_type)
        if request is None:
            version.dropped["orphan_response"] += 1
        elif request.procedure is Procedure.ECHO:
            self._paths.on_echo_response(version, peer[0], reply.recovery, now)
        else:
            self._paths.on_recovery(version, peer[0], reply.recovery, now)
            self._network.on_reply(request, reply, now)

    def next_event(self) -> Event | None:
        """The next thing to decide, or nothing."""
        return self._events.popleft() if self._events else None

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """Answer an event; what comes after the peer gave up is not sent, and undone where it must be."""
        self._requests.answer(token, outcome, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        if not self._outgoing:
            return []
        outgoing = list(self._outgoing)
        self._outgoing.clear()
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        times = [self._requests.timer(), *self._network.timers(), *self._paths.timers()]
        times += [version.requests.timer() for version in self._versions.values()]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Repeat what was not answered, give up what never will be, refuse what takes too long to decide."""
        for version in self._versions.values():
            again, given_up = version.requests.expire(now)
            self._outgoing += again
            for request in given_up:
                if request.procedure is Procedure.ECHO:
                    version.peers.on_echo_timeout(request.about, now)
                else:
                    self._network.on_reply(request, None, now)
        self._network.handle_timer(now)
        self._requests.shed(now)
        self._paths.handle_timer(now)

    # -- what is served -------------------------------------------------------------------------------

    @property
    def versions(self) -> Mapping[Access, Version]:
        """What is kept of each version."""
        return self._versions

    @property
    def partners(self) -> Partners:
        """Who is served, and at what rate."""
        return self._partners

    @property
    def contexts(self) -> int:
        """How many contexts are held."""
        return len(self._contexts)

    def put_off_of(self, access: Access) -> int:
        """Of how many sessions requests wait for their devices, changes apart."""
        return self._network.put_off_of(access)

    def peers(self, access: Access) -> Iterator[PeerView]:
        """Every peer that is known by a version."""
        return self._paths.peers(access)

    def serve(
        self,
        *,
        apns: Sequence[Apn],
        allowed_peers: Sequence[IPv4Network],
        partners: Sequence[Partner],
        causes: Causes = NO_CAUSES,
    ) -> None:
        """Serve these access points to these peers from now on; contexts that are held stay, and what a
        partner has left of its rate.
        """
        self._serving.reload(apns)
        self._partners.reload(partners, allowed_peers)
        for version in self._versions.values():
            version.reload(causes)

    def on_own_restart(self, counter: int) -> None:
        """Our own sessions were lost: send this as Recovery from now on (TS 23.007 §18)."""
        self._serving.on_own_restart(counter)

    def known_counter_of(self, access: Access, address: str) -> int | None:
        """The restart counter that is believed of a peer in this version."""
        return self._versions[access].peers.known_of(address)

    def forget_peer(self, peer: str) -> None:
        """Know nothing any more of a peer's address, or of those of a partner."""
        self._paths.forget_peer(peer)

    def _is_sent_echo(self, address: str) -> bool:
        partner = self._partners.of(address)
        return partner is not None and partner.echo

    # -- sessions -------------------------------------------------------------------------------------

    def adopt(self, session: Session, now: float = 0.0) -> None:
        """Hold a context that was read back, and what its peer's restart counter was."""
        self._paths.on_adopted(self._contexts.hold(session), now)

    def release(self, session_id: str, now: float, reason: CloseReason = CloseReason.CUSTOMER) -> None:
        """Release a context: a request to its peer, with a cause where the device should know."""
        if context := self._contexts.by_session(session_id):
            self._network.release(context, reason, now)

    def release_former(self, context: Context, now: float) -> None:
        """Release a context at the peer that the session had before another partner took it over."""
        self._network.release_former(context, now)

    def changed(self, session: Session, now: float) -> None:
        """Send the peer the QoS that the session is granted now, if it has not ended."""
        self._network.change(session, now)

    def add_bearer(self, session: Session, bearer: DedicatedBearer, now: float) -> int | None:
        """Request a dedicated bearer; its ``BearerAnswered`` has this token. ``None``: not possible now."""
        return self._network.add_bearer(session, bearer, now)

    def change_bearer(self, session: Session, bearer: DedicatedBearer, now: float) -> int | None:
        """Request the change of a dedicated bearer into this; as ``add_bearer``."""
        return self._network.change_bearer(session, bearer, now)

    def remove_bearer(self, session_id: str, ebi: int, now: float) -> None:
        """Release a dedicated bearer at the peer."""
        self._network.remove_bearer(session_id, ebi, now)

    def forget(self, session_id: str) -> None:
        """Drop a context without telling its peer."""
        self._network.forget(session_id)

    def wake(self, session_id: str, now: float) -> None:
        """The device of a session was heard of: what its peer put off is asked now."""
        self._network.wake(session_id, now)


def _by_header(versions: Sequence[Version]) -> tuple[Version, ...]:
    """Who reads a datagram, by the version in its header."""
    known = sorted(versions, key=lambda version: version.wire.version)
    return tuple(
        max(
            (each for each in known if each.wire.version <= number),
            key=lambda each: each.wire.version,
            default=known[0],
        )
        for number in range(HEADER_VERSIONS)
    )
