"""The RADIUS server's side of a conversation, without I/O (RFC 2865, RFC 2866, RFC 5080 §2.2.2, RFC 5997).

Rules:

- ``receive_datagram`` takes octets; ``next_event`` gives out what is to be decided, ``answer`` takes the
  decision; ``datagrams_to_send`` gives out octets. Time is an argument.
- A sender that is no client gets silence, and so does a packet that is not authentic: no answer confirms a
  guess.
- A repeated request gets the same octets again, or silence while it is being decided (RFC 5080 §2.2.2).
- Nothing that a peer sends raises; what gets silence is counted in ``dropped`` by reason.
- No client fills a table for the others (``core.domain.shares``).
"""

import struct
from collections import Counter, deque
from enum import Enum
from ipaddress import IPv4Address
from typing import final

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.shares import Kept, Places
from core.errors import RemoteProtocolError
from radius import attributes as a
from radius.codec import (
    HEADER_BYTES,
    NO_AUTHENTICATOR,
    PACKET_BYTES_MAX,
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
    Token,
)
from radius.mapping import access_request_of, accounting_report_of, reply_message
from radius.networks import NasNetwork, NasNetworks

KEPT_S = 30.0
"""How long an answer is kept for repeats: longer than a client repeats (RFC 5080 §2.2.1)."""
SWEEP_S = 1.0
"""Expired answers are forgotten together, once in this time at most."""
RESPONSES_MAX = 65_536
"""Answers that are kept; beyond it, or a client's share, the oldest is forgotten, and its repeat is decided
anew: that changes nothing for accounting, and an Access-Request replaces its own reservation."""
EVENTS_MAX = 8_192
"""Requests that are being decided; beyond it, or a client's share, new ones get silence."""
PROXY_STATE_BYTES_MAX = PACKET_BYTES_MAX - HEADER_BYTES - 18 - 255
"""Of all Proxy-States of a request; one with more gets silence. The answer repeats them beside
Message-Authenticator and the longest of its own attributes."""
CHOSEN_BY_NAS = IPv4Address("255.255.255.254")
"""Framed-IP-Address when the NAS is to choose the address (RFC 2865 §5.8)."""
STRANGERS_MAX = 64
"""Unknown senders that wait to be reported; beyond it the oldest is not."""
_GRANTED = struct.Struct(">BBIBBI")
"""Framed-IP-Address and Acct-Interim-Interval."""

Peer = tuple[str, int]


class ServerPort(Enum):
    """The ports of a RADIUS server; each has its own kinds of requests (RFC 2865 §3, RFC 2866 §3)."""

    AUTHENTICATION = "authentication"
    ACCOUNTING = "accounting"


class _Request(Struct, frozen=True):
    """``proxy_state`` are the attributes that the answer repeats (RFC 2865 §5.33), encoded."""

    token: Token
    packet: Packet
    client: NasNetwork
    proxy_state: bytes


