"""Ending a NAS's sessions from here, without I/O (RFC 5176 §2.1, §3).

Rules:

- One Disconnect-Request for each session, repeated unchanged until it is answered or given up (RFC 5080
  §2.2.1's back-off without its jitter: there is one of us for each NAS).
- An identifier is used once at a time towards one NAS; who finds none free waits its turn.
- Only an authentic answer from the address that was asked counts; everything else is dropped and counted.
- Open requests are bounded for one NAS and in all, and one client has a share (``core.domain.shares``).
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address
from typing import NamedTuple

from core.domain.session import Nas, Session
from core.domain.shares import Places
from core.errors import RemoteProtocolError
from radius import attributes as a
from radius.codec import Attribute, Code, decode, encode_signed_request, is_answer, vendor_attribute

INITIAL_REPEAT_S = 1.0
REPEAT_S_MAX = 16.0
TRIES_MAX = 6
IDENTIFIERS = 256
WAITING_MAX = 10_000
"""Requests that wait for an identifier of one NAS; beyond it they are given up: it does not answer."""
OPEN_MAX = 65_536
"""Requests that are not answered yet, those that wait included; beyond it, or a client's share, as well."""
FAILED_MAX = 10_000
"""Requests whose bad end waits to be told; beyond it the oldest is not."""

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ending:
    """The session that shall end, as its NAS named it; ``session`` when it was one of ours, ``client`` is
    whose NAS it is.
    """

    imsi: str
    nas: Nas
    client: str = ""
    session: Session | None = None


class Ended(NamedTuple):
    """How a request ended, if not by an acknowledgement; ``error_cause`` as in RFC 5176 §3.5, 0: none."""

    ending: Ending
    outcome: str
    error_cause: int = 0


@dataclass(slots=True)
class _Request:
    peer: Peer
    ending: Ending
    secret: bytes = field(repr=False)
    data: bytes = b""
    tries: int = 0
    due: float = 0.0


class DisconnectClient:
    """The machine; ``outcomes`` counts how its requests ended, ``failed`` are those that ended in vain."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Peer, int], _Request] = {}
        self._waiting: dict[Peer, deque[_Request]] = {}
        self._last_identifier = 0
        self._places = Places(OPEN_MAX)
        self._outgoing: list[tuple[bytes, Peer]] = []
        self.outcomes: Counter[str] = Counter()
        self.failed: deque[Ended] = deque(maxlen=FAILED_MAX)

    def __len__(self) -> int:
        """Requests that are not answered yet."""
        return len(self._places)

    def disconnect(self, ending: Ending, peer: Peer, secret: bytes, now: float, wall: datetime) -> None:
        """Ask the NAS at ``peer`` to end a session. ``wall`` is what a request may not be replayed after."""
        if len(self._waiting.get(peer, ())) >= WAITING_MAX or not self._places.take(ending.client):
            self._fail(ending, "not_asked")
            return
        self._waiting.setdefault(peer, deque()).append(_Request(peer, ending, secret))
        self._send_waiting(peer, now, wall)

    def receive_datagram(self, data: bytes, addr: Peer, now: float, wall: datetime) -> None:
        """Take one datagram in; never raises."""
        try:
            packet = decode(data)
        except RemoteProtocolError:
            self.outcomes["malformed"] += 1
            return
        request = self._asked.get((addr, packet.identifier))
        if request is None:
            self.outcomes["unasked"] += 1
        elif not is_answer(packet, request.data[4:20], request.secret):
            self.outcomes["not_authentic"] += 1
        elif packet.code in (Code.DISCONNECT_ACK, Code.DISCONNECT_NAK):
            self._end(addr, packet.identifier)
            if packet.code == Code.DISCONNECT_ACK:
                self.outcomes["ended"] += 1
            else:
                self._fail(request.ending, "refused", packet.integer(a.ERROR_CAUSE) or 0)
            self._send_waiting(addr, now, wall)

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        return min((request.due for request in self._asked.values()), default=None)

    def handle_timer(self, now: float, wall: datetime) -> None:
        """Repeat what is due, give up what was repeated enough."""
        for key, request in list(self._asked.items()):
            if request.due > now:
                continue
            if request.tries >= TRIES_MAX:
                self._end(*key)
                self._fail(request.ending, "not_answered")
                self._send_waiting(request.peer, now, wall)
            else:
                self._send(request, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """What to send now, and where."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # -- inside ---------------------------------------------------------------------------------------

    def _end(self, peer: Peer, identifier: int) -> None:
        self._places.give_back(self._asked.pop((peer, identifier)).ending.client)

    def _fail(self, ending: Ending, outcome: str, error_cause: int = 0) -> None:
        self.outcomes[outcome] += 1
        self.failed.append(Ended(ending, outcome, error_cause))

    def _send_waiting(self, peer: Peer, now: float, wall: datetime) -> None:
        waiting = self._waiting.get(peer, deque())
        while waiting and (identifier := self._free_identifier(peer)) is not None:
            request = waiting.popleft()
            attributes = _name(request.ending, wall)
            request.data = encode_signed_request(
                Code.DISCONNECT_REQUEST, identifier, attributes, request.secret
            )
            self._asked[peer, identifier] = request
            self._send(request, now)
        if not waiting:
            self._waiting.pop(peer, None)

    def _free_identifier(self, peer: Peer) -> int | None:
        for step in range(1, IDENTIFIERS + 1):
            identifier = (self._last_identifier + step) % IDENTIFIERS
            if (peer, identifier) not in self._asked:
                self._last_identifier = identifier
                return identifier
        return None

    def _send(self, request: _Request, now: float) -> None:
        request.due = now + min(INITIAL_REPEAT_S * 2**request.tries, REPEAT_S_MAX)
        request.tries += 1
        self._outgoing.append((request.data, request.peer))


def _name(ending: Ending, wall: datetime) -> list[Attribute]:
    """The session and its NAS in the NAS's own words, for what it never said it may not know (RFC 5176 §3,
    401 and 503), and when this was asked (§6.3).
    """
    nas, attributes = ending.nas, []
    texts = (
        (a.USER_NAME, nas.user_name),
        (a.NAS_IDENTIFIER, nas.nas_identifier),
        (a.ACCT_SESSION_ID, nas.acct_session_id),
    )
    attributes += [(type_, text.encode()) for type_, text in texts if text]
    addresses = ((a.NAS_IP_ADDRESS, nas.ip_address), (a.FRAMED_IP_ADDRESS, nas.framed_address))
    attributes += [(type_, IPv4Address(text).packed) for type_, text in addresses if text]
    if nas.says_imsi:
        attributes.append(vendor_attribute(a.VENDOR_3GPP, a.TGPP_IMSI, ending.imsi.encode()))
    return [*attributes, (a.EVENT_TIMESTAMP, int(wall.timestamp()).to_bytes(4, "big"))]
