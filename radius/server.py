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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

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
    encode_response,
    is_authentic,
    is_signed,
)
from radius.credentials import eap_failure
from radius.mapping import (
    AccessRequest,
    AccountingReport,
    access_request_of,
    accounting_report_of,
    reply_message,
)

KEPT_S = 30.0
"""How long an answer is kept for repeats: longer than a client goes on (RFC 5080 §2.2.1)."""
RESPONSES_MAX = 65_536
"""Answers; beyond it, or a client's share, the oldest is forgotten: its repeat is decided anew, which an
accounting request may be at any time and an Access-Request too."""
EVENTS_MAX = 8_192
"""Requests that are being decided; beyond it, or a client's share, new ones get silence."""
CHOSEN_BY_NAS = IPv4Address("255.255.255.254")
STRANGERS_MAX = 64
"""Addresses of strangers that wait to be named in the log; beyond it the oldest is not."""
SOURCES_MAX = 65_536
"""Addresses whose client is remembered; beyond it all are looked up anew."""

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTerms:
    """What a client may speak of, what its NASes send and how fast they may count: see ``RadiusClient``."""

    imsi_prefixes: tuple[str, ...] = ()
    apns: frozenset[str] = frozenset()
    may_take_over: frozenset[str] = frozenset()
    default_apn: str = ""
    realms: frozenset[str] = frozenset()
    check_passwords: bool = True
    own_addresses: bool = False
    require_event_timestamp: bool = False
    line_rate_kbps: int = 1_000_000
    enforces_speed_class: bool = False