@final
class RadiusServer:
    """The machine of one port."""

    def __init__(self, port: ServerPort, networks: NasNetworks) -> None:
        self._port = port
        self._networks = networks
        self._answered: Kept[Token, tuple[float, bytes]] = Kept(RESPONSES_MAX)
        """Until when each answer is kept, and its octets."""
        self._sweep_at: float | None = None
        self._deciding: dict[Token, _Request] = {}
        self._places = Places(EVENTS_MAX)
        self._events: deque[ServerEvent] = deque()
        self._strangers: deque[str] = deque(maxlen=STRANGERS_MAX)
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.dropped: Counter[str] = Counter()

    # -- the seam -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
        """Take one datagram in; never raises."""
        client = self._networks[addr[0]]
        if client is None:
            self.dropped["unknown_client"] += 1
            self._strangers.append(addr[0])
            return
        try:
            packet = decode(data)
        except RemoteProtocolError:
            self.dropped["malformed"] += 1
            return
        proxy_state = _proxy_state(packet) if a.PROXY_STATE in packet.firsts else b""
        if fault := _fault(self._port, packet, client, proxy_state):
            self.dropped[fault] += 1
            return
        token = (*addr, packet.code, packet.identifier, packet.authenticator)
        if not self._is_repeat(token, now):
            self._begin(_Request(token, packet, client, proxy_state), now)

    def next_event(self) -> ServerEvent | None:
        """The next request to decide, or unknown sender to report; ``None`` without."""
        if self._events:
            return self._events.popleft()
        return StrangerHeard(self._strangers.popleft()) if self._strangers else None

    def answer(self, token: Token, outcome: Outcome, now: float) -> None:
        """Answer a request."""
        request = self._deciding.pop(token)
        self._places.give_back(request.client.name)
        match outcome:
            case Granted():
                self._respond(request, Code.ACCESS_ACCEPT, _granted(outcome), now)
            case Denied():
                words = encode_attributes([_words(request.packet, outcome.reason)])
                self._respond(request, Code.ACCESS_REJECT, words, now)
            case Recorded():
                self._respond(request, Code.ACCOUNTING_RESPONSE, b"", now)
            case NotRecorded():
                pass

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """Octets to send now, each with its destination."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return self._sweep_at

    def handle_timer(self, now: float) -> None:
        """Forget expired answers."""
        while (oldest := self._answered.oldest()) is not None and oldest[0] <= now:
            self._answered.pop_oldest()
        self._sweep_at = None if oldest is None else max(oldest[0], now + SWEEP_S)

    # -- inside ---------------------------------------------------------------------------------------

    def _is_repeat(self, token: Token, now: float) -> bool:
        """Whether a request came before; one that was answered is answered again (RFC 5080 §2.2.2)."""
        if token in self._deciding:
            self.dropped["in_progress"] += 1
            return True
        answered = self._answered.get(token)
        if answered is None or answered[0] <= now:
            return False
        self._outgoing.append((answered[1], token[:2]))
        return True

    def _begin(self, request: _Request, now: float) -> None:
        """Give a new request out to be decided."""
        token, packet, client = request.token, request.packet, request.client
        if packet.code == Code.STATUS_SERVER:  # answered as the port's own kind of request is (RFC 5997 §3)
            is_access = self._port is ServerPort.AUTHENTICATION
            code = Code.ACCESS_ACCEPT if is_access else Code.ACCOUNTING_RESPONSE
            self._respond(request, code, b"", now)
            return
        if not self._places.take(client.name):
            self.dropped["too_many"] += 1
            return
        source, realms = token[0], client.policy.realms
        event: ServerEvent
        if packet.code == Code.ACCESS_REQUEST:
            asked = access_request_of(packet, source, client.secret, realms)
            event = AccessRequested(token, client, asked)
        elif (report := accounting_report_of(packet, source, realms)) is not None:
            event = AccountingRequested(token, client, report, now)
        else:
            self._places.give_back(client.name)
            self.dropped["status_type_missing"] += 1
            return
        self._deciding[token] = request
        self._events.append(event)

    def _respond(self, request: _Request, code: Code, body: bytes, now: float) -> None:
        token, client, kept_until = request.token, request.client, now + KEPT_S
        data = encode_response(code, request.packet, body + request.proxy_state, client.secret)
        self._answered.put(token, client.name, (kept_until, data))
        if self._sweep_at is None:
            self._sweep_at = kept_until
        self._outgoing.append((data, token[:2]))


def _granted(granted: Granted) -> bytes:
    """The attributes of an Access-Accept."""
    address, interval_s, class_ = granted.address or CHOSEN_BY_NAS, granted.interim_interval_s, granted.class_
    fixed = _GRANTED.pack(a.FRAMED_IP_ADDRESS, 6, int(address), a.ACCT_INTERIM_INTERVAL, 6, interval_s)
    return fixed + bytes((a.CLASS, len(class_) + 2)) + class_


def _proxy_state(packet: Packet) -> bytes:
    """All of a request's, in order, unchanged (RFC 2865 §5.33)."""
    return encode_attributes((a.PROXY_STATE, value) for value in packet.all(a.PROXY_STATE))


def _words(packet: Packet, reason: AttachRefusal) -> Attribute:
    """Reply-Message, or EAP-Failure, beside which Reply-Message may not stand (RFC 3579 §2.6.5)."""
    failure = eap_failure(packet)
    return reply_message(reason) if failure is None else (a.EAP_MESSAGE, failure)


def _fault(port: ServerPort, packet: Packet, client: NasNetwork, proxy_state: bytes) -> str:
    """Why a packet gets silence; empty when it is good."""
    code, secret = packet.code, client.secret
    if proxy_state and len(proxy_state) > PROXY_STATE_BYTES_MAX:
        return "proxy_state_too_long"
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
