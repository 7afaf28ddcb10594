"""The Disconnect-Requests that end a NAS's sessions, without I/O (RFC 5176 §2.1, §3).

Rules:

- One Disconnect-Request for each session, repeated unchanged until it is answered or given up (RFC 5080
  §2.2.1's back-off without its jitter: one client for each NAS needs none).
- Towards one NAS an identifier has one request at a time; a request that finds none free waits its turn.
- Only an authentic answer from the address that was asked counts; everything else is dropped and counted.
- Open requests are bounded for one NAS and in all, and one client has a share (``core.domain.shares``).
- Time is an argument. The caller reads the wall clock for Event-Timestamp once; it goes on with that time.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from ipaddress import IPv4Address
from typing import final

from core.domain.shares import Places
from core.errors import RemoteProtocolError
from radius import attributes as a
from radius.codec import Attribute, Code, Packet, decode, encode_signed_request, is_answer, vendor_attribute
from radius.events import DisconnectFailed, Ending

INITIAL_REPEAT_S = 1.0
REPEAT_S_MAX = 16.0
TRIES_MAX = 6
IDENTIFIERS = 256
WAITING_MAX = 10_000
"""Requests that wait for an identifier of one NAS; beyond it one more is given up."""
OPEN_MAX = 65_536
"""Requests that are not answered yet, those that wait included; beyond it, or a client's share, as well."""
FAILED_MAX = 10_000
"""Failed requests that wait to be reported; beyond it the oldest is not."""

Peer = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Request:
    """``epoch_s`` is the wall clock's time, in seconds since 1970, at the other clock's zero."""

    peer: Peer
    ending: Ending
    secret: bytes = field(repr=False)
    epoch_s: float
    identifier: int = 0
    data: bytes = b""
    tries: int = 0
    is_over: bool = False


@final
class DisconnectClient:
    """The machine; ``outcomes`` counts how its requests ended."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Peer, int], _Request] = {}
        self._waiting: dict[Peer, deque[_Request]] = {}
        self._timers: list[tuple[float, int, _Request]] = []
        """When each is due, as a heap; one that is over leaves it then. The number decides between equals."""
        self._timers_set = 0
        self._last_identifier = 0
        self._places = Places(OPEN_MAX)
        self._outgoing: list[tuple[bytes, Peer]] = []
        self._failed: deque[DisconnectFailed] = deque(maxlen=FAILED_MAX)
        self.outcomes: Counter[str] = Counter()

    def __len__(self) -> int:
        """Requests that are not answered yet."""
        return len(self._places)

    def disconnect(self, ending: Ending, peer: Peer, secret: bytes, now: float, wall: datetime) -> None:
        """Ask the NAS at ``peer`` to end a session (RFC 5176 §2.1); ``wall``: for Event-Timestamp (§6.3)."""
        if len(self._waiting.get(peer, ())) >= WAITING_MAX or not self._places.take(ending.client):
            self._fail(ending, "not_asked")
            return
        request = _Request(peer, ending, secret, wall.timestamp() - now)
        self._waiting.setdefault(peer, deque()).append(request)
        self._send_waiting(peer, now)

    # -- the seam -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Peer, now: float) -> None:
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
            self._on_answer(request, packet, now)

    def next_event(self) -> DisconnectFailed | None:
        """The next failed request; ``None`` without."""
        return self._failed.popleft() if self._failed else None

    def datagrams_to_send(self) -> list[tuple[bytes, Peer]]:
        """Octets to send now, each with its destination."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        while self._timers and self._timers[0][2].is_over:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        """Repeat requests that are due; give up after ``TRIES_MAX``."""
        while (due := self.get_timer()) is not None and due <= now:
            request = heappop(self._timers)[2]
            if request.tries >= TRIES_MAX:
                self._end(request)
                self._fail(request.ending, "not_answered")
                self._send_waiting(request.peer, now)
            else:
                self._send(request, now)

    # -- inside ---------------------------------------------------------------------------------------

    def _on_answer(self, request: _Request, packet: Packet, now: float) -> None:
        self._end(request)
        if packet.code == Code.DISCONNECT_ACK:
            self.outcomes["ended"] += 1
        else:
            self._fail(request.ending, "refused", packet.integer(a.ERROR_CAUSE) or 0)
        self._send_waiting(request.peer, now)

    def _end(self, request: _Request) -> None:
        request.is_over = True
        del self._asked[request.peer, request.identifier]
        self._places.give_back(request.ending.client)

    def _fail(self, ending: Ending, outcome: str, error_cause: int = 0) -> None:
        self.outcomes[outcome] += 1
        self._failed.append(DisconnectFailed(ending, outcome, error_cause))

    def _send_waiting(self, peer: Peer, now: float) -> None:
        waiting = self._waiting.get(peer, deque())
        while waiting and (identifier := self._free_identifier(peer)) is not None:
            request = waiting.popleft()
            request.identifier = identifier
            request.data = encode_signed_request(
                Code.DISCONNECT_REQUEST, identifier, _name(request, now), request.secret
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
        due = now + min(INITIAL_REPEAT_S * 2**request.tries, REPEAT_S_MAX)
        request.tries += 1
        self._timers_set += 1
        heappush(self._timers, (due, self._timers_set, request))
        self._outgoing.append((request.data, request.peer))


def _name(request: _Request, now: float) -> list[Attribute]:
    """The session and its NAS as the NAS named them: another attribute may be unknown to it (RFC 5176 §3,
    Error-Cause 401 and 503). And the time (§6.3).
    """
    nas, attributes = request.ending.nas, []
    texts = (
        (a.USER_NAME, nas.user_name),
        (a.NAS_IDENTIFIER, nas.nas_identifier),
        (a.ACCT_SESSION_ID, nas.acct_session_id),
    )
    attributes += [(type_, text.encode()) for type_, text in texts if text]
    addresses = ((a.NAS_IP_ADDRESS, nas.ip_address), (a.FRAMED_IP_ADDRESS, nas.framed_address))
    attributes += [(type_, IPv4Address(text).packed) for type_, text in addresses if text]
    if nas.says_imsi:
        imsi = request.ending.imsi.encode()
        attributes.append(vendor_attribute(a.TGPP_IMSI, imsi))
    return [*attributes, (a.EVENT_TIMESTAMP, int(request.epoch_s + now).to_bytes(4, "big"))]