@dataclass(frozen=True, slots=True)
class NasNetwork:
    """The clients of one subnet and the secret that they share with us. ``known_as``: its name for people."""

    network: IPv4Network
    secret: bytes = field(repr=False)
    require_message_authenticator: bool = True
    disconnect_port: int = 3_799
    known_as: str = ""
    terms: ClientTerms = ClientTerms()
    name: str = field(init=False)
    """The network as text, which sessions remember."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.network))
        object.__setattr__(self, "known_as", self.known_as or self.name)


class Service(Enum):
    """Which port a datagram came to; each has its own kinds of requests."""

    AUTHENTICATION = "authentication"
    ACCOUNTING = "accounting"


class AccessRequested(NamedTuple):
    """Somebody asks for access; answer with ``Granted`` or ``Denied``."""

    token: int
    client: NasNetwork
    request: AccessRequest


class AccountingRequested(NamedTuple):
    """A NAS reports; answer with ``Recorded`` once it is durable, or ``NotRecorded``."""

    token: int
    client: NasNetwork
    report: AccountingReport


Event = AccessRequested | AccountingRequested


class Granted(NamedTuple):
    """Access-Accept: the address (``None``: the NAS shall choose, RFC 2865 §5.8), the session's key (Class),
    and how often to report.
    """

    address: IPv4Address | None
    class_: bytes
    interim_interval_s: int


class Denied(NamedTuple):
    """Access-Reject."""

    reason: AttachRefusal


@dataclass(frozen=True, slots=True)
class Recorded:
    """Accounting-Response: what was reported is durable."""


@dataclass(frozen=True, slots=True)
class NotRecorded:
    """Silence: the NAS asks again."""


Outcome = Granted | Denied | Recorded | NotRecorded

_Key = tuple[str, int, int, int, bytes]


class _Pending(NamedTuple):
    key: _Key
    peer: Peer
    service: Service
    packet: Packet
    client: NasNetwork
    arrived: float


class RadiusServer:
    """The machine, for both ports. ``clients``: the longest prefix counts."""

    def __init__(self, clients: Sequence[NasNetwork]) -> None:
        self._clients = sorted(clients, key=lambda client: client.network.prefixlen, reverse=True)
        self._client_at: dict[str, NasNetwork | None] = {}
        self._answered: Kept[_Key, tuple[float, bytes]] = Kept(RESPONSES_MAX)
        self._pending: dict[int, _Pending] = {}
        self._deciding: set[_Key] = set()
        self._places = Places(EVENTS_MAX)
        self._next_token = 0
        self._events: deque[Event] = deque()
        self._outgoing: list[tuple[Service, bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()
        self.strangers: deque[str] = deque(maxlen=STRANGERS_MAX)

    def receive_datagram(self, service: Service, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        client = self._client_of(addr[0])
        if client is None:
            self.dropped["unknown_client"] += 1
            self.strangers.append(addr[0])
            return
        try:
            packet = decode(data)
        except RemoteProtocolError:
            self.dropped["malformed"] += 1
            return
        if fault := _fault(service, packet, client):
            self.dropped[fault] += 1
        elif self._is_new(key := (*addr, packet.code, packet.identifier, packet.authenticator), service, now):
            self._begin(_Pending(key, addr, service, packet, client, now))

    def next_event(self) -> Event | None:
        """The next thing to decide, or nothing."""
        return self._events.popleft() if self._events else None

    def answer(self, token: int, outcome: Outcome) -> None:
        """Answer an event."""
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
                self._respond(pending, Code.ACCESS_ACCEPT, given)
            case Denied():
                self._respond(pending, Code.ACCESS_REJECT, [_words(pending.packet, outcome.reason)])
            case Recorded():
                self._respond(pending, Code.ACCOUNTING_RESPONSE, [])
            case NotRecorded():
                pass

    def datagrams_to_send(self) -> list[tuple[Service, bytes, Peer]]:
        """What to send now, from which port, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # -- inside ---------------------------------------------------------------------------------------

    def _client_of(self, address: str) -> NasNetwork | None:
        if address in self._client_at:
            return self._client_at[address]
        source = IPv4Address(address)
        client = next((client for client in self._clients if source in client.network), None)
        if len(self._client_at) >= SOURCES_MAX:
            self._client_at.clear()
        self._client_at[address] = client
        return client

    def _is_new(self, key: _Key, service: Service, now: float) -> bool:
        """Whether a request is to be decided; one that was answered is answered again (RFC 5080 §2.2.2)."""
        while (oldest := self._answered.oldest()) is not None and oldest[0] + KEPT_S <= now:
            self._answered.pop_oldest()
        if key in self._deciding:
            self.dropped["in_progress"] += 1
            return False
        if (answered := self._answered.get(key)) is not None:
            self._outgoing.append((service, answered[1], (key[0], key[1])))
            return False
        return True

    def _begin(self, pending: _Pending) -> None:
        packet, client = pending.packet, pending.client
        if packet.code == Code.STATUS_SERVER:  # answered as the port's own kind of request is (RFC 5997 §3)
            is_access = pending.service is Service.AUTHENTICATION
            self._respond(pending, Code.ACCESS_ACCEPT if is_access else Code.ACCOUNTING_RESPONSE, [])
            return
        event: Event
        if not self._places.is_free(client.name):
            self.dropped["too_many"] += 1
            return
        self._next_token += 1
        if packet.code == Code.ACCESS_REQUEST:
            request = access_request_of(packet, pending.peer[0], client.secret, client.terms.realms)
            event = AccessRequested(self._next_token, client, request)
        elif (report := accounting_report_of(packet, pending.peer[0], client.terms.realms)) is not None:
            event = AccountingRequested(self._next_token, client, report)
        else:
            self.dropped["status_type_not_supported"] += 1
            return
        self._places.take(client.name)
        self._deciding.add(pending.key)
        self._pending[self._next_token] = pending
        self._events.append(event)

    def _respond(self, pending: _Pending, code: Code, attributes: Iterable[Attribute]) -> None:
        proxied = [(a.PROXY_STATE, value) for value in pending.packet.all(a.PROXY_STATE)]
        data = encode_response(code, pending.packet, [*attributes, *proxied], pending.client.secret)
        self._answered.put(pending.key, pending.client.name, (pending.arrived, data))
        self._outgoing.append((pending.service, data, pending.peer))


def _words(packet: Packet, reason: AttachRefusal) -> Attribute:
    """EAP has its own; Reply-Message may not stand beside it (RFC 3579 §2.6.5)."""
    failure = eap_failure(packet)
    return reply_message(reason) if failure is None else (a.EAP_MESSAGE, failure)


def _fault(service: Service, packet: Packet, client: NasNetwork) -> str:
    """Why a packet gets silence; empty when it is good."""
    code, secret = packet.code, client.secret
    if code == Code.ACCOUNTING_REQUEST and service is Service.ACCOUNTING:
        authentic = is_authentic(packet, secret, NO_AUTHENTICATOR)
        return "" if is_signed(packet, secret) and authentic is not False else "not_authentic"
    if code != Code.STATUS_SERVER and (code != Code.ACCESS_REQUEST or service is Service.ACCOUNTING):
        return "code_not_supported"
    authentic = is_authentic(packet, secret)
    if authentic is None:
        must = client.require_message_authenticator or code == Code.STATUS_SERVER
        must = must or a.EAP_MESSAGE in packet.firsts  # RFC 3579 §3.2
        return "no_message_authenticator" if must or packet.all(a.PROXY_STATE) else ""
    return "" if authentic else "not_authentic"
