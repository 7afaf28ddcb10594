"""The RADIUS server's side of a conversation, without I/O (RFC 2865, RFC 2866, RFC 5080 §2.2.2, RFC 5997).

Rules:

- Bytes go in by ``receive_datagram``, decisions come out by ``next_event`` and go back in by ``answer``,
  bytes come out by ``datagrams_to_send``; time is an argument.
- Whoever is no client gets silence, as does whatever is not authentic: nothing confirms a guess.
- A request that comes again is answered again with the same octets, or dropped while it is being decided.
- Nothing that a peer sends raises; what is dropped is counted in ``dropped`` by reason.
- No client fills a table for the others (``core.domain.shares``).
"""

from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Address

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.shares import Kept, Places
from core.errors import RemoteProtocolError
from radius import attributes as a
from radius.codec import (
    NO_AUTHENTICATOR,
    Attribute,
    Code,
    Packet,
    decode,
    encode_attributes,
    encode_response,
    is_authentic,
    is_signed,
)
from radius.credentials import eap_failure
from radius.events import (
    AccessRequested,
    AccountingRequested,
    Denied,
    Granted,
    NotRecorded,
    Outcome,
    Recorded,
    ServerEvent,
    StrangerHeard,
)
from radius.mapping import access_request_of, accounting_report_of, reply_message
from radius.networks import NasNetwork, NasNetworks

KEPT_S = 30.0
"""How long an answer is kept for repeats: longer than a client goes on (RFC 5080 §2.2.1)."""
SWEEP_S = 1.0
"""Answers that are kept no longer are forgotten together, so often at most."""
RESPONSES_MAX = 65_536
"""Answers; beyond it, or a client's share, the oldest is forgotten: its repeat is decided anew, which an
accounting request may be at any time and an Access-Request too."""
EVENTS_MAX = 8_192
"""Requests that are being decided; beyond it, or a client's share, new ones get silence."""
CHOSEN_BY_NAS = IPv4Address("255.255.255.254")
STRANGERS_MAX = 64
"""Addresses of strangers that wait to be told; beyond it the oldest is not."""

Peer = tuple[str, int]


class ServerPort(Enum):
    """The ports of a RADIUS server; each has its own kinds of requests (RFC 2865 §3, RFC 2866 §3)."""

    AUTHENTICATION = "authentication"
    ACCOUNTING = "accounting"


_Key = tuple[str, int, int, int, bytes]


class _Pending(Struct, frozen=True):
    key: _Key
    peer: Peer
    packet: Packet
    client: NasNetwork


class RadiusServer:
    """The machine of one port."""

    def __init__(self, port: ServerPort, networks: NasNetworks) -> None:
        self._port = port
        self._networks = networks
        self._answered: Kept[_Key, tuple[float, bytes]] = Kept(RESPONSES_MAX)
        """Until when each is kept, and its octets."""
        self._sweep_at: float | None = None
        self._pending: dict[int, _Pending] = {}
        self._deciding: set[_Key] = set()
        self._places = Places(EVENTS_MAX)
        self._next_token = 0
        self._events: deque[ServerEvent] = deque()
        self._strangers: deque[str] = deque(maxlen=STRANGERS_MAX)
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()

    # -- the seam -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        client = self._networks.of(addr[0])
        if client is None:
            self.dropped["unknown_client"] += 1
            self._strangers.append(addr[0])
            return
        try:
            packet = decode(data)
        except RemoteProtocolError:
            self.dropped["malformed"] += 1
            return
        if fault := _fault(self._port, packet, client):
            self.dropped[fault] += 1
            return
        key = (*addr, packet.code, packet.identifier, packet.authenticator)
        if not self._is_repeat(key, now):
            self._begin(_Pending(key, addr, packet, client), now)

    def next_event(self) -> ServerEvent | None:
        """The next thing to decide or to be told, or nothing."""
        if self._events:
            return self._events.popleft()
        return StrangerHeard(self._strangers.popleft()) if self._strangers else None

    def answer(self, token: int, outcome: Outcome, now: float) -> None:
        """Answer a request."""
        pending = self._pending.pop(token)
        self._deciding.remove(pending.key)
        self._places.give_back(pending.client.name)
        match outcome:
            case Granted():
                given = [
                    (a.FRAMED_IP_ADDRESS, (outcome.address or CHOSEN_BY_NAS).packed),
                    (a.CLASS, outcome.class_),
                    (a.ACCT_INTERIM_INTERVAL, outcome.interim_interval_s.to_bytes(4, "big")),
                ]
                self._respond(pending, Code.ACCESS_ACCEPT, given, now)
            case Denied():
                self._respond(pending, Code.ACCESS_REJECT, [_words(pending.packet, outcome.reason)], now)
            case Recorded():
                self._respond(pending, Code.ACCOUNTING_RESPONSE, [], now)
            case NotRecorded():
                pass

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When answers are to be forgotten."""
        return self._sweep_at

    def handle_timer(self, now: float) -> None:
        """Forget the answers that nobody asks for any more."""
        while (oldest := self._answered.oldest()) is not None and oldest[0] <= now:
            self._answered.pop_oldest()
        self._sweep_at = None if oldest is None else max(oldest[0], now + SWEEP_S)

    # -- inside ---------------------------------------------------------------------------------------

    def _is_repeat(self, key: _Key, now: float) -> bool:
        """Whether a request came before; one that was answered is answered again (RFC 5080 §2.2.2)."""
        if key in self._deciding:
            self.dropped["in_progress"] += 1
            return True
        answered = self._answered.get(key)
        if answered is None or answered[0] <= now:
            return False
        self._outgoing.append((answered[1], key[:2]))
        return True

    def _begin(self, pending: _Pending, now: float) -> None:
        """Have a new request decided."""
        packet, client, source = pending.packet, pending.client, pending.peer[0]
        if packet.code == Code.STATUS_SERVER:  # answered as the port's own kind of request is (RFC 5997 §3)
            is_access = self._port is ServerPort.AUTHENTICATION
            code = Code.ACCESS_ACCEPT if is_access else Code.ACCOUNTING_RESPONSE
            self._respond(pending, code, [], now)
            return
        if not self._places.take(client.name):
            self.dropped["too_many"] += 1
            return
        self._next_token = token = self._next_token + 1
        event: ServerEvent
        if packet.code == Code.ACCESS_REQUEST:
            request = access_request_of(packet, source, client.secret, client.policy.realms)
            event = AccessRequested(token, client, request)
        elif (report := accounting_report_of(packet, source, client.policy.realms)) is not None:
            event = AccountingRequested(token, client, report, now)
        else:
            self._places.give_back(client.name)
            self.dropped["status_type_missing"] += 1
            return
        self._deciding.add(pending.key)
        self._pending[token] = pending
        self._events.append(event)

    def _respond(self, pending: _Pending, code: Code, attributes: Sequence[Attribute], now: float) -> None:
        packet, kept_until = pending.packet, now + KEPT_S
        if a.PROXY_STATE in packet.firsts:
            proxied = [(a.PROXY_STATE, value) for value in packet.all(a.PROXY_STATE)]
            attributes = [*attributes, *proxied]
        data = encode_response(code, packet, encode_attributes(attributes), pending.client.secret)
        self._answered.put(pending.key, pending.client.name, (kept_until, data))
        if self._sweep_at is None:
            self._sweep_at = kept_until
        self._outgoing.append((data, pending.peer))


def _words(packet: Packet, reason: AttachRefusal) -> Attribute:
    """EAP has its own; Reply-Message may not stand beside it (RFC 3579 §2.6.5)."""
    failure = eap_failure(packet)
    return reply_message(reason) if failure is None else (a.EAP_MESSAGE, failure)


def _fault(port: ServerPort, packet: Packet, client: NasNetwork) -> str:
    """Why a packet gets silence; empty when it is good."""
    code, secret = packet.code, client.secret
    if code == Code.ACCOUNTING_REQUEST and port is ServerPort.ACCOUNTING:
        authentic = is_authentic(packet, secret, NO_AUTHENTICATOR)
        return "" if is_signed(packet, secret) and authentic is not False else "not_authentic"
    if code != Code.STATUS_SERVER and (code != Code.ACCESS_REQUEST or port is ServerPort.ACCOUNTING):
        return "code_not_supported"
    authentic = is_authentic(packet, secret)
    if authentic is None:
        must = client.require_message_authenticator or code == Code.STATUS_SERVER
        must = must or a.EAP_MESSAGE in packet.firsts  # RFC 3579 §3.2
        return "no_message_authenticator" if must or a.PROXY_STATE in packet.firsts else ""
    return "" if authentic else "not_authentic"
